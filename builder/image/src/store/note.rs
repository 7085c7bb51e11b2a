//! A note beside a layer: what is worth remembering about it and can be found
//! out again, such as what it becomes when it is compressed.

use std::fs::File;
use std::io::{Read as _, Write as _};

use super::lock::TempFile;
use super::{Layer, Store, StoreError, optional};

/// Longest note in bytes: 36 for each MiB of a layer, and its runs.
const MAX_NOTE: u64 = 256 << 20;

impl Store {
    /// The note beside a layer, if there is one. It has a checksum, so that
    /// what comes back is what was written.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn note(&self, layer: &Layer) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.note_path(layer.diff_id());
        let io = |error| StoreError::io("read", &path)(error);
        let Some(file) = optional(File::open(&path)).map_err(io)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MAX_NOTE).read_to_end(&mut bytes).map_err(io)?;
        let Some((sum, note)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let good = u32::from_le_bytes(*sum) == crc32c::crc32c(note);
        Ok(good.then(|| note.to_vec()))
    }

    /// Puts a note beside a layer, in the place of one that is there. It goes
    /// when the layer goes.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_note(&self, layer: &Layer, note: &[u8]) -> Result<(), StoreError> {
        let path = self.note_path(layer.diff_id());
        let mut temp = TempFile::create(&self.temp_path(layer.diff_id(), "note"), &self.interrupt)?;
        let sum = crc32c::crc32c(note).to_le_bytes();
        temp.file
            .write_all(&sum)
            .and_then(|()| temp.file.write_all(note))
            .map_err(StoreError::io("write", &path))?;
        temp.rename(&path)?;
        Ok(())
    }
}
