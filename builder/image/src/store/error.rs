//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use super::VERSION;
use crate::digest::Digest;
use crate::tar::TarError;

/// A store that cannot be used, or a layer that cannot be added to it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Neither a path was given nor a home directory is known.
    #[error(
        "cannot tell where the layer store is: neither XDG_CACHE_HOME nor HOME is set; give --store"
    )]
    NoHome,
    /// A directory of other things.
    #[error("{} is not empty and no layer store; give an empty directory", .0.display())]
    NotAStore(PathBuf),
    /// Written by a newer version.
    #[error(
        "the layer store {} was written by a newer version (format {found}, this program knows \
         {VERSION}); use that version, another --store, or remove the directory",
        path.display()
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file of the store cannot be read or written.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// The disk or the quota is full.
    #[error(
        "the disk is full: layer {layer} needs more space in {}; free some, run `bootwright cache \
         prune`, or give another --store",
        path.display()
    )]
    DiskFull {
        /// The layer that was being added.
        layer: Digest,
        /// The store.
        path: PathBuf,
    },
    /// The blob cannot be read from where it comes from.
    #[error("cannot read layer {layer}: {error}")]
    Read {
        /// The blob's digest, or the diff id where that is not known.
        layer: Digest,
        /// Why.
        error: io::Error,
    },
    /// The blob is not the one that was asked for.
    #[error("layer {expected} is corrupt: its content has the digest {actual}")]
    BlobDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The blob is not as long as its descriptor says.
    #[error("layer {layer} is corrupt: it has {} bytes instead of {expected}", length(*actual, *expected))]
    BlobSize {
        /// The blob's digest, or the diff id where that is not known.
        layer: Digest,
        /// Its length by its descriptor.
        expected: u64,
        /// How much came before the end, or before it was given up.
        actual: u64,
    },
    /// The blob is what it should be, but what it should be is broken.
    #[error("layer {layer} cannot be decompressed: {reason}")]
    Compression {
        /// The blob's digest, or the diff id where that is not known.
        layer: Digest,
        /// What is wrong.
        reason: String,
    },
    /// The tar is not the one that the image's config names.
    #[error(
        "layer {blob} is not what the image's config says: its diff id is {actual}, not {expected}"
    )]
    DiffId {
        /// The blob.
        blob: Digest,
        /// By the config.
        expected: Digest,
        /// Computed.
        actual: Digest,
    },
    /// The tar is malformed or over a limit.
    #[error("layer {layer}: {error}")]
    Tar {
        /// The blob's digest, or the diff id where that is not known.
        layer: Digest,
        /// What is wrong.
        error: TarError,
    },
    /// The interrupt flag was raised.
    #[error("interrupted")]
    Interrupted,
    /// Small content that is not what its digest says, or too large.
    #[error("blob {digest}: {reason}")]
    Blob {
        /// The digest it was to be kept under.
        digest: Digest,
        /// What is wrong.
        reason: &'static str,
    },
}

fn length(actual: u64, expected: u64) -> String {
    match actual > expected {
        true => "more".to_owned(),
        false => actual.to_string(),
    }
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io {
            action,
            path: path.to_owned(),
            error,
        }
    }
}

/// Whether there is no space left, on the disk or in the user's quota.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
