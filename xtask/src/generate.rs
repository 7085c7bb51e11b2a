//! Files that are made of the code and kept in the repository: man pages,
//! shell completions and the definitions of the custom resources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{paths, proc, programs};

/// What is kept: the examples that write it to a folder, and where.
const KEPT: [(&[&str], &str); 2] = [
    (&["generate", "generate-plugin"], "docs/generated"),
    (&["crds"], "templates/cluster/crds"),
];

/// Writes the generated files; with `check`, only compares and fails if any
/// would change.
pub(crate) fn run(check: bool) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    let programs = programs::build()?.join("examples");
    for (examples, kept) in KEPT {
        let fresh = tempfile::tempdir()?;
        let dir = fresh.path();
        for example in examples {
            let example = programs.join(example);
            proc::run(cmd!(sh, "{example} {dir}"))?;
        }
        let (new, old) = (files(dir)?, files(&paths::workspace().join(kept))?);
        match check {
            true => compare(kept, &new, &old)?,
            false => replace(kept, new, &old)?,
        }
    }
    Ok(())
}

fn replace(kept: &str, new: Files, old: &Files) -> Result<()> {
    let kept = paths::workspace().join(kept);
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        fs::remove_file(kept.join(path))?;
    }
    for (path, bytes) in new {
        let path = kept.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&kept))?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn compare(kept: &str, new: &Files, old: &Files) -> Result<()> {
    let mut changed: Vec<_> = new
        .iter()
        .filter(|(path, bytes)| old.get(*path) != Some(bytes))
        .map(|(path, _)| path)
        .chain(old.keys().filter(|path| !new.contains_key(*path)))
        .map(|path| path.display().to_string())
        .collect();
    changed.sort();
    if !changed.is_empty() {
        bail!(
            "run `cargo xtask generate` and commit; out of date in {kept}: {}",
            changed.join(", ")
        );
    }
    Ok(())
}

/// All files under `dir`, one folder deep, by their path from it.
fn files(dir: &Path) -> Result<Files> {
    let mut found = Files::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = PathBuf::from(entry.file_name());
            found.extend(
                files(&entry.path())?
                    .into_iter()
                    .map(|(p, b)| (name.join(p), b)),
            );
        } else {
            found.insert(entry.file_name().into(), fs::read(entry.path())?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_new_and_left_over_files_are_all_named() {
        let files = |list: &[(&str, &str)]| -> Files {
            let owned = list.iter().map(|(p, b)| (p.into(), b.as_bytes().to_vec()));
            owned.collect()
        };
        let old = files(&[("same", "1"), ("changed", "1"), ("left-over", "1")]);
        let new = files(&[("same", "1"), ("changed", "2"), ("new", "1")]);
        let error = compare("docs", &new, &old).unwrap_err().to_string();
        assert!(error.ends_with("changed, left-over, new"), "{error}");
        compare("docs", &new, &new).unwrap();
    }
}
