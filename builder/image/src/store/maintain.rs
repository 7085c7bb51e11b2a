//! Looking after the store: what is in it, what can go, what is damaged.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zerocopy::FromBytes as _;

use super::index::{Header, Index, MAGIC};
use super::lock::{self, TempFile};
use super::{Store, StoreError, blob, optional, pack, skeleton};
use crate::digest::Digest;

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its diff id.
    pub diff_id: Digest,
    /// Number of entries.
    pub entries: u32,
    /// Length of the pack in bytes.
    pub pack_len: u64,
    /// Bytes that pack, index and skeleton take on the disk.
    pub stored: u64,
    /// When it was last used.
    pub last_used: SystemTime,
}

/// What [`Store::prune`] removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrunePolicy {
    /// Everything.
    All,
    /// What was not used for this long.
    OlderThan(Duration),
    /// The least recently used, until the rest takes no more than so many
    /// bytes on the disk.
    KeepSize(u64),
}

/// What [`Store::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Diff ids of the layers that were removed, the least recently used
    /// first.
    pub removed: Vec<Digest>,
    /// Bytes that were freed on the disk.
    pub freed: u64,
    /// Layers that should go but are in use.
    pub in_use: Vec<Digest>,
    /// Bytes that what is left takes on the disk.
    pub left: u64,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// How many layers and blobs were checked.
    pub checked: usize,
    /// The damaged ones, and what is wrong with them.
    pub bad: Vec<(Digest, String)>,
}

/// A layer or a small blob.
struct Item {
    digest: Digest,
    /// `None` for a layer.
    blob: Option<PathBuf>,
    stored: u64,
    last_used: SystemTime,
}

impl Store {
    /// The layers in the store, by diff id.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<LayerInfo>, StoreError> {
        let mut layers = Vec::new();
        for item in self.layer_items()? {
            let mut bytes = Vec::new();
            let path = self.index_path(&item.digest);
            let Some(file) = optional(File::open(&path)).map_err(StoreError::io("open", &path))?
            else {
                continue;
            };
            file.take(size_of::<Header>() as u64)
                .read_to_end(&mut bytes)
                .map_err(StoreError::io("read", &path))?;
            let header = Header::read_from_bytes(&bytes).ok();
            let header = header.filter(|header| header.magic == MAGIC);
            layers.push(LayerInfo {
                diff_id: item.digest,
                entries: header.as_ref().map_or(0, |h| h.entries.get()),
                pack_len: header.as_ref().map_or(0, |h| h.pack_len.get()),
                stored: item.stored,
                last_used: item.last_used,
            });
        }
        Ok(layers)
    }

    /// Removes what the policy says, except layers that are in use by this or
    /// another process, and what killed processes left behind. With `dry_run`
    /// nothing is removed, only reported.
    ///
    /// # Errors
    /// The store cannot be read or changed.
    pub fn prune(&self, policy: PrunePolicy, dry_run: bool) -> Result<PruneReport, StoreError> {
        if !dry_run {
            lock::clean(&self.tmp());
            self.remove_orphans()?;
        }
        let mut items = self.layer_items()?;
        items.extend(self.blob_items()?);
        items.sort_by(|a, b| (a.last_used, &a.digest).cmp(&(b.last_used, &b.digest)));
        let mut report = PruneReport {
            left: items.iter().map(|item| item.stored).sum(),
            ..PruneReport::default()
        };
        let now = SystemTime::now();
        for item in items {
            let goes = match policy {
                PrunePolicy::All => true,
                // A time in the future counts as just now.
                PrunePolicy::OlderThan(age) => {
                    now.duration_since(item.last_used).unwrap_or_default() > age
                }
                PrunePolicy::KeepSize(size) => report.left > size,
            };
            if !goes {
                continue;
            }
            self.interrupt.check()?;
            if let Some(path) = &item.blob {
                if !dry_run {
                    optional(fs::remove_file(path)).map_err(StoreError::io("remove", path))?;
                }
            } else if self.remove_unused(&item.digest, dry_run)? {
                report.removed.push(item.digest);
            } else {
                report.in_use.push(item.digest);
                continue;
            }
            report.freed += item.stored;
            report.left = report.left.saturating_sub(item.stored);
        }
        Ok(report)
    }

    /// Reads every layer and blob and checks it against its sums; `progress`
    /// is told the number of bytes read since it was last called. With
    /// `remove` damaged ones are removed, so that they are fetched again.
    ///
    /// # Errors
    /// The store cannot be read or changed.
    pub fn verify(
        &self,
        remove: bool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport::default();
        for item in self.layer_items()? {
            self.interrupt.check()?;
            report.checked += 1;
            let result = self.verify_layer(&item.digest, progress);
            // Unless it was pruned meanwhile.
            if let Err(reason) = result
                && self.index_path(&item.digest).exists()
            {
                if remove {
                    let _lock = TempFile::create(&self.lock_path(&item.digest), &self.interrupt)?;
                    self.remove_files(&item.digest)?;
                }
                report.bad.push((item.digest, reason));
            }
        }
        for item in self.blob_items()? {
            let Some(path) = item.blob else { continue };
            let read = optional(fs::read(&path)).map_err(StoreError::io("read", &path))?;
            let Some(bytes) = read else { continue };
            report.checked += 1;
            progress(bytes.len() as u64);
            if !blob::is(&bytes, &item.digest) {
                if remove {
                    optional(fs::remove_file(&path)).map_err(StoreError::io("remove", &path))?;
                }
                report
                    .bad
                    .push((item.digest, "its content has another digest".to_owned()));
            }
        }
        Ok(report)
    }

    fn verify_layer(
        &self,
        diff_id: &Digest,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), String> {
        // Open files stay readable when prune removes them meanwhile.
        let pack = File::open(self.pack_path(diff_id));
        let index = fs::read(self.index_path(diff_id));
        let (pack, bytes) = match (optional(pack), optional(index)) {
            (Ok(Some(pack)), Ok(Some(bytes))) => (pack, bytes),
            // Pruned since it was listed.
            (Ok(_), Ok(None)) => return Ok(()),
            (Ok(None), Ok(Some(_))) => return Err("its pack is missing".to_owned()),
            (Err(error), _) | (_, Err(error)) => return Err(error.to_string()),
        };
        let index = Index::parse(bytes).map_err(|e| format!("its index is unusable: {e}"))?;
        if index.diff_id() != diff_id {
            return Err(format!("its index is that of {}", index.diff_id()));
        }
        pack::check(&pack, index.pack_len(), index.chunk_sums(), progress)
            .map_err(|e| e.to_string())?;
        let open = || File::open(self.skeleton_path(diff_id));
        open()
            .and_then(|file| skeleton::check(file, index.skeleton_sum()))
            .and_then(|()| open())
            .and_then(|file| skeleton::runs(file, index.pack_len(), index.tar_len()))
            .map(|_| ())
            .map_err(|e| format!("its skeleton is unusable: {e}"))
    }

    /// Removes a layer unless somebody uses or adds it; says whether it did.
    fn remove_unused(&self, diff_id: &Digest, dry_run: bool) -> Result<bool, StoreError> {
        let Some(_lock) = TempFile::try_create(&self.lock_path(diff_id))? else {
            return Ok(false);
        };
        let path = self.pack_path(diff_id);
        // Network file systems lock exclusively only what is open for writing.
        let pack = File::options().read(true).write(true).open(&path);
        let pack = optional(pack).map_err(StoreError::io("open", &path))?;
        if let Some(pack) = &pack
            && !lock::try_lock(pack).map_err(StoreError::io("lock", &path))?
        {
            return Ok(false);
        }
        if !dry_run {
            self.remove_files(diff_id)?;
        }
        Ok(true)
    }

    /// Removes packs, skeletons and notes whose process was killed before it gave
    /// their index its name.
    fn remove_orphans(&self) -> Result<(), StoreError> {
        let mut files = self.files(&self.layers(), ".pack")?;
        files.extend(self.files(&self.layers(), ".skeleton")?);
        files.extend(self.files(&self.layers(), ".note")?);
        for (path, digest) in files {
            let index = self.index_path(&digest);
            if !index.exists()
                && let Some(_lock) = TempFile::try_create(&self.lock_path(&digest))?
                && !index.exists()
            {
                optional(fs::remove_file(&path)).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn layer_items(&self) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        for (path, digest) in self.files(&self.layers(), ".index")? {
            let index = optional(fs::metadata(&path)).map_err(StoreError::io("read", &path))?;
            let Some(index) = index else { continue };
            let others = [
                self.pack_path(&digest),
                self.skeleton_path(&digest),
                self.note_path(&digest),
            ];
            let others = others.iter().filter_map(|path| fs::metadata(path).ok());
            let stored = on_disk(&index) + others.map(|metadata| on_disk(&metadata)).sum::<u64>();
            items.push(Item {
                digest,
                blob: None,
                stored,
                last_used: index.modified().map_err(StoreError::io("read", &path))?,
            });
        }
        Ok(items)
    }

    fn blob_items(&self) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        for (path, digest) in self.files(&self.blobs(), "")? {
            let metadata = optional(fs::metadata(&path)).map_err(StoreError::io("read", &path))?;
            let Some(metadata) = metadata else { continue };
            items.push(Item {
                digest,
                stored: on_disk(&metadata),
                last_used: metadata.modified().map_err(StoreError::io("read", &path))?,
                blob: Some(path),
            });
        }
        Ok(items)
    }

    /// The files `DIR/ALGORITHM/HEX` with a suffix, by digest.
    fn files(&self, dir: &Path, suffix: &str) -> Result<Vec<(PathBuf, Digest)>, StoreError> {
        let mut files = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let dir = dir.join(algorithm);
            let entries = optional(fs::read_dir(&dir)).map_err(StoreError::io("read", &dir))?;
            for entry in entries.into_iter().flatten() {
                let entry = entry.map_err(StoreError::io("read", &dir))?;
                let name = entry.file_name();
                let hex = name.to_str().and_then(|name| name.strip_suffix(suffix));
                if let Some(Ok(digest)) =
                    hex.map(|hex| format!("{algorithm}:{hex}").parse::<Digest>())
                {
                    files.push((entry.path(), digest));
                }
            }
        }
        files.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(files)
    }
}

fn on_disk(metadata: &fs::Metadata) -> u64 {
    // st_blocks counts 512 bytes whatever the file system's blocks are.
    metadata.blocks() * 512
}
