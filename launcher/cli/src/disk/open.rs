//! From an argument to an image or a finished disk.

use std::path::Path;
use std::sync::Arc;

use bootwright_delivery::lazy::{self, LazyDisk, SourceBlobs};
use bootwright_delivery::{DeliveryError, container_disk, disk_image};
use bootwright_disk::PlanReader;
use bootwright_disk::reader;
use bootwright_image::ImageReference;
use bootwright_image::manifest::ManifestError;
use bootwright_image::pull::{self, Image, Opened, PullError};
use bootwright_image::source::{Observer, SourceError};
use bootwright_image::store::Layer;

use super::{Disk, Form, Found, Report, artifact};
use crate::commands;
use crate::image::{self, Context, LayerProgress};
use crate::interrupt::Interrupt;
use crate::report::Timings;

/// Finds what `target` names and brings all of it onto this machine.
pub(crate) fn find(
    target: &str,
    context: Context<'_>,
    timings: &mut Timings,
) -> anyhow::Result<Found> {
    resolve(target, context, timings, false)
}

/// Finds what `target` names for reading little of it: a disk image stays
/// where it is, and parts of it are fetched when they are read.
pub(crate) fn peek(
    target: &str,
    context: Context<'_>,
    timings: &mut Timings,
) -> anyhow::Result<Found> {
    resolve(target, context, timings, true)
}

fn resolve(
    target: &str,
    context: Context<'_>,
    timings: &mut Timings,
    in_parts: bool,
) -> anyhow::Result<Found> {
    if let Some(path) = commands::disk_file(target)? {
        let disk = file(path)?;
        timings.end("load");
        return Ok(Found::Disk(Box::new(disk)));
    }
    let reference: ImageReference = target.parse()?;
    if let ImageReference::Directory { path } = &reference {
        let loaded = image::from_directory(path, &reference, context, timings)?;
        return Ok(Found::Image(Box::new(loaded)));
    }
    let store = context.store()?;
    let options = context.pull_options()?;
    let progress = LayerProgress::new(context);
    let found = match pull::open(&reference, &options, &store, &progress) {
        Ok(opened) if in_parts && disk_image::is_disk(&opened.description().config) => {
            parts(opened, context, &progress)
        }
        Ok(opened) => opened
            .load(&progress)
            .map_err(anyhow::Error::from)
            .and_then(whole),
        Err(error) if is_artifact(&error) => {
            match artifact::open(&reference, &options, &store, &progress)? {
                Some(disk) => Ok(Either::Disk(Box::new(disk))),
                None => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    };
    context.warn(&store);
    let found = found?;
    timings.end("load");
    match found {
        Either::Disk(disk) => Ok(Found::Disk(disk)),
        Either::Image(image) => {
            let loaded = image::from_layers(*image, store, context, timings)?;
            Ok(Found::Image(Box::new(loaded)))
        }
    }
}

/// Whether what was found is something else than an image.
fn is_artifact(error: &PullError) -> bool {
    matches!(
        error,
        PullError::Source(SourceError::Manifest {
            error: ManifestError::Artifact { .. },
            ..
        })
    )
}

/// As [`Found`], the image not yet merged.
enum Either {
    Image(Box<Image>),
    Disk(Box<Disk>),
}

fn file(path: &Path) -> anyhow::Result<Disk> {
    let disk = reader::open_disk(path)?;
    let name = path.display().to_string();
    let report = Report::new(name, Form::File, disk.format().name());
    Ok(Disk {
        reader: Arc::new(disk),
        plan: None,
        boot: None,
        report,
        _layers: Vec::new(),
        _copy: None,
    })
}

/// Opens an image whose layers are in the store, as what it is.
fn whole(image: Image) -> anyhow::Result<Either> {
    let layers: Vec<Layer> = image.layers.iter().map(|l| l.layer.clone()).collect();
    if disk_image::is_disk(&image.config) {
        let opened = disk_image::open(&image.config, &layers)?;
        let plan = Arc::new(opened.plan);
        let report = report(&image, Form::Disk, "plan").with_info(&opened.info);
        return Ok(Either::Disk(Box::new(Disk {
            reader: Arc::new(PlanReader::new(Arc::clone(&plan))),
            plan: Some(plan),
            boot: opened.info.boot,
            report,
            _layers: layers,
            _copy: None,
        })));
    }
    if !container_disk::is_container_disk(&layers) {
        return Ok(Either::Image(Box::new(image)));
    }
    let found = container_disk::find(&layers)?;
    let format = if found.is_qcow2 { "qcow2" } else { "raw" };
    let report = report(&image, Form::ContainerDisk, format).with_annotations(&image.annotations);
    let opened = found.open(None)?;
    Ok(Either::Disk(Box::new(Disk {
        reader: Arc::clone(opened.disk()),
        plan: (!found.is_qcow2).then_some(found.file),
        boot: None,
        report,
        _layers: layers,
        _copy: Some(opened),
    })))
}

fn report(image: &Image, form: Form, format: &'static str) -> Report {
    let name = image.reference.to_string();
    Report::new(name, form, format).of_image(image.manifest_digest.as_ref(), &image.config)
}

/// Opens a disk image where it is, with only its metadata in the store.
fn parts(
    opened: Opened<'_>,
    context: Context<'_>,
    progress: &LayerProgress<'_>,
) -> anyhow::Result<Either> {
    let Some(top) = opened.load_top(progress)? else {
        return whole(opened.load(progress)?);
    };
    let description = opened.description();
    let layers = &description.manifest.layers;
    let metadata = match disk_image::metadata(&description.config, layers, &top.layer) {
        Err(DeliveryError::Recompressed(_)) => return whole(opened.load(progress)?),
        other => other?,
    };
    let name = opened.reference().to_string();
    let digest = description.manifest_digest.as_ref();
    let report = Report::new(name, Form::Disk, "plan")
        .of_image(digest, &description.config)
        .with_info(&metadata.info);
    let boot = metadata.info.boot.clone();
    let patience = Patience(context.interrupt.clone());
    let blobs = SourceBlobs::new(opened.into_source(), patience);
    Ok(Either::Disk(Box::new(Disk {
        reader: Arc::new(LazyDisk::new(metadata, blobs, lazy::CACHE)?),
        plan: None,
        boot,
        report,
        _layers: vec![top.layer],
        _copy: None,
    })))
}

/// Waits for a registry until a signal comes.
#[derive(Debug)]
struct Patience(Interrupt);

impl Observer for Patience {
    fn retrying(&self, message: &str) {
        eprintln!("warning: {message}");
    }

    fn cancelled(&self) -> bool {
        self.0.raised()
    }
}
