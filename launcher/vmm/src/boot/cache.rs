//! Decompressed kernels, kept by the digest of what they came from.
//!
//! To read a kernel only to know that it is known takes longer than all else that
//! a guest's start does with it. So the digest of a file, or of a part of one, is
//! kept, too, by what says that it is that file: its device, inode, size and
//! change time, which no program can set. Files on a file system that may have
//! come with such times are read: on any but that of the kept kernels, unless they
//! stay as they are (a layer of the store).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::blob::Blob;

/// How long a file must have been left alone for its digest to be kept: it could
/// change again within the change time's resolution.
const SETTLED: Duration = Duration::from_secs(2);

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
    pub(super) fn key(&self, image: &Blob) -> io::Result<String> {
        let Some(identity) = self.identity(image)? else {
            return digest(image);
        };
        let path = self.path(&identity);
        let known = fs::read_to_string(&path).unwrap_or_default();
        let is_digest = known.len() == 64 && known.bytes().all(|b| b.is_ascii_hexdigit());
        if is_digest && self.path(&known).exists() {
            return Ok(known);
        }
        let digest = digest(image)?;
        // What cannot be kept is only slower.
        let _ = self.write(&identity, |file| {
            io::Write::write_all(file, digest.as_bytes())
        });
        Ok(digest)
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
        self.write(key, fill)
    }

    /// Makes or replaces a file of the folder.
    fn write<E: From<io::Error>>(
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

    /// The name for what is known of the bytes as long as they are the same; none
    /// if that cannot be told.
    fn identity(&self, image: &Blob) -> io::Result<Option<String>> {
        let (file, offset, fixed) = match image {
            Blob::Bytes(_) => return Ok(None),
            Blob::File(file) => (file, 0, false),
            Blob::Range {
                file,
                offset,
                fixed,
                ..
            } => (file, *offset, *fixed),
        };
        let metadata = file.metadata()?;
        // Files in memory have no name to come back to.
        if !metadata.is_file() || metadata.nlink() == 0 || !has_settled(&metadata) {
            return Ok(None);
        }
        if !fixed {
            let _ = fs::create_dir_all(&self.dir);
            let ours = fs::metadata(&self.dir).map(|dir| dir.dev());
            if ours.ok() != Some(metadata.dev()) {
                return Ok(None);
            }
        }
        let words = [
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.ctime() as u64,
            metadata.ctime_nsec() as u64,
            offset,
            image.len()?,
        ];
        let mut hasher = Sha256::new();
        for word in words {
            hasher.update(word.to_le_bytes());
        }
        Ok(Some(format!("id-{}", hex(&hasher.finalize()))))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The digest of all bytes, in hexadecimal.
fn digest(image: &Blob) -> io::Result<String> {
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
    Ok(hex(&hasher.finalize()))
}

/// Whether a file has been left alone for long enough.
fn has_settled(metadata: &fs::Metadata) -> bool {
    let changed = u64::try_from(metadata.ctime())
        .ok()
        .and_then(|secs| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(secs)));
    let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
    age.is_some_and(|age| age >= SETTLED)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn blob(path: &Path, fixed: bool) -> Blob {
        let file = File::open(path).unwrap();
        Blob::Range {
            len: file.metadata().unwrap().len(),
            file: Arc::new(file),
            offset: 0,
            fixed,
        }
    }

    /// A file that looks as if nobody had touched it for a while.
    fn settled(path: &Path) -> Blob {
        std::thread::sleep(SETTLED + Duration::from_secs(1));
        blob(path, true)
    }

    #[test]
    fn a_kernel_that_is_known_is_known_until_its_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(dir.path().join("kernels"));
        let path = dir.path().join("kernel");
        fs::write(&path, b"one").unwrap();
        // Too young to be told apart from what it may become.
        let key = cache.key(&blob(&path, true)).unwrap();
        assert_eq!(fs::read_dir(cache.dir()).map_or(0, Iterator::count), 0);
        let old = settled(&path);
        assert_eq!(cache.key(&old).unwrap(), key);
        assert_eq!(fs::read_dir(cache.dir()).unwrap().count(), 1);
        let known = fs::read_dir(cache.dir()).unwrap().next().unwrap().unwrap();
        // What is kept is believed, as long as there is such a kernel.
        let other = "0".repeat(64);
        fs::write(known.path(), &other).unwrap();
        assert_eq!(cache.key(&old).unwrap(), key);
        fs::write(known.path(), &other).unwrap();
        cache.put(&other, |_| io::Result::Ok(())).unwrap();
        assert_eq!(cache.key(&old).unwrap(), other);
        fs::write(known.path(), "../kernel").unwrap();
        assert_eq!(cache.key(&old).unwrap(), key);
        // The same size, the same modification time, other bytes.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        io::Write::write_all(&mut &file, b"two").unwrap();
        file.set_modified(time).unwrap();
        assert_ne!(cache.key(&settled(&path)).unwrap(), key);
    }

    #[test]
    fn a_file_that_may_be_anything_is_known_on_the_cache_s_own_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(dir.path().join("kernels"));
        let kept = || fs::read_dir(cache.dir()).map_or(0, Iterator::count);
        let key = |path: &Path| {
            fs::write(path, b"kernel").unwrap();
            std::thread::sleep(SETTLED + Duration::from_secs(1));
            let file = File::open(path).unwrap();
            assert_eq!(
                cache.key(&Blob::from(file)).unwrap(),
                cache.key(&blob(path, false)).unwrap()
            );
        };
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let device = |path: &Path| fs::metadata(path).unwrap().dev();
        if device(elsewhere.path()) != device(dir.path()) {
            key(&elsewhere.path().join("kernel"));
            assert_eq!(kept(), 0);
        }
        key(&dir.path().join("kernel"));
        assert_eq!(kept(), 1);
    }
}
