//! The JSON documents of an image, written so that equal content gives equal
//! bytes: fields in a fixed order, maps sorted, no white space.
//!
//! The form is that of the OCI image specification 1.1: descriptor.md,
//! manifest.md, config.md, image-index.md.

use std::collections::BTreeMap;

use bootwright_image::config::ImageConfig;
use bootwright_image::manifest::{OCI_INDEX, OCI_MANIFEST};
use bootwright_image::{Digest, Platform};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::DeliveryError;

/// Media type of an image's config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer compressed with zstd.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Media type of a layer compressed with gzip.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Annotations.
pub mod annotation {
    /// When the content was made, RFC 3339.
    pub const CREATED: &str = "org.opencontainers.image.created";
    /// The name of the image that the disk was made from.
    pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
    /// The digest of its manifest.
    pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
    /// A file name.
    pub const TITLE: &str = "org.opencontainers.image.title";
    /// The name of an image in a layout.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// Says that the image is a disk image, and the version of its format.
    pub const DISK_VERSION: &str = "dev.bootwright.disk.version";
    /// The disk's size in bytes.
    pub const DISK_SIZE: &str = "dev.bootwright.disk.size";
    /// On a layer's descriptor: `metadata`.
    pub const DISK_LAYER: &str = "dev.bootwright.disk.layer";
    /// The program that made the image, and its version.
    pub const TOOL: &str = "dev.bootwright.tool";
    /// What the image is whatever its manifest: a digest over its diff ids.
    pub const IDENTITY: &str = "dev.bootwright.source.identity";
    /// Before the name of an option that shaped the disk.
    pub const OPTION: &str = "dev.bootwright.option.";
}

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformText>,
    /// In an index: the type of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Describes `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }

    /// A descriptor without annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// A platform as JSON has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformText {
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl From<&Platform> for PlatformText {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture().to_owned(),
            os: platform.os().to_owned(),
            variant: platform.variant().map(str::to_owned),
        }
    }
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    media_type: String,
    /// What an artifact is; `None` for an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of an image.
    pub fn image(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Its bytes and what describes them.
    ///
    /// # Errors
    /// None that is known.
    pub fn encode(&self) -> Result<(Descriptor, Vec<u8>), DeliveryError> {
        let bytes = json("manifest", self)?;
        let mut descriptor = Descriptor::of(OCI_MANIFEST, &bytes);
        descriptor.artifact_type.clone_from(&self.artifact_type);
        Ok((descriptor, bytes))
    }
}

/// An index: manifests by platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    media_type: String,
    /// What the artifacts are; `None` for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            artifact_type: None,
            manifests,
            annotations: BTreeMap::new(),
        }
    }

    /// Its bytes and what describes them.
    ///
    /// # Errors
    /// None that is known.
    pub fn encode(&self) -> Result<(Descriptor, Vec<u8>), DeliveryError> {
        let bytes = json("index", self)?;
        Ok((Descriptor::of(OCI_INDEX, &bytes), bytes))
    }
}

/// The JSON of an image's config.
///
/// # Errors
/// None that is known.
pub fn config(config: &ImageConfig) -> Result<Vec<u8>, DeliveryError> {
    #[derive(Serialize)]
    struct Config<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        created: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        author: Option<&'a str>,
        #[serde(flatten)]
        platform: PlatformText,
        config: Run<'a>,
        rootfs: RootFs,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        history: Vec<Step<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Run<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        exposed_ports: BTreeMap<&'a str, Empty>,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        env: &'a [String],
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        entrypoint: &'a [String],
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        cmd: &'a [String],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        volumes: BTreeMap<&'a str, Empty>,
        #[serde(skip_serializing_if = "Option::is_none")]
        working_dir: Option<&'a str>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_signal: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Empty {}
    #[derive(Serialize)]
    struct RootFs {
        #[serde(rename = "type")]
        kind: &'static str,
        diff_ids: Vec<String>,
    }
    #[derive(Serialize)]
    struct Step<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        created: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        created_by: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        comment: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        empty_layer: bool,
    }
    fn set(names: &[String]) -> BTreeMap<&str, Empty> {
        names.iter().map(|name| (name.as_str(), Empty {})).collect()
    }
    json(
        "image config",
        &Config {
            created: config.created.as_deref(),
            author: config.author.as_deref(),
            platform: PlatformText::from(&config.platform),
            config: Run {
                user: config.user.as_deref(),
                exposed_ports: set(&config.exposed_ports),
                env: &config.env,
                entrypoint: &config.entrypoint,
                cmd: &config.cmd,
                volumes: set(&config.volumes),
                working_dir: config.working_dir.as_deref(),
                labels: &config.labels,
                stop_signal: config.stop_signal.as_deref(),
            },
            rootfs: RootFs {
                kind: "layers",
                diff_ids: config.diff_ids.iter().map(Digest::to_string).collect(),
            },
            history: config
                .history
                .iter()
                .map(|step| Step {
                    created: step.created.as_deref(),
                    created_by: step.created_by.as_deref(),
                    comment: step.comment.as_deref(),
                    empty_layer: step.empty_layer,
                })
                .collect(),
        },
    )
}

/// The config of an image that is no container: only what it must have.
pub fn empty_config(platform: Platform) -> ImageConfig {
    ImageConfig {
        platform,
        created: None,
        author: None,
        user: None,
        env: Vec::new(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        working_dir: None,
        stop_signal: None,
        exposed_ports: Vec::new(),
        volumes: Vec::new(),
        labels: BTreeMap::new(),
        diff_ids: Vec::new(),
        history: Vec::new(),
    }
}

pub(crate) fn json<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, DeliveryError> {
    serde_json::to_vec(value).map_err(|e| DeliveryError::malformed(what, e.to_string()))
}

pub(crate) fn to_text<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(digest)
}

pub(crate) fn from_text<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}
