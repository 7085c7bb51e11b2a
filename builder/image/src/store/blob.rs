//! Manifests and configs, kept by their digest.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::time::SystemTime;

use super::lock::TempFile;
use super::{Store, StoreError, make_dir, optional, under};
use crate::digest::{Digest, Hasher};

/// Largest blob that is kept in bytes; no registry accepts larger manifests.
const MAX_BLOB: usize = 8 << 20;

impl Store {
    /// The small blob with this digest, if the store has it. It is verified;
    /// a damaged one is removed and counts as missing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = under(self.blobs(), digest, "");
        let io = |error| StoreError::io("read", &path)(error);
        let Some(file) = optional(File::open(&path)).map_err(io)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        (&file)
            .take(MAX_BLOB as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        if !is(&bytes, digest) {
            self.warn(format!(
                "blob {digest} in {} was damaged and has been removed",
                self.path.display()
            ));
            optional(fs::remove_file(&path)).map_err(StoreError::io("remove", &path))?;
            return Ok(None);
        }
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(bytes))
    }

    /// Keeps a small blob.
    ///
    /// # Errors
    /// It is not what the digest says, or over 8 MiB; or the store cannot be
    /// written.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let refused = |reason| {
            let digest = digest.clone();
            Err(StoreError::Blob { digest, reason })
        };
        if bytes.len() > MAX_BLOB {
            return refused("it has more than 8 MiB");
        }
        if !is(bytes, digest) {
            return refused("its content has another digest");
        }
        let path = under(self.blobs(), digest, "");
        make_dir(path.parent().unwrap_or(&self.path))?;
        let mut temp = TempFile::create(&self.temp_path(digest, "blob"), &self.interrupt)?;
        temp.file
            .write_all(bytes)
            .map_err(StoreError::io("write", &path))?;
        temp.rename(&path)?;
        Ok(())
    }
}

/// Whether the bytes have the digest.
pub(super) fn is(bytes: &[u8], digest: &Digest) -> bool {
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(bytes);
    hasher.finish() == *digest
}
