//! Where blobs go.

use std::io::Write;

use bootwright_image::Digest;
use bootwright_image::registry::Uploaded;

use crate::error::DeliveryError;
use crate::frames::Written;
use crate::oci::Descriptor;

/// Takes the blobs of an image, in the order in which the image needs them:
/// layers, config, manifest, index.
///
/// A sink may still be storing one blob while it takes the next; what
/// [`BlobSink::manifest`] names must be complete when that is stored.
pub trait BlobSink: Sync {
    /// Whether the blob is there already (or can be had without its bytes, as
    /// by a mount from another repository), so that it need not be made.
    ///
    /// # Errors
    /// The sink cannot tell.
    fn has(&self, blob: &Descriptor) -> Result<bool, DeliveryError>;

    /// Stores a blob. `make` writes it and says what it wrote; it can be
    /// called again for the same bytes. Where digest and length are known
    /// before, `known` says them.
    ///
    /// # Errors
    /// `make` failed, or the sink.
    fn put(
        &self,
        known: Option<&Descriptor>,
        make: &mut dyn FnMut(&mut dyn Write) -> Result<Written, DeliveryError>,
    ) -> Result<Written, DeliveryError>;

    /// Stores a manifest or an index. `top` says that it is the one that the
    /// image's name shall lead to.
    ///
    /// # Errors
    /// The sink cannot store it.
    fn manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        top: bool,
    ) -> Result<(), DeliveryError>;

    /// How a blob came to be there; `None` as long as it may not be complete.
    /// What a manifest named that was stored is.
    fn uploaded(&self, digest: &Digest) -> Option<Uploaded>;

    /// Lists a manifest among the referrers of its subject, unless whoever
    /// keeps both knows by itself (OCI distribution specification, "Pushing
    /// Manifests with Subject").
    ///
    /// # Errors
    /// The list cannot be read or written.
    fn refer(&self, subject: &Digest, descriptor: &Descriptor) -> Result<(), DeliveryError>;
}
