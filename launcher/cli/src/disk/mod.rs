//! What an argument IMAGE|DISK|REFERENCE leads to.
//!
//! [`find`] tells a bootable image from a disk that is finished: a file, a
//! disk image or a containerDisk. A finished [`Disk`] is read the same way
//! whatever it came as; its layers, if it has any, are in the store like those
//! of other images, so that each is fetched once. [`peek`] is the same for
//! those who read little: of a disk image it fetches what is read.

mod artifact;
mod contents;
mod open;
mod ready;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::bail;
use bootwright_delivery::metadata::{BootInfo, DiskInfo};
use bootwright_disk::Plan;
use bootwright_disk::reader::ReadAt;
use bootwright_image::{Digest, ImageConfig};
use serde::Serialize;

use crate::args::PlanArgs;
use crate::image::Loaded;

pub(crate) use contents::{Contents, EspFile};
pub(crate) use open::{find, peek};
pub(crate) use ready::{boot_info, ready};

/// What an argument leads to.
#[derive(Debug)]
pub(crate) enum Found {
    /// An image that a disk can be planned of.
    Image(Box<Loaded>),
    /// A disk that is finished.
    Disk(Box<Disk>),
}

/// What a finished disk came as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// A file or block device of this machine.
    File,
    /// An image with a plan over its layers.
    Disk,
    /// A KubeVirt containerDisk.
    ContainerDisk,
    /// A KubeVirt VirtualMachine artifact.
    Artifact,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a disk file",
            Self::Disk => "a disk image",
            Self::ContainerDisk => "a containerDisk",
            Self::Artifact => "a VirtualMachine artifact",
        })
    }
}

/// A disk that is finished, ready to be read.
///
/// What it reads from stays as long as this lives, whatever is pruned.
#[derive(Debug)]
pub(crate) struct Disk {
    /// The disk's bytes.
    pub reader: Arc<dyn ReadAt>,
    /// The same as a plan over packs of the store, where it is one.
    pub plan: Option<Arc<Plan>>,
    /// The kernel and what goes with it, where the disk came with that; else
    /// [`discover`](bootwright_rootfs::boot::discover::discover) finds it.
    pub boot: Option<BootInfo>,
    /// For reports.
    pub report: Report,
    // The packs stay locked against `cache prune` while these live.
    _layers: Vec<bootwright_image::store::Layer>,
    // A disk that could not be read where it was.
    _copy: Option<bootwright_delivery::container_disk::OpenDisk>,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report.form.fmt(f)
    }
}

impl Disk {
    /// Refuses options that shape a disk, by name: this one has its shape.
    pub(crate) fn refuse(&self, args: &PlanArgs) -> anyhow::Result<()> {
        let given = args.given();
        if !given.is_empty() {
            let options = given.join(", ");
            bail!(
                "{options}: {} is {self}, and finished; these options are for images that a disk \
                 is made of",
                self.report.name
            );
        }
        Ok(())
    }
}

/// A finished disk, for reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// The path, or the reference in full.
    pub name: String,
    /// What it came as.
    pub form: Form,
    /// How its bytes lie in the file or the image: `raw`, `qcow2`, `plan`, …
    pub format: &'static str,
    /// The manifest's digest; null where there is none.
    pub digest: Option<String>,
    /// `os/architecture`; null for a file.
    pub platform: Option<String>,
    /// RFC 3339, as the image says.
    pub created: Option<String>,
    /// The program that made the image and its version, if it says so.
    pub tool: Option<String>,
    /// The image that the disk was made from, if it is known.
    pub source: Option<SourceReport>,
    /// The options that it was made with, by name.
    pub options: BTreeMap<String, String>,
    /// Labels of the image's config.
    pub labels: BTreeMap<String, String>,
}

/// The image that a disk was made from.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SourceReport {
    /// Its reference.
    pub reference: Option<String>,
    /// The digest of its manifest.
    pub digest: Option<String>,
    /// What the image is whatever its manifest: a digest over its diff ids.
    pub identity: Option<String>,
}

impl Report {
    fn new(name: String, form: Form, format: &'static str) -> Self {
        Self {
            name,
            form,
            format,
            digest: None,
            platform: None,
            created: None,
            tool: None,
            source: None,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Takes over what the image says of itself.
    fn of_image(mut self, digest: Option<&Digest>, config: &ImageConfig) -> Self {
        self.digest = digest.map(ToString::to_string);
        self.platform = Some(config.platform.to_string());
        self.created.clone_from(&config.created);
        self.labels.clone_from(&config.labels);
        self
    }

    /// Takes over what the metadata of a disk image says.
    fn with_info(mut self, info: &DiskInfo) -> Self {
        self.tool = Some(info.tool.clone());
        self.source = info.source.as_ref().map(|source| SourceReport {
            reference: Some(source.reference.clone()),
            digest: source.digest.clone(),
            identity: Some(source.identity.clone()),
        });
        self.options.clone_from(&info.options);
        self
    }

    /// Takes over what the annotations of a manifest say.
    fn with_annotations(mut self, annotations: &BTreeMap<String, String>) -> Self {
        use bootwright_delivery::oci::annotation;
        let get = |name: &str| annotations.get(name).cloned();
        self.tool = get(annotation::TOOL);
        let source = SourceReport {
            reference: get(annotation::BASE_NAME),
            digest: get(annotation::BASE_DIGEST),
            identity: get(annotation::IDENTITY),
        };
        let known = source.reference.is_some() || source.identity.is_some();
        self.source = known.then_some(source);
        let options = annotations.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(annotation::OPTION)?;
            Some((name.to_owned(), value.clone()))
        });
        self.options = options.collect();
        self
    }
}
