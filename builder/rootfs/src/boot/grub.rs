//! Shim and GRUB from images that carry them for bootupd.
//!
//! bootupd keeps the vendor's signed programs as they belong on the ESP,
//! under [`UPDATES`]; they are copied as they are. GRUB reads a `grub.cfg` in
//! the vendor's directory, which has one entry for the kernel on the ESP:
//! that needs no module that only some builds of GRUB have.

use std::fmt::Write as _;

use super::bls::Entry;
use super::command_line;
use super::{BootError, EspFile, Image};
use crate::tree::{Kind, TreeError};

/// Where bootupd keeps what belongs into the ESP's `EFI` directory.
pub(super) const UPDATES: &str = "/usr/lib/bootupd/updates/EFI";

/// What an image has for its ESP.
pub(super) struct Grub {
    /// The programs; paths on the ESP.
    pub(super) files: Vec<EspFile>,
    /// Directories on the ESP where GRUB looks for `grub.cfg`.
    directories: Vec<String>,
}

/// Finds shim and GRUB in the image.
pub(super) fn find(image: Image<'_>) -> Result<Option<Grub>, BootError> {
    let root = match image.tree.resolve(UPDATES.as_bytes()) {
        Ok(root) => root,
        Err(TreeError::NotFound(_) | TreeError::NotADirectory(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut found = Grub {
        files: Vec::new(),
        directories: Vec::new(),
    };
    for (path, id) in image.tree.walk_from(root) {
        // FAT holds no other names; a program of such a name is not for it.
        let Ok(path) = String::from_utf8(path) else {
            continue;
        };
        let Kind::Regular(content) = &image.tree.inode(id).kind else {
            continue;
        };
        let path = format!("EFI/{path}");
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let name = name.to_ascii_lowercase();
        if name.starts_with("grub") && name.ends_with(".efi") {
            found.directories.push(directory.to_owned());
        }
        if name != "grub.cfg" {
            found.files.push(EspFile {
                content: content.clone(),
                path,
            });
        }
    }
    found.directories.dedup();
    Ok((!found.directories.is_empty()).then_some(found))
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
