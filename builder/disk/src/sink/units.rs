//! The disk in units: clusters, grains or blocks that a format allocates.

use std::ops::Range;

use super::SinkError;
use crate::reader::ReadAt;

/// The units of a disk that have to be stored, as runs of unit numbers in
/// order: those that hold data and are not zeros that the disk knows of
/// without reading files.
#[derive(Debug)]
pub(super) struct Units<'a> {
    disk: &'a dyn ReadAt,
    unit: u64,
    /// The first unit not looked at.
    next: u64,
    /// The end of the data being looked at.
    data_end: u64,
}

impl<'a> Units<'a> {
    /// The units of `unit` bytes, at least one byte.
    pub(super) fn new(disk: &'a dyn ReadAt, unit: u64) -> Self {
        Self {
            disk,
            unit,
            next: 0,
            data_end: 0,
        }
    }

    /// The next unit to store, alone.
    fn next_unit(&mut self) -> Result<Option<u64>, SinkError> {
        loop {
            // `next` cannot overflow: it is at most one past the disk's end.
            let start = self.next * self.unit;
            if start >= self.data_end {
                match self.disk.next_data(start).map_err(SinkError::Read)? {
                    None => return Ok(None),
                    Some(data) => {
                        self.next = data.start / self.unit;
                        self.data_end = data.end;
                    }
                }
                continue;
            }
            self.next += 1;
            let end = (start + self.unit).min(self.disk.size());
            if !self.disk.is_known_zero(start..end) {
                return Ok(Some(start / self.unit));
            }
        }
    }

    fn next_run(&mut self) -> Result<Option<Range<u64>>, SinkError> {
        let Some(first) = self.next_unit()? else {
            return Ok(None);
        };
        let mut end = first + 1;
        loop {
            let before = (self.next, self.data_end);
            match self.next_unit()? {
                Some(unit) if unit == end => end += 1,
                Some(_) => {
                    // Looked at again next time.
                    (self.next, self.data_end) = before;
                    return Ok(Some(first..end));
                }
                None => return Ok(Some(first..end)),
            }
        }
    }
}

impl Iterator for Units<'_> {
    type Item = Result<Range<u64>, SinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_run().transpose()
    }
}

/// Cuts runs of units into batches of at most `len` units (at least one),
/// at multiples of `len`, so that they are the same however the runs were cut.
pub(super) fn in_batches(
    units: Units<'_>,
    len: u64,
) -> impl Iterator<Item = Result<Range<u64>, SinkError>> {
    let len = len.max(1);
    units.flat_map(move |run| {
        let (mut run, error) = match run {
            Ok(run) => (run, None),
            Err(error) => (0..0, Some(Err(error))),
        };
        error.into_iter().chain(std::iter::from_fn(move || {
            let start = run.start;
            run.start = ((start / len + 1) * len).min(run.end);
            (start < run.end).then_some(Ok(start..run.start))
        }))
    })
}
