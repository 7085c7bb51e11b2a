//! Sparse files, see "Sparse Formats" in GNU tar's manual: the old GNU form
//! and pax versions 0.0, 0.1 and 1.0.

use super::header::size;
use super::{BLOCK, Run};

/// A decimal number of at most 64 bits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Adds the entries of an old GNU header or extension block to `numbers`,
/// offset and length by turns. Unused entries are empty and come last.
pub(super) fn old_gnu(entries: &[u8], numbers: &mut Vec<u64>) -> Result<(), &'static str> {
    for entry in entries.chunks_exact(24) {
        let (offset, len) = entry.split_at(12);
        if offset.first().is_none_or(|&b| b == 0) {
            break;
        }
        for field in [offset, len] {
            numbers.push(size(field).ok_or("its sparse map is no list of numbers")?);
        }
    }
    Ok(())
}

/// The map of version 1.0, which stands before the data: lines with the
/// number of segments, then offset and length of each; padded to a block.
#[derive(Debug, Default)]
pub(super) struct Map1 {
    expected: Option<usize>,
    numbers: Vec<u64>,
    digits: Vec<u8>,
}

impl Map1 {
    /// Takes the next block; `Some` with the numbers when it was the last.
    pub(super) fn block(
        &mut self,
        block: &[u8; BLOCK],
        max_segments: usize,
    ) -> Result<Option<Vec<u64>>, &'static str> {
        for &byte in block {
            if byte != b'\n' {
                if self.digits.len() >= 20 {
                    return Err("its sparse map is no list of numbers");
                }
                self.digits.push(byte);
                continue;
            }
            let number = decimal(&self.digits).ok_or("its sparse map is no list of numbers")?;
            self.digits.clear();
            let expected = match self.expected {
                None => {
                    let segments = usize::try_from(number).ok().filter(|&n| n <= max_segments);
                    *self
                        .expected
                        .insert(segments.ok_or("it has too many sparse segments")? * 2)
                }
                Some(expected) => {
                    self.numbers.push(number);
                    expected
                }
            };
            if self.numbers.len() >= expected {
                return Ok(Some(std::mem::take(&mut self.numbers)));
            }
        }
        Ok(None)
    }
}

/// Turns offsets and lengths into `runs`. They must be sorted, inside the
/// file, not overlapping, and in all as long as the `stored` data.
pub(super) fn runs(
    numbers: &[u64],
    file_size: u64,
    stored: u64,
    runs: &mut Vec<Run>,
) -> Result<(), &'static str> {
    let (pairs, odd) = numbers.as_chunks::<2>();
    if !odd.is_empty() {
        return Err("its sparse map has an offset without a length");
    }
    let (mut end, mut total) = (0u64, 0u64);
    for &[offset, len] in pairs {
        if offset < end {
            return Err("its sparse map overlaps or is not sorted");
        }
        end = offset
            .checked_add(len)
            .filter(|&end| end <= file_size)
            .ok_or("its sparse map goes past the end of the file")?;
        // Cannot overflow: the runs are disjoint parts of the file.
        total += len;
        if len > 0 {
            runs.push(Run { offset, len });
        }
    }
    if total != stored {
        return Err("its sparse map and its data differ in length");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_maps_are_refused() {
        let cases: [(&[u64], u64, u64, &str); 7] = [
            (&[0, 10, 5, 10], 100, 20, "overlaps"),
            (&[50, 10, 0, 10], 100, 20, "overlaps"),
            (&[0, 101], 100, 101, "past the end"),
            (&[u64::MAX, 2], u64::MAX, 2, "past the end"),
            (&[0, 10, 20, u64::MAX], u64::MAX, 9, "past the end"),
            (&[0, 10], 100, 11, "differ"),
            (&[0, 10, 20], 100, 10, "without a length"),
        ];
        for (numbers, size, stored, why) in cases {
            let error = runs(numbers, size, stored, &mut Vec::new()).unwrap_err();
            assert!(error.contains(why), "{numbers:?}: {error}");
        }
        let mut good = Vec::new();
        assert_eq!(runs(&[0, 0, 7, 3, 100, 0], 100, 3, &mut good), Ok(()));
        assert_eq!(good, [Run { offset: 7, len: 3 }]);
    }
}
