//! Makes tars entry by entry, nasty ones included.

use tar::{Builder, EntryType, Header};

/// A tar in the making. Attributes apply to the entries that follow.
pub struct Tarball {
    builder: Builder<Vec<u8>>,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    pax: Vec<(String, Vec<u8>)>,
}

impl Tarball {
    pub fn new() -> Self {
        Self {
            builder: Builder::new(Vec::new()),
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_700_000_000,
            pax: Vec::new(),
        }
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// A PAX record for the next entry only.
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.into(), value.as_ref().to_vec()));
        self
    }

    pub fn dir(self, path: &str) -> Self {
        self.mode(0o755)
            .entry(EntryType::Directory, path, b"", "")
            .mode(0o644)
    }

    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, content.as_ref(), "")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, b"", target)
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, b"", target)
    }

    pub fn fifo(self, path: &str) -> Self {
        self.entry(EntryType::Fifo, path, b"", "")
    }

    pub fn char_device(self, path: &str, major: u32, minor: u32) -> Self {
        self.device(EntryType::Char, path, major, minor)
    }

    pub fn block_device(self, path: &str, major: u32, minor: u32) -> Self {
        self.device(EntryType::Block, path, major, minor)
    }

    fn device(mut self, kind: EntryType, path: &str, major: u32, minor: u32) -> Self {
        let mut header = self.header(kind, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.builder
            .append_data(&mut header, path, &b""[..])
            .unwrap();
        self
    }

    fn header(&mut self, kind: EntryType, size: u64) -> Header {
        if !self.pax.is_empty() {
            let records = std::mem::take(&mut self.pax);
            let records = records.iter().map(|(k, v)| (k.as_str(), v.as_slice()));
            self.builder.append_pax_extensions(records).unwrap();
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header
    }

    /// Any entry; names are written as they are, also bad ones.
    pub fn entry(mut self, kind: EntryType, path: &str, content: &[u8], link: &str) -> Self {
        let mut header = self.header(kind, content.len() as u64);
        raw_field(&mut header.as_old_mut().name, path);
        raw_field(&mut header.as_old_mut().linkname, link);
        header.set_cksum();
        self.builder.append(&header, content).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

fn raw_field(field: &mut [u8; 100], text: &str) {
    assert!(text.len() <= 100, "use pax(\"path\", …) for long names");
    field[..text.len()].copy_from_slice(text.as_bytes());
}
