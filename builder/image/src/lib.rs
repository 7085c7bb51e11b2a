//! Container images as layer packs.
//!
//! An image reference goes in; out come its verified config and one
//! [`layer::Entry`] list and pack a layer, kept in a content-addressed store.
//! Nothing of an image is ever unpacked to paths on the host.

pub mod config;
pub mod digest;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod source;
pub mod store;
pub mod tar;

pub use config::ImageConfig;
pub use digest::{Digest, DigestError};
pub use layer::{Entry, EntryKind, Segment, Timestamp};
pub use platform::Platform;
pub use reference::ImageReference;
