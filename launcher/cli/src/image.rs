//! From an image reference on the command line to a tree.
//!
//! [`Context`] has what it takes to pull an image, [`from_layers`] and
//! [`from_directory`] make a tree of it: [`Loaded`] is what every command that
//! takes an image works on. Whether an argument is an image at all,
//! [`crate::disk`] says.

use std::collections::BTreeMap;
use std::env;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};
use bootwright_disk::{Source, SourceId, SourceKind};
use bootwright_image::config::ImageConfig;
use bootwright_image::pull::{self, Image, Progress, PullOptions};
use bootwright_image::registry::{Credentials, RegistryOptions};
use bootwright_image::store::{Layer, Store};
use bootwright_image::tar::Limits;
use bootwright_image::{Digest, ImageReference, Platform, Timestamp};
use bootwright_rootfs::boot::Architecture;
use bootwright_rootfs::identity;
use bootwright_rootfs::tree::{DirectoryOptions, Tree};
use serde::Serialize;

use crate::args::{ByteSize, ImageArgs, RegistryArgs};
use crate::disk::{self, Found};
use crate::interrupt::Interrupt;
use crate::progress::{Messages, Task};
use crate::report::Timings;

/// An image as a tree, and what is known about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The merged layers.
    pub tree: Tree,
    /// The machine that the image is for.
    pub architecture: Architecture,
    /// What identifiers derive from.
    pub identity: Digest,
    /// `SOURCE_DATE_EPOCH`, or when the image was made.
    pub time: Timestamp,
    /// For reports.
    pub report: ImageReport,
    /// What the image runs on.
    pub platform: Platform,
    /// The image as it is in the store; `None` for a directory.
    pub stored: Option<Stored>,
}

/// An image whose layers are in the store.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The image's config.
    pub config: ImageConfig,
    /// The layers, lowest first; locked against `cache prune` while they live.
    pub layers: Vec<Layer>,
    /// The store.
    pub store: Store,
}

/// An image, for reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ImageReport {
    /// The reference in full.
    pub reference: String,
    /// The manifest's digest; null for sources without manifests.
    pub digest: Option<String>,
    /// What the image is whatever its manifest: a digest over its diff ids.
    pub identity: String,
    /// `os/architecture`.
    pub platform: String,
    /// RFC 3339, as the image says.
    pub created: Option<String>,
    /// Labels of the image's config.
    pub labels: BTreeMap<String, String>,
    /// The layers, lowest first.
    pub layers: Vec<LayerReport>,
}

/// A layer, for reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LayerReport {
    /// Digest of the blob.
    pub digest: String,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Media type of the blob.
    pub media_type: String,
    /// Length of the blob.
    pub size: u64,
    /// Number of entries.
    pub entries: usize,
    /// Length of the pack.
    pub pack_size: u64,
}

/// What a command has at hand when it loads something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Which platform, how registries are reached, limits.
    pub args: &'a ImageArgs,
    /// Who is told.
    pub messages: &'a Messages,
    /// What ends it.
    pub interrupt: &'a Interrupt,
}

impl Context<'_> {
    /// The store of layers.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        let store = Store::open(self.args.store.store.as_deref())?;
        Ok(store.interruptible(self.interrupt.shared()))
    }

    /// How images are loaded.
    pub(crate) fn pull_options(&self) -> anyhow::Result<PullOptions> {
        let platform = self.args.platform()?;
        if let Some(platform) = &platform {
            // Said again when the image is known, but there after all the work.
            Architecture::from_oci(platform.architecture())?;
        }
        let parallel = self.args.registry.parallel as usize;
        Ok(PullOptions {
            platform,
            registry: registry_options(&self.args.registry),
            limits: limits(self.args),
            parallel: NonZeroUsize::new(parallel).unwrap_or(NonZeroUsize::MIN),
        })
    }

    /// Passes on what a store or a pull warned of.
    pub(crate) fn warn(&self, store: &Store) {
        let warnings = store.take_warnings();
        warnings.iter().for_each(|w| self.messages.warn(w));
    }
}

/// Loads the image that `reference` names.
pub(crate) fn load(
    reference: &str,
    args: &ImageArgs,
    messages: &Messages,
    interrupt: &Interrupt,
    timings: &mut Timings,
) -> anyhow::Result<Loaded> {
    let context = Context {
        args,
        messages,
        interrupt,
    };
    match disk::find(reference, context, timings)? {
        Found::Image(loaded) => Ok(*loaded),
        Found::Disk(disk) => bail!("{reference} is {disk}, and not an image"),
    }
}

/// Loads a directory as an image.
pub(crate) fn from_directory(
    path: &Path,
    reference: &ImageReference,
    context: Context<'_>,
    timings: &mut Timings,
) -> anyhow::Result<Loaded> {
    let tree = Tree::from_directory(path, DirectoryOptions::default())?;
    timings.end("load");
    let platform = context.args.platform()?.unwrap_or_else(Platform::host);
    let (identity, latest) = identity::of_tree(&tree);
    Ok(Loaded {
        architecture: Architecture::from_oci(platform.architecture())?,
        time: time(None, || latest)?,
        report: ImageReport {
            reference: reference.to_string(),
            digest: None,
            identity: identity.to_string(),
            platform: platform.to_string(),
            created: None,
            labels: BTreeMap::new(),
            layers: Vec::new(),
        },
        identity,
        tree,
        platform,
        stored: None,
    })
}

/// Merges the layers of an image that is in the store.
pub(crate) fn from_layers(
    image: Image,
    store: Store,
    context: Context<'_>,
    timings: &mut Timings,
) -> anyhow::Result<Loaded> {
    // The store bounds each layer, this bounds what they make together.
    let entries: usize = image.layers.iter().map(|l| l.layer.entries().len()).sum();
    let max = context.args.max_entries;
    if entries as u64 > max {
        bail!(
            "the image's layers have {entries} entries, more than {max}; raise --max-entries to take it"
        );
    }
    let sources = image.layers.iter().map(|layer| Source {
        kind: SourceKind::Pack {
            diff_id: layer.diff_id.to_string(),
        },
        path: layer.layer.pack_path().to_owned(),
        len: layer.layer.pack_len(),
    });
    let mut tree = Tree::new(sources.collect());
    for (n, layer) in image.layers.iter().enumerate() {
        let id = SourceId(u32::try_from(n).context("too many layers")?);
        tree.apply_layer(id, layer.layer.entries())?;
    }
    timings.end("merge");

    Ok(Loaded {
        architecture: Architecture::from_oci(image.platform.architecture())?,
        identity: image.identity.clone(),
        time: time(image.config.created.as_deref(), || latest(&tree))?,
        tree,
        report: report(&image),
        platform: image.platform,
        stored: Some(Stored {
            config: image.config,
            layers: image.layers.into_iter().map(|l| l.layer).collect(),
            store,
        }),
    })
}

/// What is told of an image.
pub(crate) fn report(image: &Image) -> ImageReport {
    ImageReport {
        reference: image.reference.to_string(),
        digest: image.manifest_digest.as_ref().map(ToString::to_string),
        identity: image.identity.to_string(),
        platform: image.platform.to_string(),
        created: image.config.created.clone(),
        labels: image.config.labels.clone(),
        layers: image.layers.iter().map(layer_report).collect(),
    }
}

fn layer_report(info: &pull::LayerInfo) -> LayerReport {
    LayerReport {
        digest: info.digest.to_string(),
        diff_id: info.diff_id.to_string(),
        media_type: info.media_type.clone(),
        size: info.size,
        entries: info.layer.entries().len(),
        pack_size: info.layer.pack_len(),
    }
}

fn latest(tree: &Tree) -> Timestamp {
    identity::of_tree(tree).1
}

/// The time of all that has none of its own: `SOURCE_DATE_EPOCH`
/// (reproducible-builds.org), or the image's, or the latest in the tree.
fn time(created: Option<&str>, latest: impl FnOnce() -> Timestamp) -> anyhow::Result<Timestamp> {
    if let Some(epoch) = env::var_os("SOURCE_DATE_EPOCH") {
        let secs = epoch.to_str().and_then(|text| text.parse().ok());
        let Some(secs) = secs else {
            bail!("SOURCE_DATE_EPOCH={epoch:?} is not a number of seconds since 1970");
        };
        return Ok(Timestamp { secs, nanos: 0 });
    }
    // Builders that want to be reproducible set 1970 or leave it out.
    let created = created.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    Ok(match created {
        Some(time) if time.as_second() > 0 => Timestamp {
            secs: time.as_second(),
            nanos: 0,
        },
        _ => latest(),
    })
}

/// How a registry is reached, from the command line.
pub(crate) fn registry_options(registry: &RegistryArgs) -> RegistryOptions {
    let mut options = RegistryOptions {
        credentials: registry.creds.as_deref().map(Credentials::parse),
        authfile: registry.authfile.clone(),
        tls_verify: registry.tls_verify,
        cert_dir: registry.cert_dir.clone(),
        ..RegistryOptions::default()
    };
    options.retry.tries = registry.retries.saturating_add(1);
    options
}

fn limits(args: &ImageArgs) -> Limits {
    Limits {
        max_entries: args.max_entries,
        max_layer_bytes: args.max_layer_size.0,
        max_index_bytes: args.max_index_size.0,
        ..Limits::default()
    }
}

/// Shows layers as they come.
pub(crate) struct LayerProgress<'a> {
    messages: &'a Messages,
    interrupt: &'a Interrupt,
    tasks: Mutex<BTreeMap<Digest, Task<'a>>>,
}

impl<'a> LayerProgress<'a> {
    pub(crate) fn new(context: Context<'a>) -> Self {
        Self {
            messages: context.messages,
            interrupt: context.interrupt,
            tasks: Mutex::default(),
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Task<'a>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for LayerProgress<'_> {
    fn started(&self, layer: &Digest, size: u64) {
        let task = self
            .messages
            .task(&format!("layer {}", layer.short()), size);
        self.tasks().insert(layer.clone(), task);
    }

    fn advanced(&self, layer: &Digest, bytes: u64) {
        if let Some(task) = self.tasks().get(layer) {
            task.advance(bytes);
        }
    }

    fn finished(&self, layer: &Digest) {
        if let Some(task) = self.tasks().remove(layer) {
            task.finish();
        }
    }

    fn already_present(&self, layer: &Digest, size: u64) {
        let size = ByteSize(size);
        self.messages
            .note(&format!("layer {}: {size}, already there", layer.short()));
    }

    fn retrying(&self, message: &str) {
        self.messages.warn(message);
    }

    fn cancelled(&self) -> bool {
        self.interrupt.raised()
    }
}
