//! Where images come from: registries, OCI layouts and archives.
//!
//! Each kind of place implements [`ImageSource`]: it says what the reference
//! names and hands out manifests and blobs by descriptor. [`resolve()`] walks
//! from there through indexes to the one manifest for a platform. Nothing here
//! is trusted: manifests and configs are verified against their digest before
//! they are parsed, layers by whoever reads them.

mod docker_archive;
mod oci_layout;
mod resolve;
mod section;
mod tar_index;

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::digest::{Digest, Hasher};
use crate::manifest::{Descriptor, MAX_JSON, Manifest, ManifestError};
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::registry::{Registry, RegistryError, RegistryOptions};

pub use docker_archive::DockerArchive;
pub use oci_layout::OciLayout;
pub use resolve::{Resolved, resolve, resolve_artifact};
pub use section::Section;
pub use tar_index::TarIndex;

/// Who waits for an image: is told what takes longer, and may stop wanting it.
pub trait Observer: Sync {
    /// Something failed and will be tried again; the message says what and
    /// when.
    fn retrying(&self, message: &str);

    /// Whether to give up at the next occasion.
    fn cancelled(&self) -> bool {
        false
    }
}

/// The [`Observer`] of a request.
pub type Note<'a> = &'a dyn Observer;

/// A place that images can be read from.
pub trait ImageSource: fmt::Debug + Send + Sync {
    /// What the reference names.
    ///
    /// # Errors
    /// There is no such image, or the place cannot be read.
    fn root(&self, note: Note<'_>) -> Result<Root, SourceError>;

    /// The bytes of a manifest or index, not yet verified.
    ///
    /// # Errors
    /// It is not there or cannot be read.
    fn manifest(&self, descriptor: &Descriptor, note: Note<'_>) -> Result<Vec<u8>, SourceError>;

    /// The bytes of a config, verified.
    ///
    /// # Errors
    /// It is over [`MAX_JSON`], not there, or not what its descriptor says.
    fn config(&self, descriptor: &Descriptor, note: Note<'_>) -> Result<Vec<u8>, SourceError> {
        read_small(self, "config", descriptor, note)
    }

    /// A blob from its beginning. The reader ends where the blob ends; it
    /// verifies neither size nor digest.
    ///
    /// # Errors
    /// It is not there or cannot be opened.
    fn open_blob<'a>(
        &'a self,
        descriptor: &Descriptor,
        note: Note<'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError>;

    /// The bytes in `range` of a blob, exactly as many; not verified.
    ///
    /// # Errors
    /// It is not there, shorter, or cannot be read.
    fn read_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
        note: Note<'_>,
    ) -> Result<Vec<u8>, SourceError> {
        let mut blob = self.open_blob(descriptor, note)?;
        let io = |error| SourceError::Io {
            path: PathBuf::from(format!("blob {}", descriptor.digest)),
            error,
        };
        io::copy(&mut (&mut blob).take(range.start), &mut io::sink()).map_err(io)?;
        read_exactly(blob, &range).map_err(io)
    }
}

/// As many bytes as `range` has.
fn read_exactly(from: impl Read, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let len = range.end.saturating_sub(range.start);
    let mut bytes = Vec::new();
    from.take(len).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What a reference names, before a platform is chosen.
#[derive(Debug, Clone)]
pub enum Root {
    /// A manifest or index.
    Document {
        /// Its bytes, verified against `digest`.
        bytes: Vec<u8>,
        /// The media type it was served as.
        media_type: Option<String>,
        /// Its digest.
        digest: Digest,
    },
    /// Entries of an index that are candidates.
    Entries(Vec<Descriptor>),
    /// An image whose place knows no manifests.
    Manifest(Manifest),
}

/// An image that cannot be read from where it is.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// An archive or layout that is none.
    #[error("{}: {reason}", path.display())]
    Place {
        /// The archive or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of an archive or layout is missing.
    #[error("{}: there is no {name} in it", path.display())]
    Missing {
        /// The archive or directory.
        path: PathBuf,
        /// The file's name inside.
        name: String,
    },
    /// The place has no image of this name, or more than one.
    #[error("{}: {reason}; it has {available}", path.display())]
    Select {
        /// The archive or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// The images there are.
        available: String,
    },
    /// A manifest or index that is unusable.
    #[error("cannot use {what}: {error}")]
    Manifest {
        /// Which.
        what: String,
        /// Why.
        error: ManifestError,
    },
    /// A config that is unusable.
    #[error("cannot use the config {digest}: {error}")]
    Config {
        /// Its digest.
        digest: Digest,
        /// Why.
        error: ConfigError,
    },
    /// Config and manifest do not fit each other.
    #[error(
        "the manifest has {layers} layers but the config {config} has {diff_ids} diff ids; \
         the image is broken"
    )]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Digest of the config.
        config: Digest,
        /// Diff ids in the config.
        diff_ids: usize,
    },
    /// Content that is not what its digest says.
    #[error("{what} is corrupt: expected {expected}, got {actual}")]
    Digest {
        /// Which.
        what: String,
        /// Its digest by its descriptor.
        expected: Digest,
        /// Its digest.
        actual: Digest,
    },
    /// Content that is not as long as its descriptor says.
    #[error("{what} {digest} has {actual} bytes; its descriptor says {expected}")]
    Size {
        /// What kind of content.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its length by its descriptor.
        expected: u64,
        /// Its length.
        actual: u64,
    },
    /// A manifest or config over the limit.
    #[error("{what} {digest} has {size} bytes; at most {MAX_JSON} are read")]
    TooLarge {
        /// What kind of content.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its length by its descriptor.
        size: u64,
    },
    /// No image for the platform.
    #[error("there is no image for {wanted}; there are: {available}")]
    NoPlatform {
        /// The platform asked for.
        wanted: Platform,
        /// The platforms there are.
        available: String,
    },
    /// Indexes in indexes without end.
    #[error("the index nests deeper than {depth} levels or has over {count} indexes in it")]
    Nesting {
        /// Greatest depth.
        depth: usize,
        /// Most indexes.
        count: usize,
    },
    /// A layer that registries need not have is not there.
    #[error(
        "layer {digest} is non-distributable and not there: {error}; it would have to be fetched \
         from its vendor"
    )]
    Foreign {
        /// The layer's blob.
        digest: Digest,
        /// Why it cannot be read.
        error: String,
    },
    /// A directory is not an image.
    #[error("dir:{} is a root file system, not an image with layers", .0.display())]
    Directory(PathBuf),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Opens the source of a reference.
///
/// # Errors
/// The archive or layout cannot be read. A registry is not contacted yet.
pub fn open(
    reference: &ImageReference,
    options: &RegistryOptions,
) -> Result<Box<dyn ImageSource>, SourceError> {
    Ok(match reference {
        ImageReference::Registry(reference) => Box::new(Registry::new(reference.clone(), options)),
        ImageReference::OciLayout { path, select } => {
            Box::new(OciLayout::directory(path, select.clone())?)
        }
        ImageReference::OciArchive { path, select } => {
            Box::new(OciLayout::archive(path, select.clone())?)
        }
        ImageReference::DockerArchive { path, select } => {
            Box::new(DockerArchive::open(path, select)?)
        }
        ImageReference::Directory { path } => return Err(SourceError::Directory(path.clone())),
    })
}

/// Refuses a manifest or config over [`MAX_JSON`] by its descriptor.
pub(crate) fn check_small(what: &'static str, descriptor: &Descriptor) -> Result<(), SourceError> {
    if descriptor.size > MAX_JSON {
        return Err(SourceError::TooLarge {
            what,
            digest: descriptor.digest.clone(),
            size: descriptor.size,
        });
    }
    Ok(())
}

/// Verifies bytes against their descriptor.
pub(crate) fn verify(
    what: &'static str,
    bytes: &[u8],
    descriptor: &Descriptor,
) -> Result<(), SourceError> {
    let actual = bytes.len() as u64;
    if actual != descriptor.size {
        return Err(SourceError::Size {
            what,
            digest: descriptor.digest.clone(),
            expected: descriptor.size,
            actual,
        });
    }
    verify_digest(what, bytes, &descriptor.digest)
}

/// Verifies bytes against their digest.
pub(crate) fn verify_digest(
    what: &str,
    bytes: &[u8],
    expected: &Digest,
) -> Result<(), SourceError> {
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let actual = hasher.finish();
    if actual != *expected {
        return Err(SourceError::Digest {
            what: what.to_owned(),
            expected: expected.clone(),
            actual,
        });
    }
    Ok(())
}

/// Reads a config or another small blob and verifies it.
///
/// # Errors
/// It is over [`MAX_JSON`], not there, or not what its descriptor says.
pub fn read_small(
    source: &(impl ImageSource + ?Sized),
    what: &'static str,
    descriptor: &Descriptor,
    note: Note<'_>,
) -> Result<Vec<u8>, SourceError> {
    check_small(what, descriptor)?;
    let mut bytes = Vec::new();
    source
        .open_blob(descriptor, note)?
        // One byte more than expected shows that there is more.
        .take(descriptor.size + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| SourceError::Io {
            path: PathBuf::from(format!("{what} {}", descriptor.digest)),
            error,
        })?;
    verify(what, &bytes, descriptor)?;
    Ok(bytes)
}
