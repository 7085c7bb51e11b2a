//! A registry as a place for blobs.
//!
//! A blob is made into a file without a name, because its digest is known only
//! at its end, and uploaded while the next one is made; several go at once. A
//! manifest waits for all of them. The first error stops everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bootwright_image::Digest;
use bootwright_image::registry::{Blob, BlobContent, Registry, RegistryError, Uploaded};
use bootwright_image::source::Observer;

use crate::error::DeliveryError;
use crate::frames::Written;
use crate::oci::{Descriptor, Index};
use crate::sink::BlobSink;

/// Who is told how an upload goes. Called from several threads.
pub trait Progress: Sync {
    /// A blob of `size` bytes is looked for, and then sent.
    fn started(&self, blob: &Digest, size: u64);
    /// So many bytes of it are sent; fewer than before when some have to be
    /// sent again.
    fn reached(&self, blob: &Digest, bytes: u64);
    /// The registry has it.
    fn finished(&self, blob: &Digest, size: u64, how: Uploaded);
    /// Something failed and will be tried again.
    fn retrying(&self, message: &str);
    /// Whether to stop at the next occasion.
    fn cancelled(&self) -> bool {
        false
    }
}

/// How blobs are uploaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// Blobs that are uploaded at once.
    pub parallel: NonZeroUsize,
    /// Where blobs wait for their upload.
    pub spool: PathBuf,
    /// Repositories of the same registry that may have blobs already.
    pub mount_from: Vec<String>,
}

/// A registry that is being pushed to.
pub struct RegistrySink<'a> {
    registry: &'a Registry,
    options: Options,
    progress: &'a dyn Progress,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Blob>,
    /// How many are being uploaded.
    busy: usize,
    /// All that were taken on, so that none is sent twice.
    taken: BTreeSet<Digest>,
    done: BTreeMap<Digest, Uploaded>,
    /// The first error, until somebody takes it.
    error: Option<DeliveryError>,
    /// Whether there was an error.
    failed: bool,
    /// Whether no more blobs come.
    closed: bool,
    /// Manifests of which the registry said that it knows their subject.
    subjects_known: BTreeSet<Digest>,
}

impl fmt::Debug for RegistrySink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrySink")
            .field("registry", &self.registry)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Hands a sink to `work` that uploads to `registry`, which was made for
/// pushing; the image gets the tag of the registry's reference.
///
/// # Errors
/// Those of `work`, and those of uploads that were under way.
pub fn push<T>(
    registry: &Registry,
    options: Options,
    progress: &dyn Progress,
    work: impl FnOnce(&RegistrySink<'_>) -> Result<T, DeliveryError>,
) -> Result<T, DeliveryError> {
    let sink = RegistrySink {
        registry,
        options,
        progress,
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    let result = thread::scope(|scope| {
        for _ in 0..sink.options.parallel.get() {
            scope.spawn(|| sink.upload_all());
        }
        // Also when `work` panics: the scope waits for the threads.
        let closing = Closing(&sink);
        let result = work(&sink);
        if result.is_err() {
            sink.lock().failed = true;
        }
        drop(closing);
        result
    });
    // What failed first, not what that did to the others.
    match sink.lock().error.take() {
        Some(error) => Err(error),
        None => result,
    }
}

/// Lets the uploading threads end.
struct Closing<'a>(&'a RegistrySink<'a>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        if thread::panicking() {
            state.failed = true;
        }
        self.0.changed.notify_all();
    }
}

impl RegistrySink<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads blobs of the queue until no more come.
    fn upload_all(&self) {
        let mut state = self.lock();
        loop {
            if state.failed {
                state.queue.clear();
            }
            match state.queue.pop_front() {
                Some(blob) => {
                    state.busy += 1;
                    drop(state);
                    let result = self.upload(&blob);
                    state = self.lock();
                    state.busy -= 1;
                    self.ended(&mut state, blob.digest, result);
                }
                None if state.closed => return,
                None => state = self.wait(state),
            }
        }
    }

    fn upload(&self, blob: &Blob) -> Result<Uploaded, RegistryError> {
        self.progress.started(&blob.digest, blob.size);
        let reached = |bytes| self.progress.reached(&blob.digest, bytes);
        let mount_from = &self.options.mount_from;
        let watch = Watch(self);
        let how = self.registry.put_blob(blob, mount_from, &reached, &watch)?;
        self.progress.finished(&blob.digest, blob.size, how);
        Ok(how)
    }

    fn ended(&self, state: &mut State, digest: Digest, result: Result<Uploaded, RegistryError>) {
        match result {
            Ok(how) => {
                state.done.insert(digest, how);
            }
            Err(error) => {
                if !state.failed {
                    state.error = Some(error.into());
                }
                state.failed = true;
            }
        }
        self.changed.notify_all();
    }

    /// The error of an upload, if one failed.
    fn check(&self, state: &mut State) -> Result<(), DeliveryError> {
        match state.failed || self.progress.cancelled() {
            true => Err(state.error.take().unwrap_or(DeliveryError::Cancelled)),
            false => Ok(()),
        }
    }

    /// Waits until all blobs are there.
    fn settle(&self) -> Result<(), DeliveryError> {
        let mut state = self.lock();
        loop {
            self.check(&mut state)?;
            if state.queue.is_empty() && state.busy == 0 {
                return Ok(());
            }
            state = self.wait(state);
        }
    }
}

impl BlobSink for RegistrySink<'_> {
    fn has(&self, blob: &Descriptor) -> Result<bool, DeliveryError> {
        {
            let mut state = self.lock();
            self.check(&mut state)?;
            if !state.taken.insert(blob.digest.clone()) {
                return Ok(true);
            }
        }
        let mount_from = &self.options.mount_from;
        let found = self
            .registry
            .find_blob(&blob.digest, blob.size, mount_from, &Watch(self))?;
        let mut state = self.lock();
        match found {
            Some(how) => {
                self.progress.finished(&blob.digest, blob.size, how);
                state.done.insert(blob.digest.clone(), how);
            }
            None => {
                state.taken.remove(&blob.digest);
            }
        }
        Ok(found.is_some())
    }

    fn put(
        &self,
        _known: Option<&Descriptor>,
        make: &mut dyn FnMut(&mut dyn Write) -> Result<Written, DeliveryError>,
    ) -> Result<Written, DeliveryError> {
        self.check(&mut self.lock())?;
        let spool = &self.options.spool;
        let io = |error| DeliveryError::io(spool.display().to_string())(error);
        let file = tempfile::tempfile_in(spool).map_err(io)?;
        let written = {
            let mut out = BufWriter::with_capacity(128 << 10, &file);
            let written = make(&mut out)?;
            out.flush().map_err(io)?;
            written
        };
        let mut state = self.lock();
        // No more files than uploads can take: the disk has an end, too.
        while !state.failed && state.queue.len() >= self.options.parallel.get() {
            state = self.wait(state);
        }
        self.check(&mut state)?;
        if state.taken.insert(written.digest.clone()) {
            state.queue.push_back(Blob {
                digest: written.digest.clone(),
                size: written.size,
                content: BlobContent::File(Arc::new(file)),
            });
            self.changed.notify_all();
        }
        Ok(written)
    }

    fn manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        top: bool,
    ) -> Result<(), DeliveryError> {
        self.settle()?;
        let digest = descriptor.digest.to_string();
        let name = match self.registry.reference().tag() {
            Some(tag) if top => tag,
            _ => &digest,
        };
        let media_type = &descriptor.media_type;
        let watch = Watch(self);
        let stored = self
            .registry
            .put_manifest(name, media_type, bytes, &watch)?;
        if stored.subject_known {
            let digest = descriptor.digest.clone();
            self.lock().subjects_known.insert(digest);
        }
        Ok(())
    }

    fn uploaded(&self, digest: &Digest) -> Option<Uploaded> {
        self.lock().done.get(digest).copied()
    }

    /// Registries without a referrers API get an index under a tag that is
    /// made of the subject's digest ("Referrers Tag Schema"). Two that write
    /// it at once may lose one of the entries; the specification has no way
    /// around that.
    fn refer(&self, subject: &Digest, descriptor: &Descriptor) -> Result<(), DeliveryError> {
        if self.lock().subjects_known.contains(&descriptor.digest) {
            return Ok(());
        }
        let tag = subject.to_string().replacen(':', "-", 1);
        let watch = Watch(self);
        let mut index = match self.registry.manifest_at(&tag, &watch)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| DeliveryError::malformed("list of referrers", e.to_string()))?,
            None => Index::new(Vec::new()),
        };
        let listed = &mut index.manifests;
        if listed.iter().any(|other| other.digest == descriptor.digest) {
            return Ok(());
        }
        listed.push(descriptor.clone());
        let (descriptor, bytes) = index.encode()?;
        let media_type = &descriptor.media_type;
        self.registry
            .put_manifest(&tag, media_type, &bytes, &watch)?;
        Ok(())
    }
}

/// What the registry's client asks and tells.
struct Watch<'a>(&'a RegistrySink<'a>);

impl Observer for Watch<'_> {
    fn retrying(&self, message: &str) {
        self.0.progress.retrying(message);
    }

    fn cancelled(&self) -> bool {
        self.0.progress.cancelled() || self.0.lock().failed
    }
}

impl From<RegistryError> for DeliveryError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Cancelled => Self::Cancelled,
            error => Self::Sink(Box::new(error)),
        }
    }
}
