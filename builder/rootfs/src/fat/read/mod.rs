//! Reading volumes that somebody else wrote: FAT12, FAT16 and FAT32.
//!
//! Every field can lie. Chains of clusters are followed no further than a
//! file's size or the largest directory reaches, no directory is listed
//! twice, and all of them together no further than [`MAX_ENTRIES`],
//! [`MAX_PATH_LEN`] and [`MAX_DIRECTORIES_LEN`].

mod entry;
mod layout;

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use bootwright_image::Timestamp;

use self::entry::RawEntry;
use self::layout::{Layout, Root, Width};
use super::directory::{ENTRY, MAX_ENTRIES as MAX_DIRECTORY_ENTRIES};
use super::{name, time};

/// How many files and directories a volume can have to be listed.
pub const MAX_ENTRIES: usize = 32_768;
/// How many bytes of UTF-8 a path can have to be listed: 260 characters
/// (fatgen103, page 27) of four bytes.
pub const MAX_PATH_LEN: usize = 1040;
/// How many bytes the directories of a volume can have to be listed.
pub const MAX_DIRECTORIES_LEN: u64 = 64 << 20;

/// A file or a directory of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path from the root, such as `EFI/BOOT/BOOTX64.EFI`. Slashes, control
    /// characters and what was no UTF-16 inside of names are U+FFFD.
    pub path: String,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Size in bytes; 0 for directories.
    pub size: u32,
    /// Modification time, taken as UTC, if one is stored.
    pub modified: Option<Timestamp>,
}

/// Why a volume could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The volume could not be read.
    #[error("cannot read the FAT volume")]
    Io(#[from] io::Error),
    /// The first sector is not one of a FAT volume.
    #[error("no FAT volume: bad boot sector: {0}")]
    NotFat(&'static str),
    /// A file's or directory's chain of clusters is wrong.
    #[error("damaged FAT volume: {path:?}: {reason}")]
    Damaged {
        /// The path.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// More directories than anybody needs; see the limits of this module.
    #[error("the directories of the FAT volume are too many, too large or too deep: {0:?}")]
    TooManyEntries(String),
    /// No such file.
    #[error("no such file on the FAT volume: {0:?}")]
    NotFound(String),
    /// A directory where a file is asked for, or the other way round.
    #[error("a file is a directory or a directory a file on the FAT volume: {0:?}")]
    WrongKind(String),
    /// A file larger than the caller wants to read.
    #[error("{path:?} on the FAT volume has {size} bytes, more than {limit}")]
    TooLarge {
        /// The file's path.
        path: String,
        /// Its size in bytes.
        size: u32,
        /// The limit in bytes.
        limit: u64,
    },
}

/// A FAT volume that starts at the first byte of `R`.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    layout: Layout,
    /// A block of the FAT and its number.
    block: (u64, Vec<u8>),
}

/// The FAT is read in blocks of this many bytes.
const BLOCK: u64 = 4096;

impl<R: Read + Seek> Reader<R> {
    /// Reads the boot sector of a volume.
    ///
    /// # Errors
    /// The volume cannot be read or is not FAT.
    pub fn open(mut inner: R) -> Result<Self, ReadError> {
        let mut boot = [0; 512];
        inner.seek(SeekFrom::Start(0))?;
        inner.read_exact(&mut boot)?;
        Ok(Self {
            inner,
            layout: Layout::decode(&boot)?,
            block: (u64::MAX, Vec::new()),
        })
    }

    /// The volume's serial number, if it has one.
    pub fn volume_id(&self) -> Option<u32> {
        self.layout.volume_id
    }

    /// The volume's label, if it has one.
    ///
    /// # Errors
    /// The root directory cannot be read.
    pub fn label(&mut self) -> Result<Option<String>, ReadError> {
        let (bytes, _) = self.directory(None, "")?;
        let (_, label) = self.decode(&bytes);
        let text = |label: [u8; 11]| String::from_utf8_lossy(&label).trim_end().to_owned();
        Ok(label.or(self.layout.label).map(text))
    }

    /// All files and directories, each directory before what is in it, in the
    /// order in which they are stored.
    ///
    /// # Errors
    /// A directory cannot be read, is damaged, or a limit is passed.
    pub fn list(&mut self) -> Result<Vec<Entry>, ReadError> {
        let mut found = Vec::new();
        let mut total = 0;
        let mut seen = BTreeSet::new();
        let mut left = vec![(String::new(), None)];
        while let Some((parent, cluster)) = left.pop() {
            let (bytes, first) = self.directory(cluster, &parent)?;
            if !seen.insert(first) {
                return Err(ReadError::Damaged {
                    path: parent,
                    reason: "its clusters are also those of another directory",
                });
            }
            total += bytes.len() as u64;
            for raw in self.decode(&bytes).0 {
                let path = match parent.as_str() {
                    "" => raw.name,
                    _ => format!("{parent}/{}", raw.name),
                };
                if path.len() > MAX_PATH_LEN || found.len() >= MAX_ENTRIES {
                    return Err(ReadError::TooManyEntries(path));
                }
                if raw.is_directory {
                    left.push((path.clone(), Some(raw.cluster)));
                }
                found.push(Entry {
                    path,
                    is_directory: raw.is_directory,
                    size: raw.size,
                    modified: time::decode(raw.date, raw.time),
                });
            }
            if total > MAX_DIRECTORIES_LEN {
                return Err(ReadError::TooManyEntries(parent));
            }
        }
        Ok(found)
    }

    /// The bytes of a file of at most `limit` bytes. Case does not matter in
    /// `path`, and short names do as well as long ones.
    ///
    /// # Errors
    /// There is no such file, it is larger than `limit`, or it or a directory
    /// on the way to it cannot be read or is damaged.
    pub fn read_file(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, ReadError> {
        let raw = self.find(path)?;
        let size = u64::from(raw.size);
        if size > limit {
            return Err(ReadError::TooLarge {
                path: path.to_owned(),
                size: raw.size,
                limit,
            });
        }
        self.file(&raw, path, 0..size)
    }

    /// The bytes in `range` of a file, or those of them that it has.
    ///
    /// # Errors
    /// As for [`Self::read_file`].
    pub fn read_range(&mut self, path: &str, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        let raw = self.find(path)?;
        let end = range.end.min(raw.size.into());
        self.file(&raw, path, range.start.min(end)..end)
    }

    fn find(&mut self, path: &str) -> Result<RawEntry, ReadError> {
        let mut names = path.split('/').peekable();
        let mut here = None;
        while let Some(name) = names.next() {
            let (bytes, _) = self.directory(here, path)?;
            let wanted = name::fold(name);
            let same = |raw: &RawEntry| {
                name::fold(&raw.name) == wanted || name::fold(&raw.short_name) == wanted
            };
            let raw = self.decode(&bytes).0.into_iter().find(same);
            let raw = raw.ok_or_else(|| ReadError::NotFound(path.to_owned()))?;
            if raw.is_directory != names.peek().is_some() {
                return Err(ReadError::WrongKind(path.to_owned()));
            }
            if !raw.is_directory {
                return Ok(raw);
            }
            here = Some(raw.cluster);
        }
        Err(ReadError::WrongKind(path.to_owned()))
    }

    /// A range of a file that lies inside of it.
    fn file(
        &mut self,
        raw: &RawEntry,
        path: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, ReadError> {
        let cluster = self.layout.cluster_size;
        let count = range.end.div_ceil(cluster);
        let (runs, len) = self.chain(raw.cluster, count, path)?;
        if len < count {
            return Err(ReadError::Damaged {
                path: path.to_owned(),
                reason: "its chain of clusters ends before the file",
            });
        }
        let mut bytes = Vec::new();
        let mut skip = range.start / cluster;
        for mut run in runs {
            let skipped = skip.min(u64::from(run.end - run.start));
            skip -= skipped;
            run.start += skipped as u32;
            if !run.is_empty() {
                self.append(&run, &mut bytes)?;
            }
        }
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        bytes.drain(..bytes.len().min((range.start % cluster) as usize));
        bytes.truncate(len);
        Ok(bytes)
    }

    /// A directory's bytes and its first cluster; `None` is the root.
    fn directory(&mut self, cluster: Option<u32>, path: &str) -> Result<(Vec<u8>, u32), ReadError> {
        let mut bytes = Vec::new();
        let first = match (cluster, self.layout.root) {
            // `..` of a directory in the root says 0, and so do some others.
            (None | Some(0), Root::Fixed { offset, len }) => {
                self.append_bytes(offset, len, &mut bytes)?;
                return Ok((bytes, 0));
            }
            (None | Some(0), Root::Cluster(first)) => first,
            (Some(first), _) => first,
        };
        let max = ((MAX_DIRECTORY_ENTRIES * ENTRY) as u64).div_ceil(self.layout.cluster_size);
        let (runs, len) = self.chain(first, max + 1, path)?;
        if len > max {
            return Err(ReadError::Damaged {
                path: path.to_owned(),
                reason: "its chain of clusters is a loop or longer than a directory can be",
            });
        }
        for run in runs {
            self.append(&run, &mut bytes)?;
        }
        Ok((bytes, first))
    }

    fn decode(&self, bytes: &[u8]) -> (Vec<RawEntry>, Option<[u8; 11]>) {
        entry::decode(bytes, self.layout.width == Width::Fat32)
    }

    /// At most `count` clusters of the chain from `first` on, as runs, and how
    /// many they are.
    fn chain(
        &mut self,
        first: u32,
        count: u64,
        path: &str,
    ) -> Result<(Vec<Range<u32>>, u64), ReadError> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        let mut len = 0;
        let mut next = Some(first);
        while let Some(cluster) = next.filter(|_| len < count) {
            if !(2..self.layout.end).contains(&cluster) {
                return Err(ReadError::Damaged {
                    path: path.to_owned(),
                    reason: "its chain of clusters leaves the volume",
                });
            }
            match runs.last_mut() {
                Some(run) if run.end == cluster => run.end += 1,
                _ => runs.push(cluster..cluster + 1),
            }
            len += 1;
            next = self.next(cluster)?;
        }
        Ok((runs, len))
    }

    /// What follows a cluster in its chain; `None` at the end. Free and bad
    /// clusters give a number that is none of a cluster.
    fn next(&mut self, cluster: u32) -> io::Result<Option<u32>> {
        let n = u64::from(cluster);
        let (value, end) = match self.layout.width {
            Width::Fat12 => {
                let pair = self.fat_u16(n + n / 2)?;
                let value = if n % 2 == 0 { pair & 0xfff } else { pair >> 4 };
                (value.into(), 0xff8)
            }
            Width::Fat16 => (self.fat_u16(n * 2)?.into(), 0xfff8),
            Width::Fat32 => {
                let low = u32::from(self.fat_u16(n * 4)?);
                let high = u32::from(self.fat_u16(n * 4 + 2)?);
                ((high << 16 | low) & 0x0fff_ffff, 0x0fff_fff8)
            }
        };
        Ok((value < end).then_some(value))
    }

    fn fat_u16(&mut self, at: u64) -> io::Result<u16> {
        Ok(u16::from_le_bytes([self.fat_u8(at)?, self.fat_u8(at + 1)?]))
    }

    fn fat_u8(&mut self, at: u64) -> io::Result<u8> {
        let number = at / BLOCK;
        if self.block.0 != number {
            // The volume may end inside of the block.
            let mut block = Vec::new();
            self.inner
                .seek(SeekFrom::Start(self.layout.fat + number * BLOCK))?;
            (&mut self.inner).take(BLOCK).read_to_end(&mut block)?;
            self.block = (number, block);
        }
        let byte = self.block.1.get((at % BLOCK) as usize);
        byte.copied().ok_or_else(cut_short)
    }

    fn append(&mut self, run: &Range<u32>, out: &mut Vec<u8>) -> io::Result<()> {
        let Layout {
            data, cluster_size, ..
        } = self.layout;
        let offset = data + u64::from(run.start - 2) * cluster_size;
        let len = u64::from(run.end - run.start) * cluster_size;
        self.append_bytes(offset, len, out)
    }

    /// Grows `out` as bytes arrive: sizes can lie, files cannot.
    fn append_bytes(&mut self, offset: u64, len: u64, out: &mut Vec<u8>) -> io::Result<()> {
        self.inner.seek(SeekFrom::Start(offset))?;
        match (&mut self.inner).take(len).read_to_end(out)? as u64 == len {
            true => Ok(()),
            false => Err(cut_short()),
        }
    }
}

fn cut_short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the volume ends before its file system does",
    )
}
