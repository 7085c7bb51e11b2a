//! Raw: the disk's bytes as they are.

use super::SinkError;
use super::output::Output;
use crate::reader::ReadAt;

/// Writes all of `disk`.
pub(super) fn write(disk: &dyn ReadAt, output: &mut Output<'_>) -> Result<(), SinkError> {
    while let Some(data) = disk.next_data(output.position()).map_err(SinkError::Read)? {
        output.zeros(data.start - output.position())?;
        output.copy(disk, data)?;
    }
    output.zeros(disk.size() - output.position())
}
