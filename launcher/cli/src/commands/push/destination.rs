//! Where `push` pushes to.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use bootwright_delivery::layout::Layout;
use bootwright_delivery::registry::{self, Progress};
use bootwright_delivery::{BlobSink, DeliveryError};
use bootwright_image::reference::{LayoutSelect, RegistryReference};
use bootwright_image::registry::{Registry, Uploaded};
use bootwright_image::{Digest, ImageReference};

use crate::args::{ByteSize, RegistryArgs};
use crate::image;
use crate::interrupt::Interrupt;
use crate::progress::{Messages, Task};

/// A place that is pushed to.
#[derive(Debug)]
pub(super) enum Destination {
    Registry(RegistryReference),
    Layout { path: PathBuf, tag: Option<String> },
}

impl Destination {
    /// Reads the REFERENCE of the command line.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        match text.parse()? {
            ImageReference::Registry(reference) => {
                if reference.digest().is_some() {
                    bail!(
                        "{text}: what will be pushed has a digest of its own; name it with a tag, \
                         or with none for \"latest\""
                    );
                }
                Ok(Self::Registry(reference))
            }
            ImageReference::OciLayout { path, select } => {
                let tag = match select {
                    LayoutSelect::Only => None,
                    LayoutSelect::Tag(tag) => Some(tag),
                    LayoutSelect::Digest(_) => {
                        bail!("{text}: what will be pushed has a digest of its own; give a tag")
                    }
                };
                Ok(Self::Layout { path, tag })
            }
            _ => bail!("{text}: disks are pushed to a registry, or to a layout as oci:DIR[:TAG]"),
        }
    }

    /// The reference in full.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Registry(reference) => format!("docker://{reference}"),
            Self::Layout { path, tag } => {
                let path = path.display();
                tag.as_ref()
                    .map_or_else(|| format!("oci:{path}"), |tag| format!("oci:{path}:{tag}"))
            }
        }
    }

    /// The last part of the name: what is pushed, in a word.
    pub(super) fn short(&self) -> String {
        match self {
            Self::Registry(reference) => {
                let name = reference.repository();
                name.rsplit('/').next().unwrap_or(name).to_owned()
            }
            Self::Layout { path, tag } => tag.clone().unwrap_or_else(|| {
                let name = path.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }),
        }
    }

    /// The host of the registry.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Registry(reference) => Some(reference.registry()),
            Self::Layout { .. } => None,
        }
    }

    /// Host and repository, to be remembered.
    pub(super) fn place(&self) -> Option<String> {
        match self {
            Self::Registry(reference) => Some(format!(
                "{}/{}",
                reference.registry(),
                reference.repository()
            )),
            Self::Layout { .. } => None,
        }
    }
}

/// How to push.
pub(super) struct How<'a> {
    pub(super) registry: &'a RegistryArgs,
    /// Where blobs wait for their upload.
    pub(super) spool: PathBuf,
    pub(super) mount_from: Vec<String>,
    pub(super) messages: &'a Messages,
    pub(super) interrupt: &'a Interrupt,
}

impl Destination {
    /// Opens the destination for `work`.
    pub(super) fn with<T>(
        &self,
        how: How<'_>,
        work: impl FnOnce(&dyn BlobSink) -> Result<T, DeliveryError>,
    ) -> Result<T, DeliveryError> {
        let progress = Sending {
            messages: how.messages,
            interrupt: how.interrupt,
            tasks: Mutex::default(),
        };
        match self {
            Self::Layout { path, tag } => {
                let layout = Layout::create(path, tag.as_deref())?;
                work(&layout)
            }
            Self::Registry(reference) => {
                let options = image::registry_options(how.registry);
                let mount_from = how.mount_from;
                let registry = Registry::for_push(reference.clone(), &options, mount_from.clone());
                let parallel = NonZeroUsize::new(how.registry.parallel as usize);
                let options = registry::Options {
                    parallel: parallel.unwrap_or(NonZeroUsize::MIN),
                    spool: how.spool,
                    mount_from,
                };
                registry::push(&registry, options, &progress, |sink| work(sink))
            }
        }
    }
}

/// Shows blobs as they go.
struct Sending<'a> {
    messages: &'a Messages,
    interrupt: &'a Interrupt,
    tasks: Mutex<BTreeMap<Digest, Task<'a>>>,
}

impl<'a> Sending<'a> {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<Digest, Task<'a>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Sending<'_> {
    fn started(&self, blob: &Digest, size: u64) {
        let task = self.messages.task(&format!("blob {}", blob.short()), size);
        self.tasks().insert(blob.clone(), task);
    }

    fn reached(&self, blob: &Digest, bytes: u64) {
        if let Some(task) = self.tasks().get(blob) {
            task.reach(bytes);
        }
    }

    fn finished(&self, blob: &Digest, size: u64, how: Uploaded) {
        let task = self.tasks().remove(blob);
        let what = match how {
            Uploaded::Present => "already there",
            Uploaded::Mounted => "mounted from another repository",
            Uploaded::Sent => {
                if let Some(task) = task {
                    task.reach(size);
                    task.finish();
                }
                return;
            }
        };
        drop(task);
        let (name, size) = (blob.short(), ByteSize(size));
        self.messages.note(&format!("blob {name}: {size}, {what}"));
    }

    fn retrying(&self, message: &str) {
        self.messages.warn(message);
    }

    fn cancelled(&self) -> bool {
        self.interrupt.raised()
    }
}
