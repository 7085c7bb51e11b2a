//! The form in which Google Compute Engine imports disks: one file
//! `disk.raw` in a tar of GNU's old format, compressed with gzip (Google's
//! "Manually import boot disks").
//!
//! The tar has the file as a sparse one, as GNU tar's `-S` stores it: a map
//! of the ranges that hold data, then these. What is zero costs nothing, and
//! since the map follows from the plan, the whole streams.

use std::ops::Range;

use super::compress::{BATCH, Compressor};
use super::output::Output;
use super::parallel::in_order;
use super::units::Units;
use super::{Monitor, SinkError};
use crate::reader::ReadAt;

/// A tar's records.
const RECORD: usize = 512;

/// What is told apart from zeros, in bytes: smaller ranges make the map
/// longer and gain nothing, as zeros compress.
const UNIT: u64 = 64 << 10;

/// Bits of deflate's own window.
const WINDOW_BITS: u8 = 15;

/// Entries of the map in the header, and in each record that continues it.
const IN_HEADER: usize = 4;
const IN_RECORD: usize = 21;

/// Writes `disk`.
pub(super) fn write(
    disk: &dyn ReadAt,
    output: &mut Output<'_>,
    threads: usize,
) -> Result<(), SinkError> {
    let monitor = output.monitor();
    let runs = Units::new(disk, UNIT)
        .map(|run| run.map(|run| run.start * UNIT..(run.end * UNIT).min(disk.size())))
        .collect::<Result<Vec<_>, _>>()?;
    // Runs are in whole records, as the disk is: nothing needs padding.
    let pieces = std::iter::once(Piece::Bytes(headers(&runs, disk.size())))
        .chain(in_pieces(&runs))
        .chain([Piece::Bytes(vec![0; 2 * RECORD])]);

    // RFC 1952: deflate, no name, no time, made on an unknown system.
    output.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")?;
    let mut sum = crc32fast::Hasher::new();
    let mut len = 0u64;
    in_order(
        threads,
        pieces.map(Ok),
        || Ok(Compressor::deflate(WINDOW_BITS)),
        |compressor, piece| compress(disk, compressor, piece, monitor),
        |part| {
            sum.combine(&part.sum);
            len += part.len;
            output.write(&part.bytes)
        },
    )?;
    // An empty block that says that it is the last.
    let mut end = vec![3, 0];
    end.extend(sum.finalize().to_le_bytes());
    end.extend((len as u32).to_le_bytes());
    output.write(&end)
}

/// A piece of the tar.
enum Piece {
    Bytes(Vec<u8>),
    /// Ranges of the disk, one after the other.
    Disk(Vec<Range<u64>>),
}

/// A compressed piece.
struct Part {
    bytes: Vec<u8>,
    sum: crc32fast::Hasher,
    len: u64,
}

/// Cuts the runs into pieces of [`BATCH`] bytes, the last one smaller.
fn in_pieces(runs: &[Range<u64>]) -> impl Iterator<Item = Piece> {
    let mut runs = runs.iter().cloned();
    let mut rest = 0..0;
    std::iter::from_fn(move || {
        let (mut ranges, mut len) = (Vec::new(), 0);
        while len < BATCH {
            if rest.start >= rest.end {
                match runs.next() {
                    Some(run) => rest = run,
                    None => break,
                }
            }
            let end = rest.end.min(rest.start + (BATCH - len));
            len += end - rest.start;
            ranges.push(rest.start..end);
            rest.start = end;
        }
        (len > 0).then_some(Piece::Disk(ranges))
    })
}

fn compress(
    disk: &dyn ReadAt,
    compressor: &mut Compressor,
    piece: Piece,
    monitor: Monitor<'_>,
) -> Result<Part, SinkError> {
    monitor.check()?;
    let plain = match piece {
        Piece::Bytes(bytes) => bytes,
        Piece::Disk(ranges) => {
            let mut plain = Vec::with_capacity(BATCH as usize);
            for range in ranges {
                let start = plain.len();
                plain.resize(start + (range.end - range.start) as usize, 0);
                let (_, part) = plain.split_at_mut(start);
                disk.read_exact_at(range.start, part)
                    .map_err(SinkError::Read)?;
            }
            monitor.done(plain.len() as u64);
            plain
        }
    };
    let mut sum = crc32fast::Hasher::new();
    sum.update(&plain);
    Ok(Part {
        bytes: compressor.compress_part(&plain)?,
        sum,
        len: plain.len() as u64,
    })
}

/// The header of the file with its map (GNU tar's manual, "Basic Tar Format",
/// `oldgnu_header`, and "Sparse Formats").
fn headers(runs: &[Range<u64>], size: u64) -> Vec<u8> {
    let stored = runs.iter().map(|run| run.end - run.start).sum();
    let mut map: Vec<(u64, u64)> = (runs.iter())
        .map(|run| (run.start, run.end - run.start))
        .collect();
    if runs.last().is_none_or(|run| run.end < size) {
        // An empty range says that zeros end the file.
        map.push((size, 0));
    }
    let (first, more) = map.split_at(map.len().min(IN_HEADER));
    let mut bytes = vec![0; RECORD];
    let mut put = |at: usize, value: &[u8]| {
        let field = bytes.get_mut(at..).unwrap_or_default();
        for (to, from) in field.iter_mut().zip(value) {
            *to = *from;
        }
    };
    put(0, b"disk.raw");
    put(100, b"0000644\0"); // mode
    put(108, b"0000000\0"); // owner
    put(116, b"0000000\0"); // group
    put(124, &number(stored));
    put(136, b"00000000000\0"); // 1970
    put(148, b"        "); // the sum, while it is made
    put(156, b"S");
    put(257, b"ustar  \0");
    put(386, &sparse(first));
    put(482, &[u8::from(!more.is_empty())]);
    put(483, &number(size));
    let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
    let sum = format!("{sum:06o}\0 ");
    for (to, from) in bytes.iter_mut().skip(148).zip(sum.bytes()) {
        *to = from;
    }
    let mut records = more.chunks(IN_RECORD).peekable();
    while let Some(entries) = records.next() {
        let mut record = sparse(entries);
        record.resize(IN_RECORD * 24, 0);
        record.push(u8::from(records.peek().is_some()));
        record.resize(RECORD, 0);
        bytes.extend(record);
    }
    bytes
}

fn sparse(entries: &[(u64, u64)]) -> Vec<u8> {
    let numbers = entries.iter().flat_map(|(start, len)| [*start, *len]);
    numbers.flat_map(number).collect()
}

/// Octal with eleven digits and a NUL, as GNU tar writes it; from 8 GiB on
/// base 256, with the highest bit set.
fn number(n: u64) -> [u8; 12] {
    let mut field = [0; 12];
    let text = format!("{n:011o}\0");
    if text.len() == field.len() {
        field.copy_from_slice(text.as_bytes());
    } else {
        let (mark, value) = field.split_at_mut(4);
        mark.copy_from_slice(&[0x80, 0, 0, 0]);
        value.copy_from_slice(&n.to_be_bytes());
    }
    field
}
