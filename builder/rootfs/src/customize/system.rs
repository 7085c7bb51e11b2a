//! The system's name and identity, and what the builder of the image left.

use std::str::FromStr;

use super::editor::{EditError, Editor, lines, whole_lines};
use crate::tree::{Inode, Kind};

/// A name for a system, as hostname(5) wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(String);

/// A text that is no host name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no host name: letters, digits and - in labels with dots between, \
     64 characters at most"
)]
pub struct HostnameError(String);

impl Hostname {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if text.len() > 64 || !text.split('.').all(label) {
            return Err(HostnameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What becomes of /etc/machine-id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MachineId {
    /// An identity in the image is emptied, so that each machine gets its own
    /// when it boots first; "uninitialized" stays, as the image's author then
    /// wants what machine-id(5) calls first boot.
    #[default]
    Fresh,
    /// The image's is kept.
    Keep,
}

/// Writes /etc/hostname, and the name into /etc/hosts if the image has one:
/// sudo and others look it up.
pub(super) fn set_hostname(editor: &mut Editor<'_>, name: &Hostname) -> Result<(), EditError> {
    let name = name.as_str();
    // A link would be of systemd's making and point to another name.
    if editor.file("etc/hostname")?.is_none() {
        editor.remove("etc/hostname");
    }
    editor.write("etc/hostname", format!("{name}\n"), 0o644)?;
    let Some(hosts) = editor.read("etc/hosts")? else {
        return Ok(());
    };
    let known = lines(&hosts)
        .filter_map(|line| str::from_utf8(line.split(|&b| b == b'#').next()?).ok())
        .any(|line| line.split_whitespace().skip(1).any(|word| word == name));
    if known {
        return Ok(());
    }
    let mut text = whole_lines(hosts);
    text.extend_from_slice(format!("127.0.1.1\t{name}").as_bytes());
    if let Some((short, _)) = name.split_once('.') {
        text.extend_from_slice(format!(" {short}").as_bytes());
    }
    text.push(b'\n');
    editor.write("etc/hosts", text, 0o644)?;
    Ok(())
}

/// See [`MachineId`]. An empty file is filled at boot, as a missing one is,
/// but does not make systemd ask questions on the console and reset which
/// units are enabled, as machine-id(5), "First Boot Semantics", has it.
pub(super) fn set_machine_id(editor: &mut Editor<'_>, policy: MachineId) -> Result<(), EditError> {
    const PATH: &str = "etc/machine-id";
    const DBUS: &str = "var/lib/dbus/machine-id";
    if policy == MachineId::Keep {
        return Ok(());
    }
    let content = editor.read(PATH)?;
    let content = content.as_deref().map(<[u8]>::trim_ascii);
    match content {
        Some(b"" | b"uninitialized") => {}
        Some(_) => {
            editor.write(PATH, "", 0o444)?;
        }
        None => {
            if editor.named(PATH).is_none() && editor.exists("usr/lib/systemd/systemd") {
                editor.write(PATH, "", 0o444)?;
            }
        }
    }
    // dbus-daemon reads its own file first; as Debian, let it be a link.
    let own_id = match editor.named(DBUS).map(|id| &editor.tree.inode(id).kind) {
        Some(Kind::Regular(file)) => file.size > 0,
        _ => false,
    };
    if own_id {
        let dir = editor.directory(b"var/lib/dbus")?;
        let link = Inode::symlink(b"/etc/machine-id", editor.time);
        editor.tree.insert(dir, b"machine-id", link)?;
    }
    Ok(())
}

/// Removes what tells a system that it runs in a container, and the empty
/// resolv.conf that builders mount over while they run.
pub(super) fn forget_builder(editor: &mut Editor<'_>) -> Result<(), EditError> {
    // systemd looks for them, and in a container leaves devices alone.
    for path in [".dockerenv", "run/.containerenv"] {
        editor.remove(path);
    }
    const RESOLV: &str = "etc/resolv.conf";
    let Some(id) = editor.named(RESOLV) else {
        return Ok(());
    };
    let empty = matches!(&editor.tree.inode(id).kind, Kind::Regular(file) if file.size == 0);
    // Without resolved, whoever configures the network writes the file.
    if empty && is_enabled(editor, "systemd-resolved.service") {
        let dir = editor.directory(b"etc")?;
        let link = Inode::symlink(b"../run/systemd/resolve/stub-resolv.conf", editor.time);
        editor.tree.insert(dir, b"resolv.conf", link)?;
    }
    Ok(())
}

/// Whether the unit is there and a target wants it.
fn is_enabled(editor: &Editor<'_>, unit: &str) -> bool {
    editor.exists(&format!("usr/lib/systemd/system/{unit}"))
        && ["multi-user", "sysinit"].iter().any(|target| {
            ["etc", "usr/lib"].iter().any(|at| {
                // Links to units often lead nowhere in the image's own /etc.
                let wants = format!("{at}/systemd/system/{target}.target.wants/{unit}");
                editor.named(&wants).is_some()
            })
        })
}

/// Warns of entries of fstab(5) for devices that this disk does not have.
///
/// No fstab is written: the root comes from the kernel command line, and
/// systemd-gpt-auto-generator mounts the ESP.
pub(super) fn check_fstab(editor: &mut Editor<'_>) -> Result<(), EditError> {
    let Some(fstab) = editor.read("etc/fstab")? else {
        return Ok(());
    };
    for line in lines(&fstab) {
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[device, mount_point, ref rest @ ..] = words.as_slice() else {
            continue;
        };
        let names_device = ["/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="]
            .iter()
            .any(|prefix| device.starts_with(prefix));
        let options = rest.get(1).copied().unwrap_or("");
        let optional = options
            .split(',')
            .any(|option| matches!(option, "noauto" | "nofail"));
        if device.starts_with('#') || !names_device || optional {
            continue;
        }
        let text = format!(
            "/etc/fstab mounts {device} on {mount_point}: if the system has no such device, \
             it waits for it at boot; remove the line or add the option nofail",
            device = device.escape_debug(),
            mount_point = mount_point.escape_debug()
        );
        editor.tree.warn(text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_labels_with_dots_between() {
        for text in ["a", "web-1", "Web.example.org", "1"] {
            assert_eq!(text.parse::<Hostname>().unwrap().as_str(), text);
        }
        let long = ["x".repeat(40), "y".repeat(30)].join(".");
        let long_label = "x".repeat(64);
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "a b",
            "ä",
            "a\n",
            &long,
            &long_label,
        ] {
            assert!(text.parse::<Hostname>().is_err(), "{text}");
        }
    }
}
