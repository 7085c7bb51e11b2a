//! Image configs: what an image says of itself.
//!
//! The config's JSON goes in (OCI image specification, config.md; Docker's is
//! the same form); out comes an [`ImageConfig`] with the fields in use, typed
//! and sorted. [`ImageConfig::identity`] names the image's content whatever
//! source, manifest format or compression it came in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use oci_spec::image as oci;

use crate::digest::Digest;
use crate::manifest::{MAX_JSON, MAX_LAYERS};
use crate::platform::Platform;

/// The config of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What it runs on.
    pub platform: Platform,
    /// When it was made, RFC 3339 as written.
    pub created: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// User or `user:group` that the entrypoint runs as.
    pub user: Option<String>,
    /// Environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Arguments to the entrypoint, or the command.
    pub cmd: Vec<String>,
    /// Where the entrypoint runs.
    pub working_dir: Option<String>,
    /// Signal that asks the container to stop.
    pub stop_signal: Option<String>,
    /// Ports, `8080/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// Volumes, sorted.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Digests of the layers' uncompressed tars, lowest first.
    pub diff_ids: Vec<Digest>,
    /// How it was made, oldest first.
    pub history: Vec<History>,
}

/// A step of how an image was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// When, RFC 3339 as written.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// A remark.
    pub comment: Option<String>,
    /// Whether the step made no layer.
    pub empty_layer: bool,
}

/// A config that is unusable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Over [`MAX_JSON`].
    #[error("it has {0} bytes; at most {MAX_JSON} are read")]
    TooLarge(u64),
    /// Not the JSON of a config.
    #[error("it is no valid image config: {0}")]
    Json(String),
    /// A diff id that is no digest.
    #[error("rootfs.diff_ids[{index}]: {reason}")]
    DiffId {
        /// Which, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// Too many layers.
    #[error("rootfs.diff_ids has {0} entries; at most {MAX_LAYERS} are read")]
    TooManyLayers(usize),
    /// The root file system is not made of layers.
    #[error("rootfs.type is {0:?}; expected \"layers\"")]
    RootFs(String),
    /// No valid platform.
    #[error("os and architecture: {0}")]
    Platform(String),
}

impl ImageConfig {
    /// Parses a config.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let len = bytes.len() as u64;
        if len > MAX_JSON {
            return Err(ConfigError::TooLarge(len));
        }
        let config: oci::ImageConfiguration =
            serde_json::from_slice(bytes).map_err(|e| ConfigError::Json(e.to_string()))?;
        let platform = Platform::from_parts(
            &config.os().to_string(),
            &config.architecture().to_string(),
            config.variant().as_deref(),
        )
        .map_err(|e| ConfigError::Platform(e.to_string()))?;
        let rootfs = config.rootfs();
        if rootfs.typ() != "layers" {
            return Err(ConfigError::RootFs(rootfs.typ().clone()));
        }
        let count = rootfs.diff_ids().len();
        if count > MAX_LAYERS {
            return Err(ConfigError::TooManyLayers(count));
        }
        let diff_ids = rootfs
            .diff_ids()
            .iter()
            .enumerate()
            .map(|(index, text)| {
                text.parse().map_err(|e| ConfigError::DiffId {
                    index,
                    reason: format!("{e}"),
                })
            })
            .collect::<Result<_, _>>()?;
        let history = config.history().iter().flatten().map(|h| History {
            created: h.created().clone(),
            created_by: h.created_by().clone(),
            comment: h.comment().clone(),
            empty_layer: h.empty_layer().unwrap_or(false),
        });
        let history = history.collect();
        let run = config.config().clone().unwrap_or_default();
        let mut exposed_ports = run.exposed_ports().clone().unwrap_or_default();
        exposed_ports.sort();
        let mut volumes = run.volumes().clone().unwrap_or_default();
        volumes.sort();
        let text = |field: &Option<String>| field.clone().filter(|t| !t.is_empty());
        Ok(Self {
            platform,
            created: text(config.created()),
            author: text(config.author()),
            user: text(run.user()),
            env: run.env().clone().unwrap_or_default(),
            entrypoint: run.entrypoint().clone().unwrap_or_default(),
            cmd: run.cmd().clone().unwrap_or_default(),
            working_dir: text(run.working_dir()),
            stop_signal: text(run.stop_signal()),
            exposed_ports,
            volumes,
            labels: run
                .labels()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            diff_ids,
            history,
        })
    }

    /// A digest of what the image is: its platform and its layers' content.
    ///
    /// It is the same for every source, compression and manifest format of
    /// the same image, so identifiers of a disk derive from it.
    pub fn identity(&self) -> Digest {
        let mut text = String::from("bootwright image 1\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "platform {}", self.platform);
        for diff_id in &self.diff_ids {
            let _ = writeln!(text, "layer {diff_id}");
        }
        Digest::sha256(text.as_bytes())
    }
}

#[cfg(test)]
mod tests;
