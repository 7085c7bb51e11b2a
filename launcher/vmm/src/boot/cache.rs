//! Decompressed kernels, kept by the digest of what they came from.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::blob::Blob;

/// A folder of decompressed kernels. What it holds can be deleted at any time.
#[derive(Debug, Clone)]
pub struct KernelCache {
    dir: PathBuf,
}

impl KernelCache {
    /// Keeps kernels in `dir`, which is made when the first is kept.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The name under which what `image` unpacks to is kept.
    pub(super) fn key(image: &Blob) -> io::Result<String> {
        let mut hasher = Sha256::new();
        match image {
            Blob::Bytes(bytes) => hasher.update(bytes),
            Blob::File(_) | Blob::Range { .. } => {
                let mut reader = image.reader(0..image.len()?);
                let mut buffer = vec![0; 1 << 18];
                loop {
                    match reader.read(&mut buffer)? {
                        0 => break,
                        count => hasher.update(&buffer[..count]),
                    }
                }
            }
        }
        let digest = hasher.finalize();
        Ok(digest.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The kernel kept as `key`.
    pub(super) fn get(&self, key: &str) -> Option<File> {
        File::open(self.path(key)).ok()
    }

    /// Keeps what `fill` writes. The name appears only when all of it is
    /// there, so a reader never meets half a kernel.
    pub(super) fn put<E: From<io::Error>>(
        &self,
        key: &str,
        fill: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<File, E> {
        fs::create_dir_all(&self.dir)?;
        let temporary = self.dir.join(format!(".{key}.{}", std::process::id()));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        let result =
            fill(&mut file).and_then(|()| fs::rename(&temporary, self.path(key)).map_err(E::from));
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result.map(|()| file)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
