//! What several fuzz targets need.

pub mod block;
pub mod machine;

use bootwright_disk::ReadAt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// A disk of `len` bytes that starts with `head` and has only zeros after it,
/// so that inputs stay small where formats ask for megabytes.
#[derive(Debug, Clone)]
pub struct Disk<'a> {
    head: &'a [u8],
    len: u64,
    pos: u64,
}

impl<'a> Disk<'a> {
    /// A disk of `len` bytes, or as many as `head` has.
    pub fn new(head: &'a [u8], len: u64) -> Self {
        let len = len.max(head.len() as u64);
        Self { head, len, pos: 0 }
    }
}

impl Read for Disk<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.pos)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        let buf = &mut buf[..len];
        let from = usize::try_from(self.pos).unwrap_or(usize::MAX);
        let head = self.head.get(from..).unwrap_or_default();
        let known = head.len().min(len);
        buf[..known].copy_from_slice(&head[..known]);
        buf[known..].fill(0);
        self.pos += len as u64;
        Ok(len)
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let pos = match to {
            SeekFrom::Start(pos) => Some(pos),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.pos.checked_add_signed(by),
        };
        self.pos = pos.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.pos)
    }
}

/// Sets the checksums of a tar's headers right: of every block that says that
/// it is one.
pub fn seal_tar(tar: &mut [u8]) {
    for block in tar.as_chunks_mut::<512>().0 {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// A tar of regular files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, content) in files {
        let mut header = [0; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000444\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        seal_tar(&mut header);
        tar.extend(header);
        tar.extend(*content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Sets the checksum of a plan file or a layer's table right: a CRC32C of all
/// that follows it.
pub fn seal(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    if let Some((header, rest)) = file.split_at_mut_checked(16) {
        header[12..].copy_from_slice(&crc32c::crc32c(rest).to_le_bytes());
    }
    file
}

/// A place in memory for a file of this process, where a parser takes only
/// paths.
pub fn scratch(name: &str) -> PathBuf {
    let dir = format!("/dev/shm/bootwright-fuzz-{}", std::process::id());
    std::fs::create_dir_all(&dir).expect("/dev/shm can be written");
    PathBuf::from(dir).join(name)
}

/// Reads a little of a disk here and there; its data must lie on it.
pub fn read_some(disk: &dyn ReadAt) {
    let mut from = 0;
    for _ in 0..20 {
        let Ok(Some(data)) = disk.next_data(from) else {
            break;
        };
        assert!(data.start >= from && data.start < data.end && data.end <= disk.size());
        let mut bytes = vec![0; (data.end - data.start).min(1 << 20) as usize];
        let _ = disk.read_exact_at(data.start, &mut bytes);
        from = data.end;
    }
    let mut sector = [0; 512];
    let _ = disk.read_exact_at(disk.size().saturating_sub(512), &mut sector);
}
