//! OCI image layouts: a directory, or the same in a tar archive.
//!
//! As in the OCI image specification, image-layout.md: `index.json` lists the
//! images, `blobs/<algorithm>/<hex>` holds everything else. Only these names
//! are ever opened, and the hex comes from a parsed digest, so no path of the
//! image's choosing is.

use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ImageSource, Note, Root, Section, SourceError, TarIndex, check_small, read_exactly};
use crate::digest::{Algorithm, Digest};
use crate::manifest::{Descriptor, Index, MAX_JSON};
use crate::reference::LayoutSelect;

/// image-spec annotations.md: the name of an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd writes besides: the full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Most names listed in an error.
const MAX_LISTED: usize = 20;

/// An OCI image layout.
#[derive(Debug)]
pub struct OciLayout {
    path: PathBuf,
    files: Files,
    select: LayoutSelect,
}

#[derive(Debug)]
enum Files {
    Directory,
    Archive(TarIndex),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutVersion {
    image_layout_version: String,
}

impl OciLayout {
    /// A layout in a directory.
    ///
    /// # Errors
    /// It is no OCI layout.
    pub fn directory(path: &Path, select: LayoutSelect) -> Result<Self, SourceError> {
        // A missing directory is said as such, not as a missing file in it.
        std::fs::metadata(path).map_err(|error| SourceError::Io {
            path: path.to_owned(),
            error,
        })?;
        Self::checked(path, Files::Directory, select)
    }

    /// A layout in an uncompressed tar archive.
    ///
    /// # Errors
    /// It is no tar archive or has no OCI layout in it.
    pub fn archive(path: &Path, select: LayoutSelect) -> Result<Self, SourceError> {
        let archive = TarIndex::open(path)?;
        if !archive.contains("index.json") && archive.contains("manifest.json") {
            return Err(SourceError::Place {
                path: path.to_owned(),
                reason: format!(
                    "it is a docker archive: use docker-archive:{}",
                    path.display()
                ),
            });
        }
        Self::checked(path, Files::Archive(archive), select)
    }

    fn checked(path: &Path, files: Files, select: LayoutSelect) -> Result<Self, SourceError> {
        let layout = Self {
            path: path.to_owned(),
            files,
            select,
        };
        let error = |reason| SourceError::Place {
            path: path.to_owned(),
            reason,
        };
        let marker = match layout.file("oci-layout") {
            Err(SourceError::Missing { .. }) => {
                return Err(error(
                    "it is no OCI image layout: there is no file oci-layout in it".to_owned(),
                ));
            }
            other => layout.read_json("oci-layout", other?)?,
        };
        let version: LayoutVersion = serde_json::from_slice(&marker)
            .map_err(|e| error(format!("its oci-layout file is not valid: {e}")))?;
        if !version.image_layout_version.starts_with("1.") {
            return Err(error(format!(
                "its layout version is {:?}; expected 1.0.0",
                version.image_layout_version
            )));
        }
        Ok(layout)
    }

    fn file(&self, name: &str) -> Result<Section, SourceError> {
        match &self.files {
            Files::Archive(archive) => archive.file(name),
            Files::Directory => match Section::whole(&self.path.join(name)) {
                Err(SourceError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                    Err(SourceError::Missing {
                        path: self.path.clone(),
                        name: name.to_owned(),
                    })
                }
                other => other,
            },
        }
    }

    fn blob(&self, what: &'static str, descriptor: &Descriptor) -> Result<Section, SourceError> {
        let section = self.file(&blob_name(&descriptor.digest))?;
        if section.len() != descriptor.size {
            return Err(SourceError::Size {
                what,
                digest: descriptor.digest.clone(),
                expected: descriptor.size,
                actual: section.len(),
            });
        }
        Ok(section)
    }

    fn read_json(&self, name: &str, section: Section) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        if section.len() > MAX_JSON {
            return Err(SourceError::Place {
                path: self.path.clone(),
                reason: format!("{name} has over {MAX_JSON} bytes"),
            });
        }
        section
            .take(MAX_JSON)
            .read_to_end(&mut bytes)
            .map_err(|error| SourceError::Io {
                path: self.path.join(name),
                error,
            })?;
        Ok(bytes)
    }

    fn select_error(&self, reason: String, entries: &[Descriptor]) -> SourceError {
        let mut names: Vec<&str> = entries.iter().filter_map(name).collect();
        names.sort_unstable();
        names.dedup();
        let more = names.len().saturating_sub(MAX_LISTED);
        names.truncate(MAX_LISTED);
        let mut available = match (names.is_empty(), entries.len()) {
            (_, 0) => "none".to_owned(),
            (true, n) => format!("{n} without a name"),
            (false, _) => names.join(", "),
        };
        if more > 0 {
            available.push_str(&format!(" and {more} more"));
        }
        SourceError::Select {
            path: self.path.clone(),
            reason,
            available,
        }
    }
}

/// The name of an image in a layout.
fn name(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

fn blob_name(digest: &Digest) -> String {
    let algorithm = match digest.algorithm() {
        Algorithm::Sha256 => "sha256",
        Algorithm::Sha512 => "sha512",
    };
    format!("blobs/{algorithm}/{}", digest.hex())
}

impl ImageSource for OciLayout {
    fn root(&self, _note: Note<'_>) -> Result<Root, SourceError> {
        let bytes = self.read_json("index.json", self.file("index.json")?)?;
        let index = Index::parse(&bytes).map_err(|error| SourceError::Manifest {
            what: format!("index.json of {}", self.path.display()),
            error,
        })?;
        let entries = index.manifests;
        let chosen: Vec<Descriptor> = match &self.select {
            LayoutSelect::Digest(digest) => {
                let listed = entries.iter().find(|e| e.digest == *digest);
                let entry = match listed {
                    Some(entry) => entry.clone(),
                    // One inside an index of the layout is not listed here.
                    None => {
                        let section = self.file(&blob_name(digest)).map_err(|_| {
                            self.select_error(format!("there is no image {digest} in it"), &entries)
                        })?;
                        Descriptor {
                            media_type: String::new(),
                            digest: digest.clone(),
                            size: section.len(),
                            platform: None,
                            annotations: Default::default(),
                        }
                    }
                };
                vec![entry]
            }
            LayoutSelect::Tag(tag) => {
                let named = |e: &&Descriptor| {
                    [REF_NAME, CONTAINERD_NAME]
                        .iter()
                        .any(|key| e.annotations.get(*key) == Some(tag))
                };
                let chosen: Vec<_> = entries.iter().filter(named).cloned().collect();
                if chosen.is_empty() {
                    let reason = format!("there is no image {tag:?} in it");
                    return Err(self.select_error(reason, &entries));
                }
                chosen
            }
            LayoutSelect::Only => {
                // One image, or the same for several platforms: then no two
                // names.
                let mut names: Vec<_> = entries.iter().map(name).collect();
                names.sort_unstable();
                names.dedup();
                let unclear = entries.len() > 1
                    && entries
                        .iter()
                        .any(|e| e.platform.is_none() && !e.is_attestation());
                if names.len() > 1 || unclear {
                    let reason = "there are several images in it; add :TAG or @DIGEST".to_owned();
                    return Err(self.select_error(reason, &entries));
                }
                if entries.is_empty() {
                    return Err(self.select_error("there is no image in it".to_owned(), &entries));
                }
                entries
            }
        };
        Ok(Root::Entries(chosen))
    }

    fn manifest(&self, descriptor: &Descriptor, _note: Note<'_>) -> Result<Vec<u8>, SourceError> {
        check_small("manifest", descriptor)?;
        let section = self.blob("manifest", descriptor)?;
        self.read_json(&blob_name(&descriptor.digest), section)
    }

    fn open_blob<'a>(
        &'a self,
        descriptor: &Descriptor,
        _note: Note<'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        Ok(Box::new(self.blob("blob", descriptor)?))
    }

    fn read_range(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
        _note: Note<'_>,
    ) -> Result<Vec<u8>, SourceError> {
        let len = range.end.saturating_sub(range.start);
        let part = self.blob("blob", descriptor)?.part(range.start, len);
        read_exactly(part, &range).map_err(|error| SourceError::Io {
            path: self.path.join(blob_name(&descriptor.digest)),
            error,
        })
    }
}
