//! What can go wrong on the way to an image and back.

use std::io;
use std::path::PathBuf;

use bootwright_disk::plan_file::PlanFileError;
use bootwright_disk::sink::SinkError;
use bootwright_image::Digest;
use bootwright_image::store::StoreError;

use crate::table::TableError;

/// A disk that cannot be delivered, or a delivery that is no usable disk.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// A file or stream failed.
    #[error("{what}: {error}")]
    Io {
        /// What was read or written.
        what: String,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// The blobs' destination failed.
    #[error(transparent)]
    Sink(Box<dyn std::error::Error + Send + Sync>),
    /// A layer of the store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer of the store is not what its name says.
    #[error(
        "layer {diff_id} of the store is damaged: its tar has the digest {actual}; run \
         `bootwright cache verify --remove` and try again"
    )]
    Damaged {
        /// Its diff id.
        diff_id: Digest,
        /// The digest of what it gave.
        actual: Digest,
    },
    /// The plan cannot travel, or is no plan.
    #[error(transparent)]
    Plan(#[from] PlanFileError),
    /// A table of frames is unusable.
    #[error("layer {diff_id}: {error}")]
    Table {
        /// The layer.
        diff_id: Digest,
        /// What is wrong.
        error: TableError,
    },
    /// The plan uses a layer that the image does not have.
    #[error("the disk's plan uses layer {0}, which the image does not have")]
    UnknownLayer(String),
    /// A layer's blob is not the one that its table is about.
    #[error(
        "layer {0} was compressed anew since the disk image was made, so that parts of it cannot \
         be read; pull the whole image"
    )]
    Recompressed(Digest),
    /// A pack has another length than the plan says.
    #[error("the pack of layer {diff_id} has {actual} bytes, the disk's plan says {expected}")]
    PackLength {
        /// The layer.
        diff_id: String,
        /// By the plan.
        expected: u64,
        /// In the store.
        actual: u64,
    },
    /// An image that should hold a disk but does not.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which part of it.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Made by a newer version of this program.
    #[error(
        "the disk image has format version {found}; this program reads version {known}: update \
         bootwright"
    )]
    Newer {
        /// The image's version.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// A disk of another form could not be written.
    #[error(transparent)]
    Disk(#[from] SinkError),
    /// A file that is in the way.
    #[error("{}: {reason}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl DeliveryError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }

    pub(crate) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what,
            reason: reason.into(),
        }
    }
}
