//! Disks as OCI images, and back.
//!
//! A disk that is a plan over the layers of an image travels as that image
//! and one layer more ([`disk_image`]); other disks travel in windows of it
//! ([`raw_image`]), as KubeVirt containerDisks ([`container_disk`]) or as
//! KubeVirt artifacts ([`artifact`]). Blobs go to a [`BlobSink`], which a
//! [`registry::RegistrySink`] or a [`layout::Layout`] is.

pub mod artifact;
pub mod artifact_disk;
pub mod container_disk;
pub mod disk_image;
mod error;
pub mod frames;
mod host_files;
mod known;
pub mod layer;
pub mod layout;
pub mod lazy;
pub mod metadata;
pub mod oci;
pub mod raw_image;
pub mod registry;
mod sink;
mod table;
mod tarball;

pub use error::DeliveryError;
pub use frames::{Codec, Work, Written};
pub use host_files::shows_packs;
pub use known::repositories;
pub use sink::BlobSink;
pub use table::{LayerTable, TableError};
