//! An archive's table of contents, so that its files are read in place.
//!
//! One pass over the headers of an OCI or docker archive yields where each
//! file lies; the contents are skipped and nothing is unpacked. Memory is
//! bounded by the limits below, whatever the archive says.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Section, SourceError};

/// Most members an archive of an image can have.
const MAX_MEMBERS: usize = 100_000;
/// Longest name of a member in bytes.
const MAX_NAME: u64 = 4096;
/// Longest extended header in bytes.
const MAX_PAX: u64 = 64 << 10;
/// Most links followed from a name to its file.
const MAX_LINKS: usize = 8;
const BLOCK: u64 = 512;

/// The table of contents of a tar archive.
#[derive(Debug)]
pub struct TarIndex {
    path: PathBuf,
    archive: Section,
    members: BTreeMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    File { offset: u64, len: u64 },
    Link { target: Vec<u8> },
}

/// What GNU and PAX headers say of the member that follows them.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl TarIndex {
    /// Reads the headers of an archive.
    ///
    /// # Errors
    /// It cannot be read, is compressed, no tar, cut short, or over the
    /// limits.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let archive = Section::whole(path)?;
        let mut index = Self {
            path: path.to_owned(),
            archive,
            members: BTreeMap::new(),
        };
        index.scan()?;
        Ok(index)
    }

    /// The archive.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of this name, through links.
    ///
    /// # Errors
    /// There is none, or the links lead nowhere.
    pub fn file(&self, name: &str) -> Result<Section, SourceError> {
        let mut at = normalise(b"", name.as_bytes()).unwrap_or_default();
        for _ in 0..=MAX_LINKS {
            match self.members.get(&at) {
                Some(Member::File { offset, len }) => return Ok(self.archive.part(*offset, *len)),
                Some(Member::Link { target }) => at.clone_from(target),
                None => {
                    return Err(SourceError::Missing {
                        path: self.path.clone(),
                        name: name.to_owned(),
                    });
                }
            }
        }
        Err(self.error(format!("{name} is a link that leads nowhere")))
    }

    /// Whether there is a member of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    fn error(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Place {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        self.archive
            .part(offset, len)
            .read_to_end(&mut bytes)
            .map_err(|error| SourceError::Io {
                path: self.path.clone(),
                error,
            })?;
        Ok(bytes)
    }

    fn scan(&mut self) -> Result<(), SourceError> {
        let end = self.archive.len();
        let mut at = 0;
        let mut extension = Extension::default();
        while at < end {
            let block = self.read(at, BLOCK)?;
            if block.iter().all(|b| *b == 0) {
                break;
            }
            let header = match <[u8; BLOCK as usize]>::try_from(block.as_slice()) {
                Ok(block) if checksum_fits(&block) => block,
                _ if at == 0 => return Err(self.error(self.what_else())),
                Ok(_) => return Err(self.error(format!("corrupt tar header at byte {at}"))),
                Err(_) => return Err(self.error("the archive is cut short")),
            };
            let header = tar::Header::from_byte_slice(&header);
            let kind = header.entry_type();
            let size = header
                .entry_size()
                .map_err(|e| self.error(format!("tar header at byte {at}: {e}")))?;
            // A PAX size is that of the member, not of headers before it.
            let size = match extension.size {
                Some(size) if !is_extension(kind) => size,
                _ => size,
            };
            let content = at + BLOCK;
            let next = size
                .checked_next_multiple_of(BLOCK)
                .and_then(|padded| content.checked_add(padded))
                .filter(|_| content.checked_add(size).is_some_and(|e| e <= end))
                .ok_or_else(|| self.error("the archive is cut short"))?;
            if is_extension(kind) {
                self.extend(&mut extension, kind, content, size)?;
            } else {
                let extension = std::mem::take(&mut extension);
                self.add(header, extension, content, size)?;
            }
            at = next;
        }
        if self.members.is_empty() {
            return Err(self.error("the archive is empty"));
        }
        Ok(())
    }

    /// Takes in a GNU long name or link, or a PAX header.
    fn extend(
        &self,
        extension: &mut Extension,
        kind: tar::EntryType,
        offset: u64,
        size: u64,
    ) -> Result<(), SourceError> {
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let limit = if kind.is_pax_local_extensions() {
            MAX_PAX
        } else {
            MAX_NAME
        };
        if size > limit {
            let reason = format!("extended header of {size} bytes at byte {offset}");
            return Err(self.error(reason));
        }
        let bytes = self.read(offset, size)?;
        let text = || {
            let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            bytes.get(..len).map(<[u8]>::to_vec)
        };
        if kind.is_gnu_longname() {
            extension.name = text();
        } else if kind.is_gnu_longlink() {
            extension.link = text();
        } else {
            for record in tar::PaxExtensions::new(&bytes) {
                let record =
                    record.map_err(|e| self.error(format!("PAX header at byte {offset}: {e}")))?;
                let value = record.value_bytes();
                match record.key_bytes() {
                    b"path" => extension.name = Some(value.to_vec()),
                    b"linkpath" => extension.link = Some(value.to_vec()),
                    b"size" => {
                        let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                        let size = size.ok_or_else(|| {
                            self.error(format!("PAX size at byte {offset} is no number"))
                        })?;
                        extension.size = Some(size);
                    }
                    key if key.starts_with(b"GNU.sparse.") => {
                        return Err(
                            self.error("it has sparse members, which image archives do not")
                        );
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        header: &tar::Header,
        extension: Extension,
        offset: u64,
        len: u64,
    ) -> Result<(), SourceError> {
        let name = extension
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        if name.len() as u64 > MAX_NAME {
            return Err(self.error(format!("name of {} bytes at byte {offset}", name.len())));
        }
        // A name that leads out of the archive can never be asked for.
        let Some(name) = normalise(b"", &name) else {
            return Ok(());
        };
        let link = || {
            let link = extension.link.clone();
            link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default()
        };
        let member = match header.entry_type() {
            kind if kind.is_file() || kind.is_contiguous() => Member::File { offset, len },
            kind if kind.is_gnu_sparse() => {
                return Err(self.error("it has sparse members, which image archives do not"));
            }
            kind if kind.is_hard_link() => match normalise(b"", &link()) {
                Some(target) => Member::Link { target },
                None => return Ok(()),
            },
            kind if kind.is_symlink() => {
                let parent = name.iter().rposition(|b| *b == b'/').unwrap_or(0);
                match normalise(name.get(..parent).unwrap_or_default(), &link()) {
                    Some(target) => Member::Link { target },
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        self.members.insert(name, member);
        if self.members.len() > MAX_MEMBERS {
            return Err(self.error(format!("it has over {MAX_MEMBERS} files")));
        }
        Ok(())
    }

    /// What a file is that does not begin with a tar header.
    fn what_else(&self) -> String {
        let start = self
            .archive
            .peek::<6>()
            .map(|(bytes, _)| bytes)
            .unwrap_or_default();
        let (what, tool) = match start {
            [0x1f, 0x8b, ..] => ("gzip", "gunzip"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", "unzstd"),
            [b'B', b'Z', b'h', ..] => ("bzip2", "bunzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => ("xz", "unxz"),
            _ => return "it is no tar archive".to_owned(),
        };
        format!(
            "the archive is compressed with {what} and cannot be read in place; \
             run {tool} on it first"
        )
    }
}

fn is_extension(kind: tar::EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

/// Whether the header's checksum is the sum of its bytes, its own counted as
/// spaces (POSIX pax, ustar header block).
fn checksum_fits(block: &[u8; BLOCK as usize]) -> bool {
    let sum = block.iter().enumerate().fold(0_u32, |sum, (i, byte)| {
        sum + u32::from(if (148..156).contains(&i) { b' ' } else { *byte })
    });
    tar::Header::from_byte_slice(block)
        .cksum()
        .is_ok_and(|c| c == sum)
}

/// `path` seen from the directory `base`, with no `.`, `..` or empty
/// component; `None` if it leads out.
fn normalise(base: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let base = if path.starts_with(b"/") {
        b"".as_slice()
    } else {
        base
    };
    for part in base.split(|b| *b == b'/').chain(path.split(|b| *b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

#[cfg(test)]
mod tests;
