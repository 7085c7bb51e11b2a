//! What the tests of pushing share: a small disk over an image's layers, and
//! a push of it that counts what it is told.

#![allow(
    missing_docs,
    missing_debug_implementations,
    dead_code,
    unreachable_pub
)]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../../image/tests/common/mod.rs"]
pub mod servers;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use bootwright_delivery::disk_image::{self, Disk, Pushed};
use bootwright_delivery::layout::Layout;
use bootwright_delivery::lazy::{CACHE, LazyDisk};
use bootwright_delivery::metadata::{DiskInfo, Metadata, SourceImage, VERSION};
use bootwright_delivery::registry::{Options, Progress, push};
use bootwright_delivery::{BlobSink, DeliveryError, Work};
use bootwright_disk::{
    Extent, Plan, PlanBuilder, PlanReader, ReadAt as _, Source, SourceId, SourceKind,
};
use bootwright_image::Digest;
use bootwright_image::pull::{Image, PullOptions, load};
use bootwright_image::registry::{Registry, RegistryOptions, Uploaded};
use bootwright_image::store::{Layer, Store};
use servers::image::layers;

/// An image in a store, and a disk over its layers.
pub struct Sample {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub image: Image,
    pub layers: Vec<Layer>,
    pub plan: Plan,
}

impl Sample {
    /// The image of [`layers`] with this seed.
    pub fn new(seed: u64) -> Self {
        Self::of(&layers(seed))
    }

    /// An image of these layers.
    pub fn of(tars: &[Vec<u8>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let mut layout = servers::image::Layout::new(&source);
        layout.tag("v1", layout.image("linux/amd64", tars));
        let store = Store::open(Some(&dir.path().join("store"))).unwrap();
        let reference = format!("oci:{}:v1", source.display()).parse().unwrap();
        let told = servers::Told::default();
        let image = load(&reference, &PullOptions::default(), &store, &told).unwrap();
        let layers: Vec<Layer> = image.layers.iter().map(|l| l.layer.clone()).collect();
        let plan = plan(&layers);
        Self {
            dir,
            store,
            image,
            layers,
            plan,
        }
    }

    pub fn disk(&self) -> Disk<'_> {
        Disk {
            plan: &self.plan,
            layers: &self.layers,
            config: &self.image.config,
            info: info(),
            store: Some(&self.store),
            place: None,
        }
    }

    /// The bytes of the disk.
    pub fn bytes(&self) -> Vec<u8> {
        let reader = PlanReader::new(self.plan.clone());
        let mut bytes = vec![0; reader.size() as usize];
        reader.read_exact_at(0, &mut bytes).unwrap();
        bytes
    }
}

/// A description that is always the same.
pub fn info() -> DiskInfo {
    DiskInfo {
        version: VERSION,
        guid: uuid::Uuid::from_u128(0x1234_5678),
        size: 0,
        tool: "bootwright test".to_owned(),
        partitions: Vec::new(),
        boot: None,
        source: Some(SourceImage {
            reference: "docker://example.org/web:1".to_owned(),
            digest: Some(Digest::sha256(b"manifest").to_string()),
            identity: Digest::sha256(b"identity").to_string(),
        }),
        options: BTreeMap::from([("karg".to_owned(), "quiet".to_owned())]),
        layers: Vec::new(),
    }
}

/// A disk that shows every pack, some literals, and zeros between.
fn plan(layers: &[Layer]) -> Plan {
    let mut sources: Vec<Source> = Vec::new();
    let mut extents = vec![Extent::literal(0, &b"a disk of a test"[..])];
    let mut at = 1 << 20;
    for layer in layers {
        let diff_id = layer.diff_id().to_string();
        let kind = SourceKind::Pack { diff_id };
        if sources.iter().any(|source| source.kind == kind) {
            continue;
        }
        let (path, len) = (layer.pack_path().to_owned(), layer.pack_len());
        let id = SourceId(sources.len() as u32);
        sources.push(Source { kind, path, len });
        if len > 0 {
            extents.push(Extent::source(at, len, id, 0));
        }
        at += len.next_multiple_of(1 << 20) + (1 << 20);
    }
    let mut builder = PlanBuilder::new(sources);
    extents.into_iter().for_each(|extent| builder.put(extent));
    builder.finish(at).unwrap()
}

/// Counts what a push tells.
#[derive(Default)]
pub struct Told {
    pub finished: Mutex<Vec<(Digest, Uploaded)>>,
    pub retries: Mutex<Vec<String>>,
}

impl Progress for Told {
    fn started(&self, _blob: &Digest, _size: u64) {}
    fn reached(&self, _blob: &Digest, _bytes: u64) {}
    fn finished(&self, blob: &Digest, _size: u64, how: Uploaded) {
        self.finished.lock().unwrap().push((blob.clone(), how));
    }
    fn retrying(&self, message: &str) {
        self.retries.lock().unwrap().push(message.to_owned());
    }
}

impl Told {
    pub fn count(&self, how: Uploaded) -> usize {
        let finished = self.finished.lock().unwrap();
        finished.iter().filter(|(_, other)| *other == how).count()
    }

    pub fn retries(&self) -> Vec<String> {
        self.retries.lock().unwrap().clone()
    }
}

/// For registries that speak plain HTTP; retries take no time.
pub fn plain() -> RegistryOptions {
    servers::plain().registry
}

/// Runs `work` with a sink for a registry.
pub fn with_sink<T>(
    reference: &str,
    options: &RegistryOptions,
    mount_from: &[&str],
    work: impl FnOnce(&dyn BlobSink) -> Result<T, DeliveryError>,
) -> (Result<T, DeliveryError>, Told) {
    let told = Told::default();
    let spool = tempfile::tempdir().unwrap();
    let mount_from: Vec<String> = mount_from.iter().map(|m| (*m).to_owned()).collect();
    let registry = Registry::for_push(reference.parse().unwrap(), options, mount_from.clone());
    let options = Options {
        parallel: NonZeroUsize::MIN.saturating_add(2),
        spool: spool.path().to_owned(),
        mount_from,
    };
    let result = push(&registry, options, &told, |sink| work(sink));
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
    (result, told)
}

/// Pushes a sample.
pub fn push_sample(
    sample: &Sample,
    reference: &str,
    options: &RegistryOptions,
) -> (Result<Pushed, DeliveryError>, Told) {
    with_sink(reference, options, &[], |sink| {
        with_work(|work| disk_image::push(&sample.disk(), 3, sink, true, work))
    })
}

/// Work on two threads that nobody watches.
pub fn with_work<T>(work: impl FnOnce(&Work<'_>) -> T) -> T {
    let cancel = AtomicBool::new(false);
    work(&Work {
        threads: 2,
        progress: &|_| (),
        cancel: &cancel,
    })
}

/// What skopeo gets from a registry without log-in, which verifies every
/// digest: the disk.
pub fn fetch(reference: &str, arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let (from, to) = (
        format!("docker://{reference}"),
        format!("oci:{}:x", layout.display()),
    );
    let arguments = [arguments, &[&from, &to]].concat();
    servers::skopeo_copy(&arguments);
    disk_in(&layout)
}

/// The disk in a layout, read part by part.
pub fn disk_in(layout: &Path) -> Vec<u8> {
    let json = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let blob = |digest: &serde_json::Value| {
        let name = digest.as_str().unwrap().replace(':', "/");
        layout.join("blobs").join(name)
    };
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    let top = manifest["layers"].as_array().unwrap().last().unwrap();
    let tar = zstd::decode_all(std::fs::File::open(blob(&top["digest"])).unwrap()).unwrap();
    let metadata = Metadata::read(&mut &tar[..]).unwrap();
    let blobs = Layout::create(layout, None).unwrap();
    let disk = LazyDisk::new(metadata, blobs, CACHE).unwrap();
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// Where nothing may have been stored, nothing has a name.
pub fn tags(host: &str, repository: &str) -> String {
    let url = format!("http://{host}/v2/{repository}/tags/list");
    servers::run("curl", &["--silent", &url])
}
