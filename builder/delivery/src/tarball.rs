//! Writing tars whose every byte is settled, and reading small ones.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bootwright_image::tar::{Limits, Member, MemberKind, Reader, Sink, TarError};

use crate::error::DeliveryError;

/// Size of a tar's blocks in bytes.
const BLOCK: u64 = 512;

/// The two zero blocks that end a tar.
const END: usize = 1024;

/// Who owns a member, and its permission bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) mode: u32,
}

/// The owner of what nobody asks for an owner.
pub(crate) const ROOT: Owner = Owner {
    id: 0,
    name: "",
    mode: 0o444,
};

/// The header of a regular file (POSIX.1-1988 ustar; sizes from 8 GiB on in
/// base 256, as GNU tar and Go write them). The time is 1970.
pub(crate) fn file_header(path: &str, len: u64, owner: Owner) -> io::Result<Vec<u8>> {
    header(path, len, owner, tar::EntryType::Regular)
}

/// The header of a directory.
pub(crate) fn directory_header(path: &str, owner: Owner) -> io::Result<Vec<u8>> {
    header(path, 0, owner, tar::EntryType::Directory)
}

fn header(path: &str, len: u64, owner: Owner, kind: tar::EntryType) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_size(len);
    header.set_mode(owner.mode);
    header.set_uid(owner.id);
    header.set_gid(owner.id);
    header.set_username(owner.name)?;
    header.set_groupname(owner.name)?;
    header.set_mtime(0);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

/// A whole tar with one file: header, content, padding, end.
pub(crate) fn around(header: Vec<u8>, content: impl Read, len: u64) -> impl Read {
    let padding = len.next_multiple_of(BLOCK) - len;
    io::Cursor::new(header)
        .chain(content)
        .chain(io::Cursor::new(vec![0; padding as usize + END]))
}

/// A tar of small files.
pub(crate) fn small_files(files: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut tar = Vec::new();
    for (path, content) in files {
        tar.extend(file_header(path, content.len() as u64, ROOT)?);
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(BLOCK as usize), 0);
    }
    tar.resize(tar.len() + END, 0);
    Ok(tar)
}

/// Reads a tar that has nothing but small regular files, at most `max` bytes
/// in all.
///
/// # Errors
/// It cannot be read, is longer, or has something else in it; `what` names
/// it.
pub(crate) fn read_small_files(
    what: &'static str,
    tar: &mut dyn Read,
    max: u64,
) -> Result<BTreeMap<String, Vec<u8>>, DeliveryError> {
    let malformed = |reason: String| DeliveryError::malformed(what, reason);
    let mut reader = Reader::new(Limits::default());
    let mut files = Files::default();
    let mut buffer = vec![0; 64 << 10];
    let mut len: u64 = 0;
    loop {
        let read = match tar.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(DeliveryError::io(what))?,
        };
        let Some(bytes) = buffer.get(..read).filter(|b| !b.is_empty()) else {
            break;
        };
        len += read as u64;
        if len > max {
            return Err(malformed(format!("it has more than {max} bytes")));
        }
        reader
            .feed(bytes, &mut files)
            .map_err(|e| malformed(e.to_string()))?;
    }
    reader.finish().map_err(|e| malformed(e.to_string()))?;
    Ok(files.files)
}

#[derive(Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    last: String,
}

impl Sink for Files {
    type Error = TarError;

    fn member(&mut self, member: &Member) -> Result<(), TarError> {
        let path = String::from_utf8_lossy(&member.path).into_owned();
        let bad = |reason: &str| TarError::Entry {
            path: path.chars().take(200).collect(),
            reason: reason.to_owned(),
        };
        let data: u64 = member.runs.iter().map(|run| run.len).sum();
        if member.kind != MemberKind::Regular || data != member.size {
            return Err(bad("only plain regular files are expected here"));
        }
        if self.files.contains_key(&path) {
            return Err(bad("it is there twice"));
        }
        self.files.insert(path.clone(), Vec::new());
        self.last = path;
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        if let Some(content) = self.files.get_mut(&self.last) {
            content.extend_from_slice(bytes);
        }
        Ok(())
    }
}
