//! The skeleton of a layer's tar: all of it but the contents of its files.
//!
//! A pack holds the contents and an index what they mean, but neither holds
//! the tar's headers byte for byte. The skeleton does, so that the tar comes
//! out of the store again ([`TarReader`]) with the diff id that it went in
//! under, and a layer can be pushed to a registry that does not have it. It
//! also says which part of the tar is where in the pack ([`TarRun`]).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::FileExt as _;

use super::pack::Place;

/// First bytes of a skeleton; its last one is the version.
const MAGIC: [u8; 8] = *b"bw-skel\x01";
/// Literal bytes that are held before they are written.
const BUFFER: usize = 64 << 10;
/// Headers are so regular that higher levels gain little.
const LEVEL: i32 = 1;
/// Length of a record's numbers: of literal bytes, of bytes of the pack, and
/// where in the pack those are.
const RECORD: usize = 20;

/// A run of a layer's tar that is a run of its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarRun {
    /// Byte offset in the tar.
    pub tar_offset: u64,
    /// Byte offset in the pack.
    pub pack_offset: u64,
    /// Length in bytes, greater than 0.
    pub len: u64,
}

/// Writes a skeleton while the tar is read.
pub(super) struct SkeletonWriter<'a> {
    out: zstd::stream::write::Encoder<'static, Summed<BufWriter<&'a File>>>,
    literal: Vec<u8>,
    /// Where the data that comes next goes.
    places: Vec<Place>,
}

impl<'a> SkeletonWriter<'a> {
    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        let mut file = Summed {
            out: BufWriter::new(file),
            sum: 0,
        };
        file.write_all(&MAGIC)?;
        let mut out = zstd::stream::write::Encoder::new(file, LEVEL)?;
        out.include_checksum(true)?;
        Ok(Self {
            out,
            literal: Vec::new(),
            places: Vec::new(),
        })
    }

    /// Bytes of the tar that are not in the pack.
    pub(super) fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.literal.extend_from_slice(bytes);
        if self.literal.len() < BUFFER {
            return Ok(());
        }
        self.record(0, 0)
    }

    /// Places of the data that comes after the literal bytes of this moment
    /// and of the block that is being read.
    pub(super) fn places(&mut self, places: impl Iterator<Item = Place>) {
        self.places.clear();
        self.places.extend(places);
    }

    /// Data follows.
    pub(super) fn data(&mut self) -> io::Result<()> {
        for place in std::mem::take(&mut self.places) {
            self.record(place.pack_offset, place.len)?;
        }
        Ok(())
    }

    /// Writes what is left; says the CRC32C of the file.
    pub(super) fn finish(mut self) -> io::Result<u32> {
        self.record(0, 0)?;
        let mut file = self.out.finish()?;
        file.flush()?;
        Ok(file.sum)
    }

    fn record(&mut self, pack_offset: u64, len: u64) -> io::Result<()> {
        let literal = u32::try_from(self.literal.len()).map_err(io::Error::other)?;
        self.out.write_all(&literal.to_le_bytes())?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&pack_offset.to_le_bytes())?;
        self.out.write_all(&self.literal)?;
        self.literal.clear();
        Ok(())
    }
}

/// Sums up what is written.
struct Summed<W> {
    out: W,
    sum: u32,
}

impl<W: io::Write> io::Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        let bytes = bytes.get(..written).unwrap_or_default();
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether a skeleton's file has this CRC32C.
pub(super) fn check(mut file: File, sum: u32) -> io::Result<()> {
    let mut found = Summed {
        out: io::sink(),
        sum: 0,
    };
    io::copy(&mut file, &mut found)?;
    match found.sum == sum {
        true => Ok(()),
        false => Err(damaged("its sum is wrong")),
    }
}

/// Reads the records of a skeleton.
struct Records {
    input: zstd::stream::read::Decoder<'static, BufReader<File>>,
    pack_len: u64,
    tar_len: u64,
    /// Of the tar, up to the end of the record that was read last.
    offset: u64,
}

struct Record {
    /// Literal bytes, which follow in the input.
    literal: u64,
    /// The run of the pack that follows those; it may be empty.
    run: TarRun,
}

impl Records {
    fn new(mut file: File, pack_len: u64, tar_len: u64) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged("it begins with other bytes"));
        }
        Ok(Self {
            input: zstd::stream::read::Decoder::new(file)?,
            pack_len,
            tar_len,
            offset: 0,
        })
    }

    fn next(&mut self) -> io::Result<Option<Record>> {
        if self.offset == self.tar_len {
            return self.end().map(|()| None);
        }
        let mut bytes = [0; RECORD];
        self.input.read_exact(&mut bytes)?;
        let (literal, rest) = split::<4>(&bytes);
        let (len, rest) = split::<8>(rest);
        let (pack_offset, _) = split::<8>(rest);
        let literal = u64::from(u32::from_le_bytes(literal));
        let len = u64::from_le_bytes(len);
        let pack_offset = u64::from_le_bytes(pack_offset);
        let in_pack = pack_offset.checked_add(len);
        if in_pack.is_none_or(|end| end > self.pack_len) {
            return Err(damaged("it leads out of the pack"));
        }
        let tar_offset = self.offset.saturating_add(literal);
        let end = tar_offset.saturating_add(len);
        if end > self.tar_len || end == self.offset {
            return Err(damaged("it is longer than the tar"));
        }
        self.offset = end;
        Ok(Some(Record {
            literal,
            run: TarRun {
                tar_offset,
                pack_offset,
                len,
            },
        }))
    }

    /// Reads up to the end, where the sum of the whole is.
    fn end(&mut self) -> io::Result<()> {
        let mut rest = [0; 2 * RECORD];
        let mut left = RECORD;
        loop {
            match self.input.read(&mut rest)? {
                0 => return Ok(()),
                // The last record may say nothing more.
                n if n <= left && rest.iter().take(n).all(|&b| b == 0) => left -= n,
                _ => return Err(damaged("it goes on behind the end of the tar")),
            }
        }
    }
}

fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes
        .split_first_chunk()
        .map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad skeleton: {what}"))
}

/// The runs of a tar that are in its pack, in tar order.
pub(super) fn runs(file: File, pack_len: u64, tar_len: u64) -> io::Result<Vec<TarRun>> {
    let mut records = Records::new(file, pack_len, tar_len)?;
    let mut runs: Vec<TarRun> = Vec::new();
    while let Some(Record { literal, run }) = records.next()? {
        let skipped = io::copy(&mut (&mut records.input).take(literal), &mut io::sink())?;
        if skipped != literal {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if run.len > 0 {
            runs.push(run);
        }
    }
    Ok(runs)
}

/// A layer's tar, byte for byte, put together from skeleton and pack.
pub struct TarReader {
    records: Records,
    pack: File,
    literal: u64,
    run: TarRun,
}

impl std::fmt::Debug for TarReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarReader")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl TarReader {
    pub(super) fn new(skeleton: File, pack: File, pack_len: u64, tar_len: u64) -> io::Result<Self> {
        Ok(Self {
            records: Records::new(skeleton, pack_len, tar_len)?,
            pack,
            literal: 0,
            run: TarRun {
                tar_offset: 0,
                pack_offset: 0,
                len: 0,
            },
        })
    }
}

impl Read for TarReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.literal == 0 && self.run.len == 0 {
            match self.records.next()? {
                None => return Ok(0),
                Some(record) => {
                    self.literal = record.literal;
                    self.run = record.run;
                }
            }
        }
        let left = match self.literal {
            0 => self.run.len,
            literal => literal,
        };
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let Some(buf) = buf.get_mut(..len).filter(|b| !b.is_empty()) else {
            return Ok(0);
        };
        let read = match self.literal {
            0 => self.pack.read_at(buf, self.run.pack_offset)?,
            _ => self.records.input.read(buf)?,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.literal {
            0 => {
                self.run.pack_offset += read as u64;
                self.run.tar_offset += read as u64;
                self.run.len -= read as u64;
            }
            _ => self.literal -= read as u64,
        }
        Ok(read)
    }
}
