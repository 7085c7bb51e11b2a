//! Shim and GRUB from images that carry them for bootupd.
//!
//! bootupd keeps the vendor's signed programs as they belong on the ESP, under
//! [`UPDATES`] or, since its version 0.2.28, under [`COMPONENTS`]; they are
//! copied as they are. GRUB reads a `grub.cfg` in the vendor's directory, which
//! has one entry for the kernel on the ESP: that needs no module that only some
//! builds of GRUB have.

use std::fmt::Write as _;

use super::bls::Entry;
use super::command_line;
use super::kernel;
use super::version::{self, insert_descending};
use super::{BootError, EspFile, Image};
use crate::tree::{Kind, TreeError};

/// Where bootupd keeps what belongs into the ESP's `EFI` directory.
pub(super) const UPDATES: &str = "/usr/lib/bootupd/updates/EFI";

/// Where the packages of shim and GRUB put it themselves: below
/// `COMPONENT/VERSION/EFI`.
pub(super) const COMPONENTS: &str = "/usr/lib/efi";

/// What an image has for its ESP.
pub(super) struct Grub {
    /// The programs.
    pub(super) files: Vec<Program>,
    /// Directories on the ESP where GRUB looks for `grub.cfg`.
    directories: Vec<String>,
}

/// A file for the ESP.
pub(super) struct Program {
    /// Where it is in the image.
    pub(super) origin: String,
    pub(super) file: EspFile,
}

/// Finds shim and GRUB in the image.
pub(super) fn find(image: Image<'_>) -> Result<Option<Grub>, BootError> {
    let mut found = Grub {
        files: Vec::new(),
        directories: Vec::new(),
    };
    found.add(image, UPDATES)?;
    if found.directories.is_empty() {
        for component in kernel::names(image.tree, COMPONENTS.as_bytes())? {
            let Ok(component) = std::str::from_utf8(component) else {
                continue;
            };
            let component = format!("{COMPONENTS}/{component}");
            let mut versions: Vec<&str> = Vec::new();
            for version in kernel::names(image.tree, component.as_bytes())? {
                if let Ok(version) = std::str::from_utf8(version) {
                    insert_descending(&mut versions, version, |a, b| {
                        version::compare(a.as_bytes(), b.as_bytes())
                    });
                }
            }
            if let Some(newest) = versions.first() {
                found.add(image, &format!("{component}/{newest}/EFI"))?;
            }
        }
    }
    found.directories.sort();
    found.directories.dedup();
    Ok((!found.directories.is_empty()).then_some(found))
}

impl Grub {
    /// Takes everything below a directory of the image as the ESP's `EFI`,
    /// but for what an earlier one has.
    fn add(&mut self, image: Image<'_>, origin: &str) -> Result<(), BootError> {
        let root = match image.tree.resolve(origin.as_bytes()) {
            Ok(root) => root,
            Err(TreeError::NotFound(_) | TreeError::NotADirectory(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for (path, id) in image.tree.walk_from(root) {
            // FAT holds no other names; a program of such a name is not for it.
            let Ok(name) = String::from_utf8(path) else {
                continue;
            };
            let Kind::Regular(content) = &image.tree.inode(id).kind else {
                continue;
            };
            let origin = format!("{origin}/{name}");
            let path = format!("EFI/{name}");
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let name = name.to_ascii_lowercase();
            if name.starts_with("grub") && name.ends_with(".efi") {
                self.directories.push(directory.to_owned());
            }
            let known = |other: &Program| other.file.path.eq_ignore_ascii_case(&path);
            if name != "grub.cfg" && !self.files.iter().any(known) {
                let content = content.clone();
                let file = EspFile { path, content };
                self.files.push(Program { origin, file });
            }
        }
        Ok(())
    }
}

impl Grub {
    /// The configuration files that start `entry`, and what they cannot
    /// express.
    pub(super) fn configuration(&self, entry: &Entry) -> (Vec<EspFile>, Vec<String>) {
        let (text, warnings) = configuration(entry);
        let files = self.directories.iter().map(|directory| EspFile {
            path: format!("{directory}/grub.cfg"),
            content: crate::tree::FileContent::literal(text.clone().into_bytes()),
        });
        (files.collect(), warnings)
    }
}

/// One menu entry. GRUB's root is the file system that it was started from
/// (GRUB manual, "root" and "Writing your own configuration file").
fn configuration(entry: &Entry) -> (String, Vec<String>) {
    let mut warnings = Vec::new();
    let mut arguments = String::new();
    let options = entry.options.as_deref().unwrap_or_default();
    for argument in command_line::parse("options", options).unwrap_or_default() {
        // GRUB puts double quotes around an argument with spaces, and a
        // backslash before every quote and backslash inside.
        let bare = match (argument.key(), argument.value()) {
            (key, Some(value)) => format!("{key}={value}"),
            (key, None) => key.to_owned(),
        };
        if bare.contains(['"', '\'', '\\']) {
            warnings.push(format!(
                "GRUB changes quotes and backslashes in the kernel argument {argument}"
            ));
        }
        arguments.push(' ');
        arguments.push_str(&quote(&bare));
    }
    let title = entry.title.as_deref().unwrap_or("Linux");
    let mut text = format!(
        "set timeout=0\nset default=0\nmenuentry {} --id {} {{\n",
        quote(title),
        quote(&entry.id)
    );
    // Writing to a String does not fail.
    if let Some(linux) = &entry.linux {
        let _ = writeln!(text, "\tlinux {}{arguments}", quote(&format!("/{linux}")));
    }
    if !entry.initrd.is_empty() {
        let paths: Vec<_> = entry
            .initrd
            .iter()
            .map(|p| quote(&format!("/{p}")))
            .collect();
        let _ = writeln!(text, "\tinitrd {}", paths.join(" "));
    }
    text.push_str("}\n");
    (text, warnings)
}

/// One word of GRUB's language (GRUB manual, "Quoting").
fn quote(word: &str) -> String {
    let word = word.replace(char::is_control, " ").replace('\'', "'\\''");
    format!("'{word}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_quotes_what_it_is_given() {
        let entry = Entry {
            id: "debian-6.1".into(),
            title: Some("Bob's\n}\nLinux $x".into()),
            linux: Some("EFI/debian/6.1/linux".into()),
            initrd: vec!["EFI/debian/6.1/initrd".into()],
            options: Some("rw x=$y;z dyndbg=\"file a.c +p\" a=it's".into()),
            ..Entry::default()
        };
        let (text, warnings) = configuration(&entry);
        assert_eq!(
            text,
            "set timeout=0\nset default=0\n\
             menuentry 'Bob'\\''s } Linux $x' --id 'debian-6.1' {\n\
             \tlinux '/EFI/debian/6.1/linux' 'rw' 'x=$y;z' 'dyndbg=file a.c +p' 'a=it'\\''s'\n\
             \tinitrd '/EFI/debian/6.1/initrd'\n}\n"
        );
        assert_eq!(
            warnings,
            ["GRUB changes quotes and backslashes in the kernel argument a=it's"]
        );
    }
}
