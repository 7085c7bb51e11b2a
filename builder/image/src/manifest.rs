//! Manifests and indexes: what an image consists of.
//!
//! JSON bytes from any source go in; out comes a [`Manifest`] or an
//! [`Index`], whichever of the OCI image specification's and Docker's schema 2
//! media types they were written in, with sizes, digests and media types
//! checked. Everything that is no image (schema 1, artifacts, encrypted
//! layers) is refused by name.

use std::collections::BTreeMap;

use oci_spec::image as oci;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::platform::Platform;

/// Largest manifest, index or config in bytes; registries accept no more.
pub const MAX_JSON: u64 = 4 << 20;

/// Most layers an image can have. Container runtimes end at 128.
pub const MAX_LAYERS: usize = 1000;

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker schema 2 manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A reference to a blob by digest, as in the OCI image specification,
/// descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The platform it is for, in an index; `None` where none or no valid one
    /// is given.
    pub platform: Option<Platform>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, by platform.
    Index(Index),
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image's config.
    pub config: Descriptor,
    /// Its layers, lowest first; at most [`MAX_LAYERS`].
    pub layers: Vec<LayerDescriptor>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// A layer as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// The blob.
    pub descriptor: Descriptor,
    /// How the media type says it is compressed.
    pub compression: LayerCompression,
    /// Whether registries may refuse to store it (foreign or
    /// non-distributable).
    pub foreign: bool,
}

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerCompression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd, also zstd:chunked.
    Zstd,
}

impl LayerCompression {
    /// Tells the compression by the first bytes of a blob (RFC 1952, RFC
    /// 8878); whatever is not compressed is taken for a tar.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or the skippable frame that may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// An image index or manifest list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its entries, in their order.
    pub manifests: Vec<Descriptor>,
}

/// JSON that is no usable manifest or index.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Over [`MAX_JSON`].
    #[error("it has {0} bytes; at most {MAX_JSON} are read")]
    TooLarge(u64),
    /// No JSON, or not of the form its media type says.
    #[error("it is no valid {kind}: {reason}")]
    Json {
        /// What was expected.
        kind: &'static str,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// Docker's obsolete first format.
    #[error(
        "it is a Docker schema 1 manifest, which is obsolete and carries no verifiable layers; \
         push the image again with a current tool"
    )]
    Schema1,
    /// It can be read as two things.
    #[error(
        "it is ambiguous: it has the fields of both an image manifest and an index (CVE-2021-41190)"
    )]
    Ambiguous,
    /// The media types in the document and of the document disagree.
    #[error("its mediaType is {inner:?} but it was served as {outer:?}")]
    Mismatch {
        /// In the document.
        inner: String,
        /// From the registry or the descriptor.
        outer: String,
    },
    /// Not a manifest that is known.
    #[error(
        "its media type {0:?} is unknown; expected an OCI or Docker schema 2 manifest or index"
    )]
    UnknownMediaType(String),
    /// A manifest of something else than an image.
    #[error(
        "it is no container image but an artifact of type {artifact_type:?} (config {config:?})"
    )]
    Artifact {
        /// The artifact's type.
        artifact_type: String,
        /// The media type of its config.
        config: String,
    },
    /// A layer that cannot be read.
    #[error("layer {number} ({digest}) has the media type {media_type:?}, which is {reason}")]
    Layer {
        /// Which layer, from 1.
        number: usize,
        /// Its digest.
        digest: Digest,
        /// Its media type.
        media_type: String,
        /// Why it cannot be read.
        reason: &'static str,
    },
    /// Too many layers.
    #[error("it has {0} layers; at most {MAX_LAYERS} are read")]
    TooManyLayers(usize),
    /// A digest of an unknown algorithm.
    #[error("{field}: {reason}")]
    Digest {
        /// Where.
        field: String,
        /// What is wrong.
        reason: String,
    },
}

/// The fields that tell the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Index,
    Schema1,
}

fn kind(media_type: &str) -> Option<Kind> {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
        OCI_INDEX | DOCKER_INDEX => Some(Kind::Index),
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Some(Kind::Schema1),
        _ => None,
    }
}

/// Whether the media type is one of a manifest or an index.
pub fn is_manifest(media_type: &str) -> bool {
    kind(media_type) == Some(Kind::Manifest)
}

/// Whether the media type is one of an index.
pub fn is_index(media_type: &str) -> bool {
    kind(media_type) == Some(Kind::Index)
}

impl Document {
    /// Parses a document. `outer` is the media type it was served or
    /// described as, if any.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: &[u8], outer: Option<&str>) -> Result<Self, ManifestError> {
        check_size(bytes)?;
        let probe: Probe = json(bytes, "manifest or index")?;
        if probe.schema_version == Some(1) || probe.fs_layers.is_some() {
            return Err(ManifestError::Schema1);
        }
        if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        // Registries without a type of their own answer with a generic one.
        let outer = outer
            .map(|o| o.split(';').next().unwrap_or(o).trim())
            .filter(|o| !matches!(*o, "" | "application/json" | "application/octet-stream"))
            .filter(|o| !o.starts_with("text/"));
        let media_type = probe.media_type.as_deref().filter(|m| !m.is_empty());
        if let (Some(inner), Some(outer)) = (media_type, outer)
            && kind(inner) != kind(outer)
        {
            return Err(ManifestError::Mismatch {
                inner: inner.to_owned(),
                outer: outer.to_owned(),
            });
        }
        let kind = match media_type.or(outer) {
            Some(known) => {
                kind(known).ok_or_else(|| ManifestError::UnknownMediaType(known.to_owned()))?
            }
            None if probe.manifests.is_some() => Kind::Index,
            None => Kind::Manifest,
        };
        match kind {
            Kind::Schema1 => Err(ManifestError::Schema1),
            Kind::Index => Index::parse(bytes).map(Self::Index),
            Kind::Manifest => Manifest::parse(bytes).map(Self::Manifest),
        }
    }
}

impl Index {
    /// Parses an image index, for example an OCI layout's `index.json`.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_size(bytes)?;
        let index: oci::ImageIndex = json(bytes, "image index")?;
        let manifests = index
            .manifests()
            .iter()
            .enumerate()
            .map(|(i, d)| Descriptor::from_oci(d, || format!("manifests[{i}].digest")))
            .collect::<Result<_, _>>()?;
        Ok(Self { manifests })
    }
}

impl Manifest {
    fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: oci::ImageManifest = json(bytes, "image manifest")?;
        let config = Descriptor::from_oci(manifest.config(), || "config.digest".to_owned())?;
        if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            let artifact_type = manifest.artifact_type().as_ref();
            return Err(ManifestError::Artifact {
                artifact_type: artifact_type
                    .map_or(&*config.media_type, |t| t.as_ref())
                    .to_owned(),
                config: config.media_type,
            });
        }
        let count = manifest.layers().len();
        if count > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers(count));
        }
        let layers = manifest
            .layers()
            .iter()
            .enumerate()
            .map(|(i, d)| {
                let descriptor = Descriptor::from_oci(d, || format!("layers[{i}].digest"))?;
                LayerDescriptor::new(descriptor, i + 1)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            config,
            layers,
            annotations: sorted(manifest.annotations().as_ref()),
        })
    }
}

impl LayerDescriptor {
    /// Says how the layer is to be read; `number` counts from 1, for errors.
    ///
    /// # Errors
    /// [`ManifestError::Layer`] for a media type that is no layer's.
    pub fn new(descriptor: Descriptor, number: usize) -> Result<Self, ManifestError> {
        let error = |reason| ManifestError::Layer {
            number,
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            reason,
        };
        let media_type = descriptor.media_type.as_str();
        if media_type.ends_with("+encrypted") {
            return Err(error(
                "encrypted; decrypt it first, as `skopeo copy --decryption-key` does",
            ));
        }
        // OCI image specification, layer.md and media-types.md; Docker image
        // manifest version 2, schema 2.
        let (compression, foreign) =
            if let Some(rest) = media_type.strip_prefix("application/vnd.docker.image.rootfs.") {
                let (rest, foreign) = match rest.strip_prefix("foreign.") {
                    Some(rest) => (rest, true),
                    None => (rest, false),
                };
                let compression = match rest {
                    "diff.tar" => LayerCompression::None,
                    "diff.tar.gzip" => LayerCompression::Gzip,
                    "diff.tar.zstd" => LayerCompression::Zstd,
                    _ => return Err(error("unknown")),
                };
                (compression, foreign)
            } else if let Some(rest) = media_type.strip_prefix("application/vnd.oci.image.layer.") {
                let (rest, foreign) = match rest.strip_prefix("nondistributable.") {
                    Some(rest) => (rest, true),
                    None => (rest, false),
                };
                let compression = match rest {
                    "v1.tar" => LayerCompression::None,
                    "v1.tar+gzip" => LayerCompression::Gzip,
                    "v1.tar+zstd" => LayerCompression::Zstd,
                    _ => return Err(error("unknown")),
                };
                (compression, foreign)
            } else {
                return Err(error("no file system layer's"));
            };
        Ok(Self {
            descriptor,
            compression,
            foreign,
        })
    }
}

impl Descriptor {
    fn from_oci(
        descriptor: &oci::Descriptor,
        field: impl Fn() -> String,
    ) -> Result<Self, ManifestError> {
        let digest = descriptor.digest().as_ref().parse::<Digest>();
        let platform = descriptor.platform().as_ref().and_then(|p| {
            let variant = p.variant().as_deref();
            Platform::from_parts(&p.os().to_string(), &p.architecture().to_string(), variant).ok()
        });
        Ok(Self {
            media_type: descriptor.media_type().as_ref().to_owned(),
            digest: digest.map_err(|e| ManifestError::Digest {
                field: field(),
                reason: e.to_string(),
            })?,
            size: descriptor.size(),
            platform,
            annotations: sorted(descriptor.annotations().as_ref()),
        })
    }

    /// Whether the entry is no image but says something about one, as build
    /// tools add it to an index.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self.platform.as_ref().is_some_and(Platform::is_unknown)
    }
}

fn sorted(map: Option<&std::collections::HashMap<String, String>>) -> BTreeMap<String, String> {
    map.into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn check_size(bytes: &[u8]) -> Result<(), ManifestError> {
    let len = bytes.len() as u64;
    if len > MAX_JSON {
        return Err(ManifestError::TooLarge(len));
    }
    Ok(())
}

/// Parses JSON; serde_json bounds the depth.
fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], kind: &'static str) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|e| ManifestError::Json {
        kind,
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests;
