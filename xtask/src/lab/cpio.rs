//! Writing initramfs archives.
//!
//! Linux, Documentation/driver-api/early-userspace/buffer-format.rst: "newc".

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// An archive in memory.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a file, and the folders above it.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.parents(name);
        self.entry(name, 0o100_000 | mode, content);
    }

    /// Adds a copy of a file of the host's.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn copy(&mut self, name: &str, mode: u32, from: &Path) -> io::Result<()> {
        self.file(name, mode, &fs::read(from)?);
        Ok(())
    }

    /// Adds an empty folder.
    pub(crate) fn folder(&mut self, name: &str) {
        if self.folders.insert(name.to_owned()) {
            self.parents(name);
            self.entry(name, 0o40_755, &[]);
        }
    }

    fn parents(&mut self, name: &str) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let size = content.len();
        // Inode, mode, uid, gid, links, time, size, device numbers, name
        // size, checksum.
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            size as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"12345");
        archive.file("a/b/d", 0o644, b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let headers: Vec<_> = text.split("070701").skip(1).collect();
        let names: Vec<_> = headers
            .iter()
            .map(|h| h[104..].split('\0').next().unwrap())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "TRAILER!!!"]);
        assert_eq!(&headers[2][8..16], "000081ed");
    }
}
