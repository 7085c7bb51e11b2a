//! A disk image is read out of a real registry by ranges, as little as it
//! takes, and never a wrong byte.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../image/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bootwright_delivery::layout::Layout;
use bootwright_delivery::lazy::{LazyDisk, RangeRead, SourceBlobs};
use bootwright_delivery::metadata::{self, BootInfo, DiskInfo, Metadata};
use bootwright_delivery::{Work, disk_image, frames};
use bootwright_disk::plan::{Extent, Plan, PlanBuilder, Source, SourceId, SourceKind};
use bootwright_disk::{PlanReader, ReadAt};
use bootwright_image::ImageReference;
use bootwright_image::pull::{self, Image};
use bootwright_image::source::Observer;
use bootwright_image::store::Store;
use common::image::{self, layer, noise};
use common::proxy::{Fault, Proxy, Request};
use common::registry::{Registry, Setup};
use common::{Told, plain, skopeo_copy};
use uuid::Uuid;

const MIB: u64 = 1 << 20;

/// Where the layers begin on the disk, and how much metadata lies before.
const LAYERS_AT: u64 = 2 * MIB;

/// An image with large and small files, in the store of `dir`.
fn image(dir: &Path) -> (Store, Image) {
    let small: Vec<_> = (0..300u64)
        .map(|n| (format!("usr/share/{n:03}"), noise(n, 100 + 37 * n as usize)))
        .collect();
    let small: Vec<_> = small.iter().map(|(p, c)| (p.as_str(), &c[..])).collect();
    let text = b"what compresses well ".repeat(200_000);
    let layers = [
        layer(&[
            ("boot/vmlinuz", &noise(1, 3 << 20)),
            ("boot/initrd", &noise(2, 2_500_000)),
            ("usr/text", &text),
        ]),
        layer(&small),
        layer(&[("srv/data", &noise(3, 5 << 20)), ("srv/empty", b"")]),
    ];
    let place = dir.join("image");
    let mut layout = image::Layout::new(&place);
    let manifest = layout.image("linux/amd64", &layers);
    layout.tag("v1", manifest);
    let store = Store::open(Some(&dir.join("store"))).unwrap();
    let reference = format!("oci:{}:v1", place.display()).parse().unwrap();
    let image = pull::load(&reference, &plain(), &store, &Told::default()).unwrap();
    (store, image)
}

/// The packs one after the other, literals before, between and after them.
fn plan(image: &Image) -> Plan {
    let layers = || image.layers.iter().map(|info| &info.layer);
    let sources = layers().map(|layer| Source {
        kind: SourceKind::Pack {
            diff_id: layer.diff_id().to_string(),
        },
        path: layer.pack_path().to_owned(),
        len: layer.pack_len(),
    });
    let mut builder = PlanBuilder::new(sources.collect());
    builder.put(Extent::literal(0, noise(9, 5000)));
    let mut at = LAYERS_AT;
    for (n, layer) in layers().enumerate() {
        let id = SourceId(n as u32);
        builder.put(Extent::source(at, layer.pack_len(), id, 0));
        at += layer.pack_len();
        builder.put(Extent::literal(at, vec![n as u8 + 1; 4096]));
        at += 2 * 4096;
    }
    builder
        .finish((at + 3 * MIB).next_multiple_of(MIB))
        .unwrap()
}

fn boot(image: &Image, plan: &Plan) -> BootInfo {
    let bottom = &image.layers[0].layer;
    let find = |path: &str| {
        let entry = bottom.entries().find(|e| e.path == path.as_bytes());
        let bootwright_image::EntryKind::Regular { size, segments } = entry.unwrap().kind else {
            panic!("{path} is a file");
        };
        let extents: Vec<_> = segments
            .iter()
            .map(|s| Extent::source(s.file_offset, s.len, SourceId(0), s.pack_offset))
            .collect();
        metadata::locate(plan, size, &extents)
    };
    BootInfo {
        kernel_version: "6.1".into(),
        command_line: "quiet".into(),
        kernel: find("boot/vmlinuz"),
        initrd: find("boot/initrd"),
    }
}

/// The disk image in a registry, and the disk that it is.
struct Pushed {
    registry: Registry,
    store: Store,
    plan: Arc<Plan>,
    // Layers stay in the store.
    _image: Image,
    _dir: tempfile::TempDir,
}

fn pushed() -> Pushed {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = image(dir.path());
    let plan = plan(&image);
    let layers: Vec<_> = image.layers.iter().map(|l| l.layer.clone()).collect();
    let info = DiskInfo {
        version: metadata::VERSION,
        guid: Uuid::from_u128(7),
        size: plan.size(),
        tool: "test".into(),
        partitions: Vec::new(),
        boot: Some(boot(&image, &plan)),
        source: None,
        options: BTreeMap::new(),
        layers: Vec::new(),
    };
    let disk = disk_image::Disk {
        plan: &plan,
        layers: &layers,
        config: &image.config,
        info,
        store: None,
        place: None,
    };
    let place = dir.path().join("disk");
    let sink = Layout::create(&place, Some("v1")).unwrap();
    let work = Work {
        threads: 2,
        progress: &|_| (),
        cancel: &AtomicBool::new(false),
    };
    disk_image::push(&disk, frames::ZSTD_LEVEL, &sink, true, &work).unwrap();
    let registry = Registry::start(&Setup::default());
    skopeo_copy(&[
        "--dest-tls-verify=false",
        &format!("oci:{}:v1", place.display()),
        &format!("docker://{}/disk:v1", registry.host()),
    ]);
    Pushed {
        registry,
        store,
        plan: Arc::new(plan),
        _image: image,
        _dir: dir,
    }
}

struct Nobody;

impl Observer for Nobody {
    fn retrying(&self, _message: &str) {}
}

/// Opens a disk image with only its metadata layer in a store.
fn open(host: &str) -> (Metadata, Arc<dyn RangeRead>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&dir.path().join("store"))).unwrap();
    let reference: ImageReference = format!("{host}/disk:v1").parse().unwrap();
    let options = plain();
    let opened = pull::open(&reference, &options, &store, &Told::default()).unwrap();
    let top = opened.load_top(&Told::default()).unwrap().unwrap();
    let description = opened.description();
    let layers = &description.manifest.layers;
    let metadata = disk_image::metadata(&description.config, layers, &top.layer).unwrap();
    let blobs = SourceBlobs::new(opened.into_source(), Nobody);
    (metadata, Arc::new(blobs))
}

/// The ranges that were asked of blobs, and how many bytes they are.
fn ranges(seen: &[Request]) -> (usize, u64) {
    let ranges: Vec<Range<u64>> = seen
        .iter()
        .filter(|request| request.is_blob())
        .map(|request| {
            let range = request.header("range").unwrap();
            let (start, end) = range
                .strip_prefix("bytes=")
                .unwrap()
                .split_once('-')
                .unwrap();
            start.parse().unwrap()..end.parse::<u64>().unwrap() + 1
        })
        .collect();
    (ranges.len(), ranges.iter().map(|r| r.end - r.start).sum())
}

#[test]
fn any_mib_of_a_disk_takes_one_or_two_requests() {
    let pushed = pushed();
    let proxy = Proxy::start(pushed.registry.port, |_, _| Fault::None);
    let (metadata, blobs) = open(&proxy.host());
    let expected = PlanReader::new(Arc::clone(&pushed.plan));
    let size = expected.size();
    let mut most = 0;
    // Whole MiB and such as lie across them.
    let starts = (0..size / MIB).flat_map(|n| [n * MIB, n * MIB + 700_001]);
    for start in starts.filter(|start| start + MIB <= size) {
        let before = proxy.seen().len();
        // A new one each time: nothing of it is known yet.
        let disk = LazyDisk::new(metadata.clone(), Arc::clone(&blobs), 0).unwrap();
        let (mut got, mut want) = (vec![1; MIB as usize], vec![2; MIB as usize]);
        disk.read_exact_at(start, &mut got).unwrap();
        expected.read_exact_at(start, &mut want).unwrap();
        assert!(got == want, "MiB at {start}");
        let (count, bytes) = ranges(&proxy.seen()[before..]);
        assert!(count <= 2, "{count} requests for the MiB at {start}");
        assert!(
            bytes <= 3 * MIB + 4096,
            "{bytes} bytes for the MiB at {start}"
        );
        most = most.max(count);
    }
    assert!(most > 0, "something was read");
}

#[test]
fn what_was_read_is_not_asked_for_again() {
    let pushed = pushed();
    let proxy = Proxy::start(pushed.registry.port, |_, _| Fault::None);
    let (metadata, blobs) = open(&proxy.host());
    let disk = LazyDisk::new(metadata, blobs, 4 << 20).unwrap();
    let before = proxy.seen().len();
    let mut sector = [0; 512];
    for n in 0..100 {
        disk.read_exact_at(LAYERS_AT + n * 512, &mut sector)
            .unwrap();
    }
    assert_eq!(ranges(&proxy.seen()[before..]).0, 1);
}

#[test]
fn kernel_and_initrd_are_found_without_the_rest() {
    let pushed = pushed();
    let proxy = Proxy::start(pushed.registry.port, |_, _| Fault::None);
    let (metadata, blobs) = open(&proxy.host());
    let boot = metadata.info.boot.clone().unwrap();
    let disk = LazyDisk::new(metadata, blobs, 16 << 20).unwrap();
    let before = proxy.seen().len();
    let kernel = boot.kernel.unwrap().read(&disk, 16 << 20).unwrap();
    assert!(kernel == noise(1, 3 << 20));
    let initrd = boot.initrd.unwrap();
    assert!(initrd.read(&disk, 16 << 20).unwrap() == noise(2, 2_500_000));
    let (count, bytes) = ranges(&proxy.seen()[before..]);
    assert_eq!(count, 2);
    assert!(bytes < 7 * MIB, "{bytes}");
    let error = initrd.read(&disk, 1000).unwrap_err();
    assert!(
        error.to_string().contains("2500000 bytes; at most 1000"),
        "{error}"
    );
}

#[test]
fn a_wrong_byte_is_refused_and_a_cut_connection_survived() {
    let pushed = pushed();
    let harm = Arc::new(AtomicBool::new(false));
    let on = Arc::clone(&harm);
    let proxy = Proxy::start(pushed.registry.port, move |request, before| {
        let is_range = request.header("range").is_some();
        let asked = before.iter().filter(|r| r.line == request.line).count();
        match is_range {
            true if on.load(Ordering::Relaxed) => Fault::Flip(1000),
            // The first try of each range.
            true if asked.is_multiple_of(2) => Fault::Cut(5000),
            true => Fault::IgnoreRange,
            false => Fault::None,
        }
    });
    let (metadata, blobs) = open(&proxy.host());
    let expected = PlanReader::new(Arc::clone(&pushed.plan));
    let (mut got, mut want) = (vec![1; MIB as usize], vec![2; MIB as usize]);
    let read = |start: u64, buf: &mut [u8]| {
        let disk = LazyDisk::new(metadata.clone(), Arc::clone(&blobs), 0).unwrap();
        disk.read_exact_at(start, buf)
    };
    read(LAYERS_AT, &mut got).unwrap();
    expected.read_exact_at(LAYERS_AT, &mut want).unwrap();
    assert!(got == want);
    harm.store(true, Ordering::Relaxed);
    let error = read(LAYERS_AT, &mut got).unwrap_err().to_string();
    assert!(
        error.contains("is corrupt: frame 0 has another digest"),
        "{error}"
    );
    assert!(pushed.store.path().exists());
}

#[test]
fn layers_that_were_compressed_anew_are_not_read_in_parts() {
    let pushed = pushed();
    let host = pushed.registry.host();
    let dir = tempfile::tempdir().unwrap();
    let plain_layers = format!("dir:{}", dir.path().join("plain").display());
    skopeo_copy(&[
        "--src-tls-verify=false",
        "--dest-decompress",
        &format!("docker://{host}/disk:v1"),
        &plain_layers,
    ]);
    let gzip = format!("oci:{}:v1", dir.path().join("gzip").display());
    skopeo_copy(&[&plain_layers, &gzip]);
    let reference: ImageReference = gzip.parse().unwrap();
    let options = plain();
    let told = Told::default();
    let opened = pull::open(&reference, &options, &pushed.store, &told).unwrap();
    let top = opened.load_top(&told).unwrap().unwrap();
    let description = opened.description();
    let layers = &description.manifest.layers;
    let error = disk_image::metadata(&description.config, layers, &top.layer).unwrap_err();
    assert!(error.to_string().contains("was compressed anew"), "{error}");
    // As a whole it is what it was.
    let image = opened.load(&told).unwrap();
    let layers: Vec<_> = image.layers.iter().map(|l| l.layer.clone()).collect();
    let opened = disk_image::open(&image.config, &layers).unwrap();
    assert_eq!(opened.plan.extents(), pushed.plan.extents());
}
