//! The layer store: packs and indexes by diff id.
//!
//! A layer's blob goes in once ([`Store::add_layer`]); its [`Layer`] comes out
//! as often as it is needed ([`Store::layer`]). The store is a cache that any
//! number of processes share: everything in it can be fetched again, nothing
//! in it changes once it has its name, and what is damaged is found and
//! removed. The format is described in docs/src/formats/store.md.

mod blob;
mod build;
mod decompress;
mod error;
mod index;
mod ingest;
mod lock;
mod maintain;
mod note;
mod pack;
mod skeleton;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

pub use self::error::StoreError;
pub use self::index::{Index, IndexError};
pub use self::maintain::{LayerInfo, PrunePolicy, PruneReport, VerifyReport};
pub use self::skeleton::{TarReader, TarRun};
pub use crate::tar::Limits;

use self::index::{BootId, WRITTEN_UNDER_AT};
use self::lock::TempFile;
use crate::digest::{Algorithm, Digest};
use crate::layer::Entry;

/// Version of the store's layout on disk.
pub const VERSION: u32 = 2;

const VERSION_TEXT: &str = "bootwright store ";

/// A layer store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    boot: Option<BootId>,
    interrupt: Interrupt,
    warnings: Mutex<Vec<String>>,
}

/// What is known of a layer's blob before it is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlobInfo {
    /// Its digest; `None` where the source knows only the diff id.
    pub digest: Option<Digest>,
    /// Its length in bytes; `None` where the source does not say.
    pub size: Option<u64>,
}

/// A layer of the store. Its pack stays where it is, whatever is pruned, as
/// long as this or a clone of it lives.
#[derive(Debug, Clone)]
pub struct Layer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pack_path: PathBuf,
    skeleton_path: PathBuf,
    index: Index,
    /// Open with a shared lock.
    pack: File,
}

impl Layer {
    /// The diff id.
    pub fn diff_id(&self) -> &Digest {
        self.inner.index.diff_id()
    }

    /// Where the pack is.
    pub fn pack_path(&self) -> &Path {
        &self.inner.pack_path
    }

    /// The length of the pack in bytes, a multiple of 4096.
    pub fn pack_len(&self) -> u64 {
        self.inner.index.pack_len()
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// The entries in tar order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> + '_ {
        self.inner.index.entries()
    }

    /// The layer's uncompressed tar, byte for byte as it was read. Whether it
    /// still is, its digest tells: it must be the diff id.
    ///
    /// # Errors
    /// The layer's files cannot be opened. Damage shows when it is read.
    pub fn tar(&self) -> Result<TarReader, StoreError> {
        let path = &self.inner.skeleton_path;
        let open = |file| {
            let pack = self.inner.pack.try_clone()?;
            TarReader::new(file, pack, self.pack_len(), self.index().tar_len())
        };
        File::open(path)
            .and_then(open)
            .map_err(StoreError::io("read", path))
    }

    /// Which runs of the tar are where in the pack, in tar order.
    ///
    /// # Errors
    /// The layer's files cannot be read, or are damaged.
    pub fn tar_runs(&self) -> Result<Vec<TarRun>, StoreError> {
        let path = &self.inner.skeleton_path;
        File::open(path)
            .and_then(|file| skeleton::runs(file, self.pack_len(), self.index().tar_len()))
            .map_err(StoreError::io("read", path))
    }
}

/// A flag that says that the user wants to stop.
#[derive(Clone, Default)]
struct Interrupt(Option<Arc<AtomicBool>>);

impl Interrupt {
    fn raised(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.raised() {
            true => Err(StoreError::Interrupted),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interrupt({})", self.raised())
    }
}

/// What there is of a layer on disk.
enum Found {
    Nothing,
    Layer(Layer),
    Bad(String),
}

impl Store {
    /// Opens the store at `path`, by default `$XDG_CACHE_HOME/bootwright` or
    /// `$HOME/.cache/bootwright`; makes it (mode 0700) where there is none.
    /// Removes what killed processes left behind.
    ///
    /// # Errors
    /// It cannot be made or read, is something else, or was written by a newer
    /// version.
    pub fn open(path: Option<&Path>) -> Result<Self, StoreError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => default_path()?,
        };
        // Plans name packs by path and outlive changes of directory.
        let path = std::path::absolute(&path).map_err(StoreError::io("find", &path))?;
        let store = Self {
            path,
            boot: boot_id(),
            interrupt: Interrupt::default(),
            warnings: Mutex::default(),
        };
        store.set_up()?;
        lock::clean(&store.tmp());
        Ok(store)
    }

    /// The same store, but work on it ends with [`StoreError::Interrupted`]
    /// soon after the flag is raised.
    #[must_use]
    pub fn interruptible(mut self, flag: Arc<AtomicBool>) -> Self {
        self.interrupt = Interrupt(Some(flag));
        self
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know of since this was last called: damaged
    /// layers that were removed.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut warnings)
    }

    /// The layer with this diff id, if the store has it. A damaged one is
    /// removed with a warning and counts as missing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>, StoreError> {
        match self.find(diff_id)? {
            Found::Nothing => Ok(None),
            Found::Layer(layer) => Ok(Some(layer)),
            Found::Bad(_) => {
                let _lock = TempFile::create(&self.lock_path(diff_id), &self.interrupt)?;
                // Another process may have replaced it meanwhile.
                self.layer_locked(diff_id)
            }
        }
    }

    /// The same while the layer's lock is held.
    fn layer_locked(&self, diff_id: &Digest) -> Result<Option<Layer>, StoreError> {
        match self.find(diff_id)? {
            Found::Nothing => Ok(None),
            Found::Layer(layer) => Ok(Some(layer)),
            Found::Bad(reason) => {
                self.warn(format!(
                    "layer {diff_id} in {} was damaged and has been removed: {reason}",
                    self.path.display()
                ));
                self.remove_files(diff_id)?;
                Ok(None)
            }
        }
    }

    fn find(&self, diff_id: &Digest) -> Result<Found, StoreError> {
        let pack_path = self.pack_path(diff_id);
        let pack = loop {
            let Some(pack) =
                optional(File::open(&pack_path)).map_err(StoreError::io("open", &pack_path))?
            else {
                return Ok(Found::Nothing);
            };
            // Prune locks packs exclusively, for no longer than it takes to
            // remove them.
            pack.lock_shared()
                .map_err(StoreError::io("lock", &pack_path))?;
            if lock::is_at(&pack, &pack_path).map_err(StoreError::io("read", &pack_path))? {
                break pack;
            }
        };
        let index_path = self.index_path(diff_id);
        let io = |error| StoreError::io("read", &index_path)(error);
        // Writing is for marks only; a store that may only be read will do.
        let opened = File::options().read(true).write(true).open(&index_path);
        let opened = opened.or_else(|_| File::open(&index_path));
        let Some(mut file) = optional(opened).map_err(io)? else {
            return Ok(Found::Nothing);
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let index = match Index::parse(bytes) {
            Ok(index) if index.diff_id() == diff_id => index,
            Ok(index) => {
                return Ok(Found::Bad(format!(
                    "its index is that of {}",
                    index.diff_id()
                )));
            }
            Err(error) => return Ok(Found::Bad(format!("its index is unusable: {error}"))),
        };
        let under = index.written_under();
        let checked = match under == BootId::default() || Some(under) == self.boot {
            true => pack::check_length(&pack, index.pack_len()),
            false => self.check_after_boot(&pack, &index, &file),
        };
        if let Err(error) = checked {
            return Ok(Found::Bad(error.to_string()));
        }
        // Whoever adds or removes a layer never has an index without it.
        let skeleton_path = self.skeleton_path(diff_id);
        if !skeleton_path.exists() {
            return Ok(Found::Bad("its skeleton is missing".to_owned()));
        }
        // For prune; where that is not allowed the layer only looks older.
        let _ = file.set_modified(SystemTime::now());
        let inner = Inner {
            pack_path,
            skeleton_path,
            index,
            pack,
        };
        Ok(Found::Layer(Layer {
            inner: Arc::new(inner),
        }))
    }

    /// The machine was started anew since the pack was written, perhaps
    /// because it crashed before all of it was on the disk.
    fn check_after_boot(
        &self,
        pack: &File,
        index: &Index,
        file: &File,
    ) -> Result<(), pack::PackError> {
        pack::check(pack, index.pack_len(), index.chunk_sums(), |_| ())?;
        let skeleton = File::open(self.skeleton_path(index.diff_id()));
        skeleton
            .and_then(|skeleton| skeleton::check(skeleton, index.skeleton_sum()))
            .map_err(pack::PackError::Skeleton)?;
        // It was read from the disk, so it is there for good.
        let _ = file.write_all_at(&BootId::default(), WRITTEN_UNDER_AT);
        Ok(())
    }

    /// Gives a complete layer its names. The index comes last: without it
    /// there is no layer.
    fn commit(
        &self,
        diff_id: &Digest,
        pack: TempFile,
        skeleton: TempFile,
        index_file: TempFile,
        index: Index,
    ) -> Result<Layer, StoreError> {
        let pack_path = self.pack_path(diff_id);
        make_dir(pack_path.parent().unwrap_or(&self.path))?;
        let pack = pack.rename(&pack_path)?;
        // Nobody can take it away in between: prune needs the layer's lock.
        pack.lock_shared()
            .map_err(StoreError::io("lock", &pack_path))?;
        let skeleton_path = self.skeleton_path(diff_id);
        skeleton.rename(&skeleton_path)?;
        index_file.rename(&self.index_path(diff_id))?;
        let inner = Inner {
            pack_path,
            skeleton_path,
            index,
            pack,
        };
        Ok(Layer {
            inner: Arc::new(inner),
        })
    }

    /// Removes a layer; its lock must be held.
    fn remove_files(&self, diff_id: &Digest) -> Result<(), StoreError> {
        for path in [
            self.index_path(diff_id),
            self.note_path(diff_id),
            self.skeleton_path(diff_id),
            self.pack_path(diff_id),
        ] {
            optional(fs::remove_file(&path)).map_err(StoreError::io("remove", &path))?;
        }
        Ok(())
    }

    fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(warning);
    }

    fn set_up(&self) -> Result<(), StoreError> {
        make_dir(&self.path)?;
        let version = self.path.join("version");
        let text =
            optional(fs::read_to_string(&version)).map_err(StoreError::io("read", &version))?;
        let not_a_store = || StoreError::NotAStore(self.path.clone());
        let found = match &text {
            Some(text) => {
                let number = text.trim_end().strip_prefix(VERSION_TEXT);
                let number = number.and_then(|n| n.parse::<u32>().ok());
                Some(number.ok_or_else(not_a_store)?)
            }
            None => None,
        };
        match found {
            Some(VERSION) => {}
            Some(found) if found > VERSION => {
                let path = self.path.clone();
                return Err(StoreError::Newer { path, found });
            }
            // A cache is brought up to date by filling it again.
            Some(_older) => {
                for dir in [self.layers(), self.blobs()] {
                    optional(fs::remove_dir_all(&dir)).map_err(StoreError::io("remove", &dir))?;
                }
                self.write_version(&version)?;
            }
            None => {
                let entries =
                    fs::read_dir(&self.path).map_err(StoreError::io("read", &self.path))?;
                let is_foreign = |entry: io::Result<fs::DirEntry>| {
                    // Another process may be making the store right now.
                    entry.is_ok_and(|e| e.file_name() != "tmp" && e.file_name() != "version")
                };
                if entries.into_iter().any(is_foreign) && !version.exists() {
                    return Err(not_a_store());
                }
                self.write_version(&version)?;
            }
        }
        for dir in [self.tmp(), self.layers(), self.blobs()] {
            make_dir(&dir)?;
        }
        Ok(())
    }

    fn write_version(&self, path: &Path) -> Result<(), StoreError> {
        make_dir(&self.tmp())?;
        let mut temp = TempFile::create(&self.tmp().join("version"), &self.interrupt)?;
        io::Write::write_all(
            &mut temp.file,
            format!("{VERSION_TEXT}{VERSION}\n").as_bytes(),
        )
        .map_err(StoreError::io("write", path))?;
        temp.rename(path)?;
        Ok(())
    }

    fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    fn layers(&self) -> PathBuf {
        self.path.join("layers")
    }

    fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    fn pack_path(&self, diff_id: &Digest) -> PathBuf {
        under(self.layers(), diff_id, ".pack")
    }

    fn index_path(&self, diff_id: &Digest) -> PathBuf {
        under(self.layers(), diff_id, ".index")
    }

    fn skeleton_path(&self, diff_id: &Digest) -> PathBuf {
        under(self.layers(), diff_id, ".skeleton")
    }

    fn note_path(&self, diff_id: &Digest) -> PathBuf {
        under(self.layers(), diff_id, ".note")
    }

    fn lock_path(&self, diff_id: &Digest) -> PathBuf {
        self.temp_path(diff_id, "lock")
    }

    fn temp_path(&self, digest: &Digest, what: &str) -> PathBuf {
        let name = algorithm_name(digest.algorithm());
        self.tmp().join(format!("{name}-{}.{what}", digest.hex()))
    }
}

/// `DIR/ALGORITHM/HEX` with a suffix.
fn under(dir: PathBuf, digest: &Digest, suffix: &str) -> PathBuf {
    dir.join(algorithm_name(digest.algorithm()))
        .join(format!("{}{suffix}", digest.hex()))
}

fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha256 => "sha256",
        Algorithm::Sha512 => "sha512",
    }
}

fn default_path() -> Result<PathBuf, StoreError> {
    // The XDG base directory specification: relative paths are ignored.
    let dir = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path: &PathBuf| path.is_absolute())
    };
    let cache = dir("XDG_CACHE_HOME").or_else(|| dir("HOME").map(|home| home.join(".cache")));
    Ok(cache.ok_or(StoreError::NoHome)?.join("bootwright"))
}

/// The kernel's random(4): a UUID that is new at every boot.
fn boot_id() -> Option<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits = text.bytes().filter(u8::is_ascii_hexdigit);
    let digits: Vec<u8> = digits
        .filter_map(|d| char::from(d).to_digit(16)?.try_into().ok())
        .collect();
    let (pairs, _) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    BootId::try_from(bytes)
        .ok()
        .filter(|id| *id != BootId::default())
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StoreError::io("create", path))
}

/// `None` for what does not exist.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
