//! The state machine that turns blocks into members.

use super::header::{self, Header};
use super::pax::{self, Pax};
use super::sparse::{self, Map1};
use super::{BLOCK, Limits, MAX_SYMLINK, Member, MemberKind, Run, Sink, TarError, normalise};
use crate::layer::Timestamp;

/// Longest name of an extended attribute in bytes (XATTR_NAME_MAX).
const MAX_XATTR_NAME: usize = 255;
/// Longest value of an extended attribute in bytes (XATTR_SIZE_MAX).
const MAX_XATTR_VALUE: usize = 65_536;

/// Reads an archive that is handed to it piece by piece.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    state: State,
    /// The block that is being filled, and how far it is.
    block: [u8; BLOCK],
    filled: usize,
    /// Bytes taken so far.
    offset: u64,
    members: u64,
    /// Where the header of the pax header or long name starts.
    meta_offset: u64,
    /// Content of the pax header or long name that is being read.
    meta: Vec<u8>,
    pending: Pending,
    member: Member,
    /// Of the member whose headers are being read: bytes of data that follow,
    /// and its sparse map.
    stored: u64,
    numbers: Vec<u64>,
    map1: Map1,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// A header block is being filled.
    Header,
    /// One zero block was read; the end takes two.
    Zero,
    /// An extension block of an old GNU sparse header is being filled.
    SparseExtension,
    /// A block of a version 1.0 sparse map is being filled.
    SparseMap,
    /// Content of a pax header or long name follows.
    Meta { flag: u8, left: u64, padding: u64 },
    /// A member's data follows.
    Data { left: u64, padding: u64 },
    /// Something that does not matter follows.
    Skip { left: u64 },
    /// The archive has ended; what follows is not part of it.
    End,
}

/// What was said about the next member by headers of their own.
#[derive(Debug, Default)]
struct Pending {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Reader {
    /// A reader of one archive.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Header,
            block: [0; BLOCK],
            filled: 0,
            offset: 0,
            members: 0,
            meta_offset: 0,
            meta: Vec::new(),
            pending: Pending::default(),
            member: Member::default(),
            stored: 0,
            numbers: Vec::new(),
            map1: Map1::default(),
        }
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// The archive is malformed or over a limit, or the sink will not go on.
    /// The reader is of no use then.
    pub fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let is_data = matches!(self.state, State::Data { .. });
            let taken = match self.state {
                State::Data { left, padding } => {
                    let data = prefix(bytes, left);
                    sink.data(data)?;
                    let left = left - data.len() as u64;
                    self.state = match left {
                        0 => skip(padding),
                        _ => State::Data { left, padding },
                    };
                    data.len()
                }
                State::Skip { left } => {
                    let data = prefix(bytes, left);
                    self.state = skip(left - data.len() as u64);
                    data.len()
                }
                State::Meta {
                    flag,
                    left,
                    padding,
                } => {
                    let data = prefix(bytes, left);
                    self.meta.extend_from_slice(data);
                    let left = left - data.len() as u64;
                    self.state = match left {
                        0 => {
                            self.meta_ends(flag)?;
                            skip(padding)
                        }
                        _ => State::Meta {
                            flag,
                            left,
                            padding,
                        },
                    };
                    data.len()
                }
                State::End => bytes.len(),
                State::Header | State::Zero | State::SparseExtension | State::SparseMap => {
                    let room = self.block.get_mut(self.filled..).unwrap_or_default();
                    let len = room.len().min(bytes.len());
                    for (to, from) in room.iter_mut().zip(bytes) {
                        *to = *from;
                    }
                    self.filled += len;
                    if self.filled == BLOCK {
                        self.filled = 0;
                        self.block_ends(sink)?;
                    }
                    len
                }
            };
            if !is_data {
                sink.structure(bytes.get(..taken).unwrap_or_default())?;
            }
            self.offset += taken as u64;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that there are no more bytes.
    ///
    /// # Errors
    /// [`TarError::Truncated`]. An archive may end without zero blocks, but
    /// only between members.
    pub fn finish(&self) -> Result<(), TarError> {
        let place = match self.state {
            State::Header if self.filled == 0 && self.pending.is_empty() => return Ok(()),
            State::Zero if self.filled == 0 => return Ok(()),
            State::End => return Ok(()),
            State::Header if self.filled == 0 => "after an extended header",
            State::Header | State::Zero => "in a header",
            State::SparseExtension | State::SparseMap => "in a sparse map",
            State::Meta { .. } => "in an extended header",
            State::Data { .. } => "in a file's data",
            State::Skip { .. } => "in padding",
        };
        Err(TarError::Truncated {
            offset: self.offset,
            place,
        })
    }

    fn block_ends<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let block = self.block;
        match self.state {
            State::SparseExtension => {
                let (entries, more) = header::sparse_extension(&block);
                self.sparse_entries(entries)?;
                if !more {
                    self.deliver(sink)?;
                }
            }
            State::SparseMap => {
                self.stored = self
                    .stored
                    .checked_sub(BLOCK as u64)
                    .ok_or_else(|| self.entry("its sparse map is longer than its data"))?;
                let max = self.limits.max_sparse_segments;
                if let Some(numbers) = self.map1.block(&block, max).map_err(|e| self.entry(e))? {
                    self.numbers = numbers;
                    self.deliver(sink)?;
                }
            }
            _ => match (self.state, block.iter().all(|&b| b == 0)) {
                (State::Zero, true) => self.state = State::End,
                (State::Zero, false) => {
                    return Err(self.header("only one zero block comes before it").into());
                }
                (_, true) => self.state = State::Zero,
                (_, false) => self.header_ends(&block, sink)?,
            },
        }
        Ok(())
    }

    fn header_ends<S: Sink>(&mut self, block: &[u8; BLOCK], sink: &mut S) -> Result<(), S::Error> {
        let header = Header::new(block).map_err(|reason| self.header(reason))?;
        let size = || {
            header
                .size()
                .ok_or_else(|| self.header("the size is no number in range"))
        };
        match header.type_flag() {
            flag @ (b'x' | b'L' | b'K') => {
                let size = size()?;
                if size > self.limits.max_header_bytes as u64 {
                    return Err(self
                        .header("it announces an extended header of over 1 MiB")
                        .into());
                }
                self.meta.clear();
                self.meta_offset = self.block_offset();
                let padding = padding(size);
                self.state = State::Meta {
                    flag,
                    left: size,
                    padding,
                };
                if size == 0 {
                    self.meta_ends(flag)?;
                    self.state = State::Header;
                }
                Ok(())
            }
            b'g' => {
                // Container runtimes do not apply global headers.
                let size = size()?;
                self.state = skip(size.saturating_add(padding(size)));
                Ok(())
            }
            flag => {
                let pending = std::mem::take(&mut self.pending);
                self.begin(&header, flag, pending)?;
                if flag == b'S' {
                    let (entries, more) = header.sparse_entries();
                    self.sparse_entries(entries)?;
                    if more {
                        self.state = State::SparseExtension;
                        return Ok(());
                    }
                }
                if let State::SparseMap = self.state {
                    return Ok(());
                }
                self.deliver(sink)
            }
        }
    }

    fn sparse_entries(&mut self, entries: &[u8]) -> Result<(), TarError> {
        sparse::old_gnu(entries, &mut self.numbers).map_err(|e| self.entry(e))?;
        if self.numbers.len() / 2 > self.limits.max_sparse_segments {
            return Err(self.entry("it has too many sparse segments"));
        }
        Ok(())
    }

    /// A pax header or long name is complete.
    fn meta_ends(&mut self, flag: u8) -> Result<(), TarError> {
        let name = || Some(header::text(&self.meta).to_vec());
        match flag {
            b'L' => self.pending.name = name(),
            b'K' => self.pending.link = name(),
            _ => {
                let max_numbers = self.limits.max_sparse_segments.saturating_mul(2);
                let parsed = pax::parse(&self.meta, max_numbers);
                self.pending.pax = Some(parsed.map_err(|reason| TarError::Entry {
                    path: format!("(after byte {})", self.meta_offset),
                    reason,
                })?);
            }
        }
        Ok(())
    }

    /// Takes all headers of a member together, but for sparse maps that
    /// follow.
    fn begin(&mut self, header: &Header<'_>, flag: u8, pending: Pending) -> Result<(), TarError> {
        self.members += 1;
        if self.members > self.limits.max_entries {
            return Err(TarError::Limit {
                limit: self.limits.max_entries,
                what: "entries",
                option: "--max-entries",
            });
        }
        let pax = pending.pax.unwrap_or_default();
        // Go lets the GNU long name win over pax, and the sparse name over both.
        let mut path = Vec::new();
        header.path(&mut path);
        let names = [pax.path, pending.name, pax.sparse.name];
        if let Some(name) = names.into_iter().flatten().next_back() {
            path = name;
        }
        let bad = |reason: &str| TarError::entry(&path, reason);

        let (member, numbers) = (&mut self.member, &mut self.numbers);
        normalise(&path, &mut member.path).map_err(bad)?;
        member.kind = kind(header, flag, &path).map_err(|e| TarError::entry(&path, e))?;
        if member.path.is_empty() && member.kind != MemberKind::Directory {
            return Err(bad("only a directory can be the root"));
        }
        let mode = header.mode().and_then(|m| u64::try_from(m).ok());
        let mode = mode.ok_or_else(|| bad("its mode is no number"))?;
        member.mode = u16::try_from(mode & 0o7777).unwrap_or_default();
        let owner = |pax: Option<u64>, header: Option<i64>, what: &str| {
            let id = pax.or_else(|| header.and_then(|id| u64::try_from(id).ok()));
            id.and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| bad(&format!("its {what} is no number of 32 bits")))
        };
        member.uid = owner(pax.uid, header.uid(), "owner")?;
        member.gid = owner(pax.gid, header.gid(), "group")?;
        let header_time = || {
            let secs = header.mtime().ok_or_else(|| bad("its time is no number"))?;
            Ok(Timestamp { secs, nanos: 0 })
        };
        member.mtime = pax.mtime.map_or_else(header_time, Ok)?;

        member.target.clear();
        if matches!(member.kind, MemberKind::Symlink | MemberKind::Hardlink) {
            let target = pending.link.or(pax.link_path);
            let target = target.as_deref().unwrap_or(header.link_name());
            if member.kind == MemberKind::Hardlink {
                normalise(target, &mut member.target)
                    .map_err(|e| bad(&format!("as target, {e}")))?;
                if member.target.is_empty() {
                    return Err(bad("it is a hard link to nothing"));
                }
            } else if target.is_empty() {
                return Err(bad("it is a symbolic link without a target"));
            } else if target.len() > MAX_SYMLINK {
                return Err(bad("its target has more than 4095 bytes"));
            } else {
                member.target.extend_from_slice(target);
            }
        }
        member.xattrs = xattrs(pax.xattrs, &self.limits).map_err(|e| TarError::entry(&path, e))?;

        // What is no file has no data, whatever its size says; as in Go.
        member.size = 0;
        member.runs.clear();
        self.stored = 0;
        numbers.clear();
        self.state = State::Header;
        if member.kind != MemberKind::Regular {
            return Ok(());
        }
        let size = pax
            .size
            .or_else(|| header.size())
            .filter(|&s| i64::try_from(s).is_ok());
        self.stored = size.ok_or_else(|| bad("its size is no number in range"))?;
        let sparse_size = |size: Option<u64>| {
            let size = size.filter(|&s| i64::try_from(s).is_ok());
            size.ok_or_else(|| bad("its sparse size is no number in range"))
        };
        if flag == b'S' {
            member.size = sparse_size(header.sparse_real_size())?;
            return Ok(());
        }
        match (pax.sparse.major, pax.sparse.minor, pax.sparse.map) {
            (None, None, None) => {
                member.size = self.stored;
                if self.stored > 0 {
                    numbers.extend([0, self.stored]);
                }
            }
            (None, None, Some(map)) | (Some(0), Some(0 | 1), Some(map)) => {
                member.size = sparse_size(pax.sparse.size)?;
                *numbers = map;
            }
            (Some(1), Some(0), _) => {
                member.size = sparse_size(pax.sparse.size)?;
                self.map1 = Map1::default();
                self.state = State::SparseMap;
            }
            _ => return Err(bad("it is sparse in an unknown form")),
        }
        Ok(())
    }

    /// All headers of a member are read: hands it out.
    fn deliver<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let (numbers, size) = (std::mem::take(&mut self.numbers), self.member.size);
        let mut runs: Vec<Run> = std::mem::take(&mut self.member.runs);
        sparse::runs(&numbers, size, self.stored, &mut runs).map_err(|e| self.entry(e))?;
        self.member.runs = runs;
        self.numbers = numbers;
        sink.member(&self.member)?;
        let padding = padding(self.stored);
        self.state = match self.stored {
            0 => State::Header,
            left => State::Data { left, padding },
        };
        Ok(())
    }

    /// An error in the block that was just filled.
    fn header(&self, reason: &'static str) -> TarError {
        let offset = self.block_offset();
        TarError::Header { offset, reason }
    }

    /// Where the block that is being filled starts; `offset` lags behind while
    /// a piece is being read.
    fn block_offset(&self) -> u64 {
        self.offset & !(BLOCK as u64 - 1)
    }

    fn entry(&self, reason: &str) -> TarError {
        TarError::entry(&self.member.path, reason)
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }
}

fn kind(header: &Header<'_>, flag: u8, path: &[u8]) -> Result<MemberKind, String> {
    let device = || {
        let number = |field: Option<i64>, max: u32| {
            field
                .and_then(|n| u32::try_from(n).ok())
                .filter(|&n| n <= max)
        };
        // Linux's dev_t has 12 and 20 bits.
        let major = number(header.dev_major(), 0xfff);
        let minor = number(header.dev_minor(), 0xf_ffff);
        major
            .zip(minor)
            .ok_or("its device number is out of range".to_owned())
    };
    Ok(match flag {
        // Before ustar, a trailing slash was what made a directory.
        0 | b'0' if path.ends_with(b"/") => MemberKind::Directory,
        0 | b'0' | b'7' | b'S' => MemberKind::Regular,
        b'1' => MemberKind::Hardlink,
        b'2' => MemberKind::Symlink,
        b'3' => {
            let (major, minor) = device()?;
            MemberKind::CharDevice { major, minor }
        }
        b'4' => {
            let (major, minor) = device()?;
            MemberKind::BlockDevice { major, minor }
        }
        b'5' => MemberKind::Directory,
        b'6' => MemberKind::Fifo,
        other => return Err(format!("its type {:?} is unknown", char::from(other))),
    })
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Sorts the attributes; of those with one name the last stays.
fn xattrs(mut xattrs: Xattrs, limits: &Limits) -> Result<Xattrs, String> {
    xattrs.reverse();
    xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    xattrs.dedup_by(|a, b| a.0 == b.0);
    let mut total = 0;
    for (name, value) in &xattrs {
        let shown = String::from_utf8_lossy(name);
        if name.is_empty() {
            return Err("it has an extended attribute without a name".to_owned());
        }
        if name.len() > MAX_XATTR_NAME || value.len() > MAX_XATTR_VALUE {
            return Err(format!("its extended attribute {shown:?} is too long"));
        }
        if name.contains(&0) {
            return Err(format!(
                "the name of its extended attribute {shown:?} has a NUL byte"
            ));
        }
        total += name.len() + value.len();
    }
    if total > limits.max_xattr_bytes {
        return Err(format!(
            "its extended attributes have {total} bytes; at most {} are read",
            limits.max_xattr_bytes
        ));
    }
    Ok(xattrs)
}

fn padding(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK as u64
}

fn skip(left: u64) -> State {
    match left {
        0 => State::Header,
        _ => State::Skip { left },
    }
}

/// The first `len` bytes, or all where there are fewer.
fn prefix(bytes: &[u8], len: u64) -> &[u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    bytes.get(..len).unwrap_or(bytes)
}
