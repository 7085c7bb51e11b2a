//! Docker archives: what `docker save` and `podman save` write.
//!
//! `manifest.json` in the archive lists the images, each with the names of its
//! config and layers (moby image specification 1.2, "Combined Image JSON +
//! Filesystem Changeset Format"). There are no descriptors in it; they are
//! made here, so that an image reads the same as from any other source.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ImageSource, Note, Root, Section, SourceError, TarIndex, verify_digest};
use crate::config::ImageConfig;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::manifest::{
    Descriptor, LayerCompression, LayerDescriptor, MAX_JSON, MAX_LAYERS, Manifest,
};
use crate::reference::{ArchiveSelect, RegistryReference};

/// A docker archive, with one of its images chosen.
#[derive(Debug)]
pub struct DockerArchive {
    path: PathBuf,
    manifest: Manifest,
    blobs: BTreeMap<Digest, Section>,
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl DockerArchive {
    /// Opens an uncompressed archive and chooses an image.
    ///
    /// # Errors
    /// It is no docker archive, or has no such image.
    pub fn open(path: &Path, select: &ArchiveSelect) -> Result<Self, SourceError> {
        let archive = TarIndex::open(path)?;
        let error = |reason: String| SourceError::Place {
            path: path.to_owned(),
            reason,
        };
        if !archive.contains("manifest.json") {
            return Err(error(if archive.contains("oci-layout") {
                format!("it is an OCI archive: use oci-archive:{}", path.display())
            } else {
                "it is no docker archive: there is no manifest.json in it".to_owned()
            }));
        }
        let items = small(&archive, "manifest.json")?;
        let items: Vec<Item> = serde_json::from_slice(&items)
            .map_err(|e| error(format!("its manifest.json is not valid: {e}")))?;
        let item = choose(path, &items, select)?;

        let config_bytes = small(&archive, &item.config)?;
        let config_digest = Digest::sha256(&config_bytes);
        // Where the config is named by its digest, it has to be right.
        let named = item.config.rsplit('/').next().unwrap_or_default();
        let named = named.strip_suffix(".json").unwrap_or(named);
        if let Ok(expected) = format!("sha256:{named}").parse() {
            verify_digest("the config", &config_bytes, &expected)?;
        }
        let config = ImageConfig::parse(&config_bytes).map_err(|error| SourceError::Config {
            digest: config_digest.clone(),
            error,
        })?;
        let names = item.layers.as_deref().unwrap_or_default();
        if names.len() != config.diff_ids.len() || names.len() > MAX_LAYERS {
            return Err(SourceError::LayerCount {
                layers: names.len(),
                config: config_digest,
                diff_ids: config.diff_ids.len(),
            });
        }
        let mut blobs = BTreeMap::new();
        let mut layers = Vec::with_capacity(names.len());
        for (name, diff_id) in names.iter().zip(&config.diff_ids) {
            let section = archive.file(name)?;
            let io_error = |error| SourceError::Io {
                path: path.join(name),
                error,
            };
            let compression = sniff(&section).map_err(io_error)?;
            let (digest, media_type) = match compression {
                LayerCompression::None => (diff_id.clone(), "diff.tar"),
                LayerCompression::Gzip => (hash(&section).map_err(io_error)?, "diff.tar.gzip"),
                LayerCompression::Zstd => (hash(&section).map_err(io_error)?, "diff.tar.zstd"),
            };
            layers.push(LayerDescriptor {
                descriptor: Descriptor {
                    media_type: format!("application/vnd.docker.image.rootfs.{media_type}"),
                    digest: digest.clone(),
                    size: section.len(),
                    platform: None,
                    annotations: BTreeMap::new(),
                },
                compression,
                foreign: false,
            });
            blobs.insert(digest, section);
        }
        let config_section = archive.file(&item.config)?;
        let manifest = Manifest {
            config: Descriptor {
                media_type: "application/vnd.docker.container.image.v1+json".to_owned(),
                digest: config_digest.clone(),
                size: config_section.len(),
                platform: None,
                annotations: BTreeMap::new(),
            },
            layers,
            annotations: BTreeMap::new(),
        };
        blobs.insert(config_digest, config_section);
        Ok(Self {
            path: path.to_owned(),
            manifest,
            blobs,
        })
    }

    fn blob(&self, digest: &Digest) -> Result<Section, SourceError> {
        let blob = self.blobs.get(digest).cloned();
        blob.ok_or_else(|| SourceError::Missing {
            path: self.path.clone(),
            name: digest.to_string(),
        })
    }
}

/// Reads a small file of the archive.
fn small(archive: &TarIndex, name: &str) -> Result<Vec<u8>, SourceError> {
    let section = archive.file(name)?;
    if section.len() > MAX_JSON {
        return Err(SourceError::Place {
            path: archive.path().to_owned(),
            reason: format!(
                "{name} has {} bytes; at most {MAX_JSON} are read",
                section.len()
            ),
        });
    }
    let mut bytes = Vec::new();
    section
        .take(MAX_JSON)
        .read_to_end(&mut bytes)
        .map_err(|error| SourceError::Io {
            path: archive.path().join(name),
            error,
        })?;
    Ok(bytes)
}

fn choose<'a>(
    path: &Path,
    items: &'a [Item],
    select: &ArchiveSelect,
) -> Result<&'a Item, SourceError> {
    let error = |reason: String| {
        let tags = |item: &Item| match item.repo_tags.as_deref() {
            Some([_, ..]) => item.repo_tags.clone().unwrap_or_default().join(" "),
            _ => "(no name)".to_owned(),
        };
        let list = items.iter().enumerate().take(20);
        let list: Vec<_> = list
            .map(|(i, item)| format!("@{i}: {}", tags(item)))
            .collect();
        SourceError::Select {
            path: path.to_owned(),
            reason,
            available: if list.is_empty() {
                "none".to_owned()
            } else {
                list.join(", ")
            },
        }
    };
    match select {
        ArchiveSelect::Only => match items {
            [only] => Ok(only),
            [] => Err(error("there is no image in it".to_owned())),
            _ => Err(error(
                "there are several images in it; add :NAME or :@INDEX".to_owned(),
            )),
        },
        ArchiveSelect::Index(index) => items
            .get(*index)
            .ok_or_else(|| error(format!("there is no image @{index} in it"))),
        ArchiveSelect::Name(name) => {
            // Docker writes short names, podman full ones: compare the latter.
            let is = |tag: &String| tag.parse::<RegistryReference>().is_ok_and(|t| t == *name);
            items
                .iter()
                .find(|item| item.repo_tags.iter().flatten().any(is))
                .ok_or_else(|| error(format!("there is no image {name} in it")))
        }
    }
}

/// How a layer is compressed, by its first bytes.
fn sniff(section: &Section) -> io::Result<LayerCompression> {
    let (bytes, len) = section.peek::<4>()?;
    Ok(LayerCompression::sniff(
        bytes.get(..len).unwrap_or_default(),
    ))
}

fn hash(section: &Section) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut reader = section.clone();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

impl ImageSource for DockerArchive {
    fn root(&self, _note: Note<'_>) -> Result<Root, SourceError> {
        Ok(Root::Manifest(self.manifest.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor, _note: Note<'_>) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::Missing {
            path: self.path.clone(),
            name: descriptor.digest.to_string(),
        })
    }

    fn open_blob<'a>(
        &'a self,
        descriptor: &Descriptor,
        _note: Note<'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        Ok(Box::new(self.blob(&descriptor.digest)?))
    }
}
