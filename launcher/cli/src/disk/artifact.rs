//! A disk that came as a KubeVirt VirtualMachine artifact.

use std::path::Path;
use std::sync::Arc;

use bootwright_delivery::artifact_disk;
use bootwright_disk::reader;
use bootwright_image::pull::{Progress, PullOptions};
use bootwright_image::source::{self, Observer};
use bootwright_image::store::Store;
use bootwright_image::{ImageReference, Platform};

use super::{Disk, Form, Report};
use crate::image::LayerProgress;

/// Opens what `reference` names as an artifact; `None` if it is none.
pub(super) fn open(
    reference: &ImageReference,
    options: &PullOptions,
    store: &Store,
    progress: &LayerProgress<'_>,
) -> anyhow::Result<Option<Disk>> {
    let note = Told(progress);
    let source = source::open(reference, &options.registry)?;
    let host = Platform::host();
    let wanted = options.platform.as_ref().unwrap_or(&host);
    let Some((manifest, digest)) = source::resolve_artifact(&*source, wanted, &note)? else {
        return Ok(None);
    };
    let found = artifact_disk::find(&manifest)?;
    progress.started(&found.blob.digest, found.blob.size);
    let limit = options.limits.max_layer_bytes;
    // Beside the layers, where there is room for disks.
    let file = artifact_disk::fetch(&found, &*source, store.path(), limit, &note, &|bytes| {
        progress.advanced(&found.blob.digest, bytes);
    })?;
    progress.finished(&found.blob.digest);
    let name = reference.to_string();
    let mut report = Report::new(name.clone(), Form::Artifact, "raw");
    report.digest = Some(digest.to_string());
    Ok(Some(Disk {
        reader: Arc::new(reader::open_raw(file, Path::new(&name))?),
        plan: None,
        boot: None,
        report: report.with_annotations(&found.annotations),
        _layers: Vec::new(),
        _copy: None,
    }))
}

/// Tells a source's observer what a pull is told.
struct Told<'a, 'b>(&'a LayerProgress<'b>);

impl Observer for Told<'_, '_> {
    fn retrying(&self, message: &str) {
        self.0.retrying(message);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
