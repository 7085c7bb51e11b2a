//! A disk as the image that it was made from, and one layer more.
//!
//! [`push`] takes a plan over the packs of an image's layers and gives the
//! blobs of the disk image to a sink; [`open`] takes the layers of a disk
//! image, which came into the store as those of any image do, and gives the
//! plan back. The layers are the image's own, under its own diff ids, so
//! that whoever pulls them verifies them as always and later builds of the
//! image find them; the topmost holds the [`Metadata`]. The format is
//! specified in docs/src/formats/disk-image.md.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use bootwright_disk::plan_file::PlanFileError;
use bootwright_disk::{Plan, PlanReader, SourceKind};
use bootwright_image::Digest;
use bootwright_image::config::{History, ImageConfig};
use bootwright_image::manifest::LayerDescriptor;
use bootwright_image::store::{Layer, Store};

use crate::error::DeliveryError;
use crate::frames::{self, Codec, Work};
use crate::host_files;
use crate::known::{self, Known};
use crate::layer;
use crate::metadata::{self, DiskInfo, LayerInfo, Metadata};
use crate::oci::{self, Descriptor, Manifest, annotation};
use crate::raw_image;
use crate::sink::BlobSink;
use crate::table::LayerTable;

/// A disk over the layers of an image.
#[derive(Debug, Clone)]
pub struct Disk<'a> {
    /// What every byte is; its sources are packs of `layers` and files of the
    /// host.
    pub plan: &'a Plan,
    /// The image's layers, lowest first.
    pub layers: &'a [Layer],
    /// The image's config. The disk image keeps what it says of the container.
    pub config: &'a ImageConfig,
    /// The description; its list of layers is filled in.
    pub info: DiskInfo,
    /// The store that the layers are in, which remembers what they become.
    pub store: Option<&'a Store>,
    /// `registry/repository` that it goes to, to be remembered with them.
    pub place: Option<String>,
}

/// An image that was handed to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its manifest, with the platform it is for.
    pub manifest: Descriptor,
    /// Its config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<PushedLayer>,
}

/// A layer of an image that was handed to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedLayer {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Length of its tar in bytes.
    pub plain_len: u64,
}

/// Hands all blobs of a disk image to `sink`. `top` says that the image's name
/// shall lead to the manifest itself and not to an index that is to come.
///
/// # Errors
/// The plan uses packs of other layers, a layer of the store is damaged, a
/// file of the host changed, or the sink fails.
pub fn push(
    disk: &Disk<'_>,
    level: i32,
    sink: &dyn BlobSink,
    top: bool,
    work: &Work<'_>,
) -> Result<Pushed, DeliveryError> {
    let codec = Codec::Zstd(level);
    let mut blobs: BTreeMap<Digest, Known> = BTreeMap::new();
    let mut layers = Vec::new();
    let mut config = disk.config.clone();
    config.diff_ids.clear();
    // The largest first: its upload then goes on while others are made.
    let mut by_size: Vec<&Layer> = disk.layers.iter().collect();
    by_size.sort_by_key(|layer| std::cmp::Reverse(layer.index().tar_len()));
    for layer in by_size {
        // Images repeat layers, mostly the empty one.
        if !blobs.contains_key(layer.diff_id()) {
            let known = put_layer(layer, disk.store, codec, sink, work)?;
            blobs.insert(layer.diff_id().clone(), known);
        }
    }
    for layer in disk.layers {
        let Some(known) = blobs.get(layer.diff_id()) else {
            return Err(DeliveryError::UnknownLayer(layer.diff_id().to_string()));
        };
        layers.push(PushedLayer {
            descriptor: layer::descriptor(&known.written, codec),
            plain_len: known.written.plain_len,
        });
        config.diff_ids.push(known.written.plain_digest.clone());
    }

    let host_files = host_files::find(disk.plan);
    let mut files = None;
    if let Some(found) = &host_files {
        let reader = PlanReader::new(disk.plan.clone());
        let written = sink.put(None, &mut |out| {
            raw_image::write(&reader, &found.runs, out, codec, work)
        })?;
        layers.push(PushedLayer {
            descriptor: layer::descriptor(&written, codec),
            plain_len: written.plain_len,
        });
        add_step(&mut config, &disk.info, "files that were added");
        config.diff_ids.push(written.plain_digest.clone());
        files = Some((raw_image::table(&written, found.pack_len)?, written));
    }
    let gathered = host_files.as_ref().zip(files.as_ref());
    let gathered = gathered.map(|(found, (_, written))| (found, &written.plain_digest));
    let plan = host_files::only_packs(disk.plan, gathered)?;

    let mut info = disk.info.clone();
    info.version = metadata::VERSION;
    info.size = plan.size();
    info.layers.clear();
    let mut tables: Vec<LayerTable> = Vec::new();
    for source in plan.sources() {
        let SourceKind::Pack { diff_id } = &source.kind else {
            return Err(PlanFileError::HostFile(source.path.clone()).into());
        };
        let known = diff_id.parse().ok().and_then(|id: Digest| blobs.get(&id));
        let (written, table) = match (known, &files) {
            (Some(known), _) => (&known.written, &known.table),
            (None, Some((table, written))) if written.plain_digest.to_string() == *diff_id => {
                (written, table)
            }
            _ => return Err(DeliveryError::UnknownLayer(diff_id.clone())),
        };
        check_length(table.pack_len(), diff_id, source.len)?;
        info.layers.push(LayerInfo {
            diff_id: written.plain_digest.clone(),
            digest: written.digest.clone(),
            size: written.size,
        });
        tables.push(table.clone());
    }
    let tar = metadata::tar(&info, &plan, &tables)?;
    let pushed = finish(Parts { layers, info, tar }, config, codec, sink, top, work)?;
    if let (Some(store), Some(place)) = (disk.store, &disk.place) {
        for layer in disk.layers {
            if let Some(known) = blobs.get_mut(layer.diff_id())
                && known.add_place(place)
            {
                known::remember(store, layer, codec, known);
            }
        }
    }
    Ok(pushed)
}

/// Hands a layer's blob to the sink. One that was made before is not made
/// again where the sink has it.
fn put_layer(
    layer: &Layer,
    store: Option<&Store>,
    codec: Codec,
    sink: &dyn BlobSink,
    work: &Work<'_>,
) -> Result<Known, DeliveryError> {
    let known = store.and_then(|store| known::recall(store, layer, codec));
    let expected = known
        .as_ref()
        .map(|known| layer::descriptor(&known.written, codec));
    if let (Some(known), Some(expected)) = (&known, &expected)
        && sink.has(expected)?
    {
        return Ok(known.clone());
    }
    let written = sink.put(expected.as_ref(), &mut |out| {
        layer::write(layer, out, codec, work)
    })?;
    let made = Known {
        table: layer::table(layer, &written)?,
        places: known
            .as_ref()
            .map(|known| known.places.clone())
            .unwrap_or_default(),
        written,
    };
    if let Some(store) = store
        && known.as_ref() != Some(&made)
    {
        known::remember(store, layer, codec, &made);
    }
    Ok(made)
}

/// Says in the history where the next layer comes from.
fn add_step(config: &mut ImageConfig, info: &DiskInfo, comment: &str) {
    let steps = config.history.iter().filter(|step| !step.empty_layer);
    // Tools refuse a history that has more or fewer layers than there are.
    if steps.count() == config.diff_ids.len() {
        config.history.push(History {
            created: config.created.clone(),
            created_by: Some(info.tool.clone()),
            comment: Some(comment.to_owned()),
            empty_layer: false,
        });
    } else {
        config.history.clear();
    }
}

/// What [`finish`] makes an image of.
pub(crate) struct Parts {
    pub(crate) layers: Vec<PushedLayer>,
    pub(crate) info: DiskInfo,
    /// Of the metadata layer.
    pub(crate) tar: Vec<u8>,
}

/// Adds the metadata layer, the config and the manifest. `config` has the
/// diff ids of the layers below.
pub(crate) fn finish(
    parts: Parts,
    mut config: ImageConfig,
    codec: Codec,
    sink: &dyn BlobSink,
    top: bool,
    work: &Work<'_>,
) -> Result<Pushed, DeliveryError> {
    let Parts {
        mut layers,
        info,
        tar,
    } = parts;
    let done = sink.put(None, &mut |out: &mut dyn Write| {
        frames::compress("metadata layer", &mut &tar[..], out, codec, work)
    })?;
    let mut descriptor = layer::descriptor(&done, codec);
    descriptor
        .annotations
        .insert(annotation::DISK_LAYER.into(), "metadata".into());
    layers.push(PushedLayer {
        descriptor,
        plain_len: done.plain_len,
    });

    add_step(&mut config, &info, "plan of a disk over the layers below");
    config.diff_ids.push(done.plain_digest);
    config
        .labels
        .insert(annotation::DISK_VERSION.into(), info.version.to_string());
    let descriptors = layers.iter().map(|l| l.descriptor.clone()).collect();
    let annotations = annotations(&info, &config);
    put_image(&config, descriptors, annotations, sink, top).map(|(manifest, config)| Pushed {
        manifest,
        config,
        layers,
    })
}

/// Hands config and manifest of an image to the sink; says what describes
/// the manifest and the config.
pub(crate) fn put_image(
    config: &ImageConfig,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
    sink: &dyn BlobSink,
    top: bool,
) -> Result<(Descriptor, Descriptor), DeliveryError> {
    let bytes = oci::config(config)?;
    let config_descriptor = Descriptor::of(oci::CONFIG, &bytes);
    put_bytes(&config_descriptor, &bytes, sink)?;
    let mut manifest = Manifest::image(config_descriptor.clone(), layers);
    manifest.annotations = annotations;
    let (mut descriptor, bytes) = manifest.encode()?;
    sink.manifest(&descriptor, &bytes, top)?;
    descriptor.platform = Some((&config.platform).into());
    Ok((descriptor, config_descriptor))
}

/// Hands a small blob to the sink unless it is there.
pub(crate) fn put_bytes(
    descriptor: &Descriptor,
    bytes: &[u8],
    sink: &dyn BlobSink,
) -> Result<(), DeliveryError> {
    if !sink.has(descriptor)? {
        sink.put(Some(descriptor), &mut |out| {
            frames::plain("config", bytes, out)
        })?;
    }
    Ok(())
}

/// Annotations of a manifest: where the disk comes from.
pub(crate) fn annotations(info: &DiskInfo, config: &ImageConfig) -> BTreeMap<String, String> {
    let mut all = provenance(info);
    all.insert(annotation::DISK_VERSION.into(), info.version.to_string());
    if let Some(created) = &config.created {
        all.insert(annotation::CREATED.into(), created.clone());
    }
    all
}

/// Source image, options and tool as annotations, which all forms carry.
pub fn provenance(info: &DiskInfo) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, value: &str| {
        all.insert(name.to_owned(), value.to_owned());
    };
    add(annotation::DISK_SIZE, &info.size.to_string());
    add(annotation::TOOL, &info.tool);
    if let Some(source) = &info.source {
        add(annotation::BASE_NAME, &source.reference);
        add(annotation::IDENTITY, &source.identity);
        if let Some(digest) = &source.digest {
            add(annotation::BASE_DIGEST, digest);
        }
    }
    for (name, value) in &info.options {
        add(&format!("{}{name}", annotation::OPTION), value);
    }
    all
}

fn check_length(actual: u64, diff_id: &str, expected: u64) -> Result<(), DeliveryError> {
    if actual != expected {
        return Err(DeliveryError::PackLength {
            diff_id: diff_id.to_owned(),
            expected,
            actual,
        });
    }
    Ok(())
}

/// A disk that came as an image.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The description.
    pub info: DiskInfo,
    /// What every byte is, over the packs of the store. Good as long as the
    /// layers are held.
    pub plan: Plan,
}

/// Whether an image is a disk image, by its config.
pub fn is_disk(config: &ImageConfig) -> bool {
    config.labels.contains_key(annotation::DISK_VERSION)
}

/// Refuses what is no disk image, or one of another version.
fn check_version(config: &ImageConfig) -> Result<(), DeliveryError> {
    let Some(text) = config.labels.get(annotation::DISK_VERSION) else {
        let reason = format!("no label {}", annotation::DISK_VERSION);
        return Err(DeliveryError::malformed("image config", reason));
    };
    match text.parse::<u32>() {
        Ok(metadata::VERSION) => Ok(()),
        Ok(found) => Err(DeliveryError::Newer {
            found,
            known: metadata::VERSION,
        }),
        Err(_) => {
            let reason = format!("label {}: {text:?} is no version", annotation::DISK_VERSION);
            Err(DeliveryError::malformed("image config", reason))
        }
    }
}

/// What it takes to read a disk image where it is, with a
/// [`LazyDisk`](crate::lazy::LazyDisk). `layers` are the descriptors of its
/// manifest; of the layers themselves only the topmost, `top`, has to be in
/// the store.
///
/// # Errors
/// As for [`open`], or the layers were compressed anew since the disk image
/// was made, so that the tables do not fit them.
pub fn metadata(
    config: &ImageConfig,
    layers: &[LayerDescriptor],
    top: &Layer,
) -> Result<Metadata, DeliveryError> {
    check_version(config)?;
    let metadata = Metadata::read(&mut top.tar()?)?;
    for layer in &metadata.info.layers {
        let mut known = config.diff_ids.iter().zip(layers);
        let (_, blob) = known
            .find(|(diff_id, _)| **diff_id == layer.diff_id)
            .ok_or_else(|| DeliveryError::UnknownLayer(layer.diff_id.to_string()))?;
        if blob.descriptor.digest != layer.digest || blob.descriptor.size != layer.size {
            return Err(DeliveryError::Recompressed(layer.diff_id.clone()));
        }
    }
    Ok(metadata)
}

/// Opens a disk image whose layers are in the store.
///
/// # Errors
/// It is no disk image, its metadata is not valid, or it speaks of layers
/// that the image does not have.
pub fn open(config: &ImageConfig, layers: &[Layer]) -> Result<Opened, DeliveryError> {
    check_version(config)?;
    let Some((top, below)) = layers.split_last() else {
        return Err(DeliveryError::malformed("disk image", "it has no layers"));
    };
    let Metadata { info, plan, .. } = Metadata::read(&mut top.tar()?)?;
    let by_name: BTreeMap<String, &Layer> = below
        .iter()
        .map(|layer| (layer.diff_id().to_string(), layer))
        .collect();
    for pack in &plan.packs {
        let layer = by_name
            .get(&pack.diff_id)
            .ok_or_else(|| DeliveryError::UnknownLayer(pack.diff_id.clone()))?;
        check_length(layer.pack_len(), &pack.diff_id, pack.len)?;
    }
    let path = |diff_id: &str| {
        let layer = by_name.get(diff_id);
        layer.map_or_else(PathBuf::new, |layer| layer.pack_path().to_owned())
    };
    let plan = plan
        .locate(|pack| path(&pack.diff_id))
        .map_err(PlanFileError::from)?;
    Ok(Opened { info, plan })
}
