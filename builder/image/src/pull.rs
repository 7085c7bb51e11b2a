//! From a reference to an image whose layers are in the store.
//!
//! [`load`] finds the manifest for a platform, verifies manifest and config,
//! and reads those layers into the store that it does not have, several at a
//! time. What comes out is the same for all sources of the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, LayerDescriptor, Manifest};
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::registry::{RegistryError, RegistryOptions};
use crate::source::{
    self, ImageSource, Note, Observer, Resolved, Root, SourceError, resolve, verify,
};
use crate::store::{BlobInfo, Layer, Limits, Store, StoreError};

/// How to load an image.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The platform wanted; `None` for the host's where there is a choice, and
    /// whatever there is where there is none.
    pub platform: Option<Platform>,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// How much of a layer to bear.
    pub limits: Limits,
    /// Layers read at once.
    pub parallel: NonZeroUsize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: None,
            registry: RegistryOptions::default(),
            limits: Limits::default(),
            parallel: NonZeroUsize::MIN.saturating_add(3),
        }
    }
}

/// Who is told how it goes. Layers go by their blobs' digests. Called from
/// several threads.
pub trait Progress: Sync {
    /// A layer of `size` bytes is being read.
    fn started(&self, layer: &Digest, size: u64);
    /// So many more bytes of it have been read.
    fn advanced(&self, layer: &Digest, bytes: u64);
    /// It is in the store.
    fn finished(&self, layer: &Digest);
    /// It was in the store before.
    fn already_present(&self, layer: &Digest, size: u64);
    /// Something failed and will be tried again.
    fn retrying(&self, message: &str);
    /// Whether to stop at the next occasion.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An image whose layers are in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it was loaded by.
    pub reference: ImageReference,
    /// The digest of its manifest; `None` from a docker archive, which has no
    /// manifests.
    pub manifest_digest: Option<Digest>,
    /// The digest of its config, which docker and podman call the image's id.
    pub config_digest: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// Its config.
    pub config: ImageConfig,
    /// Annotations of its manifest.
    pub annotations: BTreeMap<String, String>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerInfo>,
    /// What identifiers derive from: the same for all sources of the image.
    pub identity: Digest,
}

/// A layer of an [`Image`].
#[derive(Debug, Clone)]
pub struct LayerInfo {
    /// Digest of its blob.
    pub digest: Digest,
    /// Length of its blob in bytes.
    pub size: u64,
    /// Media type of its blob.
    pub media_type: String,
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Its pack and index.
    pub layer: Layer,
}

/// An image that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// It cannot be read from where it is.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer cannot be brought into the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller wants it no more.
    #[error("cancelled")]
    Cancelled,
}

/// Loads an image.
///
/// # Errors
/// There is no such image, it is not for the platform, it is broken or over
/// the limits, or the store cannot be written.
pub fn load(
    reference: &ImageReference,
    options: &PullOptions,
    store: &Store,
    progress: &dyn Progress,
) -> Result<Image, PullError> {
    open(reference, options, store, progress)?.load(progress)
}

/// An image whose manifest and config are known, and whose layers are not
/// read yet.
#[derive(Debug)]
pub struct Opened<'a> {
    reference: &'a ImageReference,
    options: &'a PullOptions,
    store: &'a Store,
    source: Box<dyn ImageSource>,
    description: Description,
}

/// Finds an image and reads its manifest and config.
///
/// # Errors
/// As for [`load`], of what comes before the layers.
pub fn open<'a>(
    reference: &'a ImageReference,
    options: &'a PullOptions,
    store: &'a Store,
    progress: &dyn Progress,
) -> Result<Opened<'a>, PullError> {
    let stop = Stop::new(progress);
    let source = source::open(reference, &options.registry)?;
    let wanted = options.platform.as_ref();
    let description = if let ImageReference::Registry(name) = reference {
        let cached = Cached {
            source: &*source,
            digest: name.digest(),
            store,
        };
        describe(&cached, wanted, &stop)?
    } else {
        describe(&*source, wanted, &stop)?
    };
    Ok(Opened {
        reference,
        options,
        store,
        source,
        description,
    })
}

impl Opened<'_> {
    /// What it was found by.
    pub fn reference(&self) -> &ImageReference {
        self.reference
    }

    /// Manifest and config.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Brings the topmost layer into the store, and no other; `None` if there
    /// are no layers.
    ///
    /// # Errors
    /// As for [`load`].
    pub fn load_top(&self, progress: &dyn Progress) -> Result<Option<LayerInfo>, PullError> {
        let layers = self.layers();
        let last = layers.get(layers.len().saturating_sub(1)..);
        let stop = Stop::new(progress);
        let read = read_layers(
            &*self.source,
            last.unwrap_or_default(),
            self.options,
            self.store,
            &stop,
        )?;
        Ok(read.into_iter().next())
    }

    /// Brings all layers into the store.
    ///
    /// # Errors
    /// As for [`load`].
    pub fn load(self, progress: &dyn Progress) -> Result<Image, PullError> {
        let stop = Stop::new(progress);
        let layers = read_layers(
            &*self.source,
            &self.layers(),
            self.options,
            self.store,
            &stop,
        )?;
        let found = self.description;
        Ok(Image {
            reference: self.reference.clone(),
            manifest_digest: found.manifest_digest,
            config_digest: found.manifest.config.digest,
            platform: found.config.platform.clone(),
            identity: found.config.identity(),
            config: found.config,
            annotations: found.manifest.annotations,
            layers,
        })
    }

    /// The source, for reading parts of layers where they are.
    pub fn into_source(self) -> Box<dyn ImageSource> {
        self.source
    }

    /// The layers and their diff ids.
    fn layers(&self) -> Vec<(&LayerDescriptor, &Digest)> {
        let Description {
            manifest, config, ..
        } = &self.description;
        manifest.layers.iter().zip(&config.diff_ids).collect()
    }
}

/// An image as far as its JSON goes.
#[derive(Debug, Clone)]
pub struct Description {
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's digest; `None` where there are no manifests.
    pub manifest_digest: Option<Digest>,
    /// Its config, with as many diff ids as the manifest has layers.
    pub config: ImageConfig,
}

/// Reads the manifest and config of an image, and no layer.
///
/// # Errors
/// There is no such image, it is not for the platform, or it is broken.
pub fn describe(
    source: &dyn ImageSource,
    platform: Option<&Platform>,
    note: Note<'_>,
) -> Result<Description, SourceError> {
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let Resolved {
        manifest,
        digest,
        by_platform,
    } = resolve(source, wanted, note)?;
    let bytes = source.config(&manifest.config, note)?;
    let config = ImageConfig::parse(&bytes).map_err(|error| SourceError::Config {
        digest: manifest.config.digest.clone(),
        error,
    })?;
    // Configs often leave the variant out, so it cannot count here.
    let same =
        |a: &Platform, b: &Platform| a.os() == b.os() && a.architecture() == b.architecture();
    if (platform.is_some() || by_platform) && !same(&config.platform, wanted) {
        return Err(SourceError::NoPlatform {
            wanted: wanted.clone(),
            available: config.platform.to_string(),
        });
    }
    if manifest.layers.len() != config.diff_ids.len() {
        return Err(SourceError::LayerCount {
            layers: manifest.layers.len(),
            config: manifest.config.digest.clone(),
            diff_ids: config.diff_ids.len(),
        });
    }
    Ok(Description {
        manifest,
        manifest_digest: digest,
        config,
    })
}

/// Brings layers into the store.
fn read_layers(
    source: &dyn ImageSource,
    layers: &[(&LayerDescriptor, &Digest)],
    options: &PullOptions,
    store: &Store,
    stop: &Stop<'_>,
) -> Result<Vec<LayerInfo>, PullError> {
    let mut present: BTreeMap<&Digest, Layer> = BTreeMap::new();
    let mut missing: Vec<(&LayerDescriptor, &Digest)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (layer, diff_id) in layers {
        // Images repeat layers, mostly the empty one.
        if !seen.insert(*diff_id) {
            continue;
        }
        match store.layer(diff_id)? {
            Some(found) => {
                let blob = &layer.descriptor;
                stop.progress.already_present(&blob.digest, blob.size);
                present.insert(diff_id, found);
            }
            None => missing.push((layer, diff_id)),
        }
    }

    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<Layer, PullError>)>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((layer, diff_id)) = missing.get(index) else {
                return;
            };
            if stop.cancelled() {
                return;
            }
            let result = read_layer(source, layer, diff_id, options, store, stop);
            if result.is_err() {
                stop.failed.store(true, Ordering::Relaxed);
            }
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((index, result));
        }
    };
    std::thread::scope(|scope| {
        let others = options.parallel.get().min(missing.len()).saturating_sub(1);
        for _ in 0..others {
            scope.spawn(work);
        }
        work();
    });

    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    let mut first_error = None;
    for (index, result) in results {
        match (result, missing.get(index)) {
            (Ok(layer), Some((_, diff_id))) => {
                present.insert(diff_id, layer);
            }
            // The error that stopped the others, not what it did to them.
            (Err(error), _) if first_error.as_ref().is_none_or(PullError::is_cancelled) => {
                first_error = Some(error);
            }
            _ => {}
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    layers
        .iter()
        .map(|(layer, diff_id)| {
            Ok(LayerInfo {
                digest: layer.descriptor.digest.clone(),
                size: layer.descriptor.size,
                media_type: layer.descriptor.media_type.clone(),
                diff_id: (*diff_id).clone(),
                layer: present.get(diff_id).cloned().ok_or(PullError::Cancelled)?,
            })
        })
        .collect()
}

fn read_layer(
    source: &dyn ImageSource,
    layer: &LayerDescriptor,
    diff_id: &Digest,
    options: &PullOptions,
    store: &Store,
    stop: &Stop<'_>,
) -> Result<Layer, PullError> {
    let blob = &layer.descriptor;
    stop.progress.started(&blob.digest, blob.size);
    let info = BlobInfo {
        digest: Some(blob.digest.clone()),
        size: Some(blob.size),
    };
    let mut reader = LazyBlob {
        source,
        layer,
        stop,
        opened: None,
        error: None,
    };
    let advanced = |bytes| stop.progress.advanced(&blob.digest, bytes);
    let added = store.add_layer(diff_id, &info, &mut reader, &options.limits, &advanced);
    match (added, reader.error) {
        (Ok(added), _) => {
            stop.progress.finished(&blob.digest);
            Ok(added)
        }
        // What the source says is clearer than what the store makes of it.
        (Err(_), Some(error)) => Err(error.into()),
        (Err(error), None) => Err(error.into()),
    }
}

impl PullError {
    /// Whether nothing went wrong but that the caller wanted no more.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled | Self::Store(StoreError::Interrupted) => true,
            Self::Source(SourceError::Registry(RegistryError::Cancelled)) => true,
            Self::Source(_) | Self::Store(_) => false,
        }
    }
}

/// The [`Observer`] of a pull: one failed layer stops the others.
struct Stop<'a> {
    progress: &'a dyn Progress,
    failed: AtomicBool,
}

impl<'a> Stop<'a> {
    fn new(progress: &'a dyn Progress) -> Self {
        Self {
            progress,
            failed: AtomicBool::new(false),
        }
    }
}

impl Observer for Stop<'_> {
    fn retrying(&self, message: &str) {
        self.progress.retrying(message);
    }

    fn cancelled(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.progress.cancelled()
    }
}

/// A layer's blob that is asked for when it is first read, since the store may
/// turn out to have the layer by then.
struct LazyBlob<'a> {
    source: &'a dyn ImageSource,
    layer: &'a LayerDescriptor,
    stop: &'a Stop<'a>,
    opened: Option<Box<dyn Read + Send + 'a>>,
    /// The error behind the one that `read` returned.
    error: Option<SourceError>,
}

impl Read for LazyBlob<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.cancelled() {
            self.error = Some(RegistryError::Cancelled.into());
            return Err(io::Error::other("cancelled"));
        }
        let reader = match &mut self.opened {
            Some(reader) => reader,
            None => match self.source.open_blob(&self.layer.descriptor, self.stop) {
                Ok(reader) => self.opened.insert(reader),
                Err(error) => {
                    let message = error.to_string();
                    self.error = Some(match self.layer.foreign {
                        true => SourceError::Foreign {
                            digest: self.layer.descriptor.digest.clone(),
                            error: message.clone(),
                        },
                        false => error,
                    });
                    return Err(io::Error::other(message));
                }
            },
        };
        reader.read(buf).map_err(|error| {
            // Kept as what it is; the store only passes words on.
            let message = error.to_string();
            match error.downcast::<RegistryError>() {
                Ok(error) => {
                    self.error = Some(error.into());
                    io::Error::other(message)
                }
                Err(error) => error,
            }
        })
    }
}

/// A registry whose manifests and configs the store keeps, so that an image
/// that is named by digest and known needs no network.
#[derive(Debug)]
struct Cached<'a> {
    source: &'a dyn ImageSource,
    /// What the reference is pinned to.
    digest: Option<&'a Digest>,
    store: &'a Store,
}

impl Cached<'_> {
    fn kept(&self, digest: &Digest) -> Option<Vec<u8>> {
        // A cache that fails is no reason not to fetch.
        self.store.blob(digest).ok().flatten()
    }

    fn keep(&self, digest: &Digest, bytes: &[u8]) {
        let _ = self.store.put_blob(digest, bytes);
    }
}

impl ImageSource for Cached<'_> {
    fn root(&self, note: Note<'_>) -> Result<Root, SourceError> {
        if let Some(digest) = self.digest
            && let Some(bytes) = self.kept(digest)
        {
            return Ok(Root::Document {
                bytes,
                media_type: None,
                digest: digest.clone(),
            });
        }
        let root = self.source.root(note)?;
        if let Root::Document {
            bytes,
            media_type,
            digest,
        } = &root
            // Not the log-in page of a proxy.
            && Document::parse(bytes, media_type.as_deref()).is_ok()
        {
            self.keep(digest, bytes);
        }
        Ok(root)
    }

    fn manifest(&self, descriptor: &Descriptor, note: Note<'_>) -> Result<Vec<u8>, SourceError> {
        if let Some(bytes) = self.kept(&descriptor.digest) {
            return Ok(bytes);
        }
        let bytes = self.source.manifest(descriptor, note)?;
        // Refused if it is not what its digest says.
        self.keep(&descriptor.digest, &bytes);
        Ok(bytes)
    }

    fn config(&self, descriptor: &Descriptor, note: Note<'_>) -> Result<Vec<u8>, SourceError> {
        if let Some(bytes) = self.kept(&descriptor.digest) {
            verify("config", &bytes, descriptor)?;
            return Ok(bytes);
        }
        let bytes = self.source.config(descriptor, note)?;
        self.keep(&descriptor.digest, &bytes);
        Ok(bytes)
    }

    fn open_blob<'a>(
        &'a self,
        descriptor: &Descriptor,
        note: Note<'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        self.source.open_blob(descriptor, note)
    }
}
