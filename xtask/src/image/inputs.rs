//! Naming an image by all that goes into it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A running hash over the inputs of one image.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    name: &'static str,
    hash: Sha256,
}

impl Inputs {
    /// Starts with nothing, for an image of this name.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            hash: Sha256::new(),
        }
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text);
        self
    }

    /// Adds the names, modes and contents of all files in a folder.
    pub(crate) fn dir(&mut self, dir: &Path) -> Result<&mut Self> {
        let mut entries: Vec<_> = fs::read_dir(dir)
            .with_context(|| format!("cannot read {}", dir.display()))?
            .collect::<Result<_, _>>()?;
        entries.sort_by_key(|e| e.file_name());
        for entry in entries {
            self.text(&entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.dir(&entry.path())?;
            } else {
                self.text(&format!(
                    "{:o}",
                    entry.metadata()?.permissions().mode() & 0o111
                ));
                self.text(&String::from_utf8_lossy(&fs::read(entry.path())?));
            }
        }
        self.text("end of folder");
        Ok(self)
    }

    /// The image's name and tag: `localhost/bootwright/NAME:HASH`.
    pub(crate) fn tag(&self) -> String {
        let digest = self.hash.clone().finalize();
        let hex: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("localhost/bootwright/{}:{hex}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_changes_with_what_goes_in_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Containerfile"), "FROM a").unwrap();
        let tag = |text: &str| {
            let mut inputs = Inputs::new("x");
            inputs.text(text).dir(dir.path()).unwrap();
            inputs.tag()
        };
        let first = tag("1");
        assert_eq!(first, tag("1"));
        assert_ne!(first, tag("2"));
        fs::write(dir.path().join("Containerfile"), "FROM b").unwrap();
        assert_ne!(first, tag("1"));
    }
}
