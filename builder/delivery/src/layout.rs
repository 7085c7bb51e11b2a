//! Writing an OCI image layout: a directory that skopeo, podman, ORAS and
//! Bootwright itself read as `oci:DIR:TAG`.
//!
//! Blobs appear under their digest whole or not at all; the entry of
//! `index.json` comes last and replaces one of the same name. The form is
//! that of the OCI image specification, image-layout.md.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bootwright_image::Digest;
use bootwright_image::digest::Algorithm;
use bootwright_image::manifest::MAX_JSON;
use bootwright_image::registry::Uploaded;

use crate::error::DeliveryError;
use crate::frames::Written;
use crate::oci::{Descriptor, Index, annotation};
use crate::sink::BlobSink;

/// What says that a directory is a layout.
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout that is being written to.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    tag: Option<String>,
    /// Held while the index is changed.
    index: Mutex<()>,
    uploaded: Mutex<BTreeMap<Digest, Uploaded>>,
}

impl Layout {
    /// Opens a layout, or makes one where there is nothing or an empty
    /// directory. The image will be named `tag`.
    ///
    /// # Errors
    /// Something else is there, or the directory cannot be made.
    pub fn create(path: &Path, tag: Option<&str>) -> Result<Self, DeliveryError> {
        let layout = Self {
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            index: Mutex::new(()),
            uploaded: Mutex::default(),
        };
        let marker = path.join("oci-layout");
        if !marker.exists() {
            let entries = fs::read_dir(path).map_or(0, Iterator::count);
            if entries > 0 {
                return Err(DeliveryError::Place {
                    path: path.to_owned(),
                    reason: "it is not empty and no OCI layout".to_owned(),
                });
            }
            fs::create_dir_all(path).map_err(DeliveryError::io(path.display().to_string()))?;
            layout.replace("oci-layout", LAYOUT.as_bytes())?;
        }
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(DeliveryError::io(blobs.display().to_string()))?;
        Ok(layout)
    }

    /// Where the blob with this digest is.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let algorithm = match digest.algorithm() {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        };
        self.path.join("blobs").join(algorithm).join(digest.hex())
    }

    fn is_there(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|found| found.len() == size)
    }

    /// Remembers how a blob came; the first time counts.
    fn note(&self, digest: &Digest, how: Uploaded) {
        let uploaded = self.uploaded.lock();
        let mut uploaded = uploaded.unwrap_or_else(PoisonError::into_inner);
        uploaded.entry(digest.clone()).or_insert(how);
    }

    /// Writes a file of the layout under its name when it is complete.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DeliveryError> {
        let path = self.path.join(name);
        let io = |error| DeliveryError::io(path.display().to_string())(error);
        let mut file = temporary(&self.path).map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        file.persist(&path).map_err(|e| io(e.error))?;
        Ok(())
    }

    fn read_index(&self) -> Result<Index, DeliveryError> {
        let path = self.path.join("index.json");
        let io = |error| DeliveryError::io(path.display().to_string())(error);
        let bytes = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Index::new(Vec::new()));
            }
            Err(error) => return Err(io(error)),
            Ok(found) if found.len() > MAX_JSON => {
                return Err(DeliveryError::Place {
                    path,
                    reason: format!("it has more than {MAX_JSON} bytes"),
                });
            }
            Ok(_) => fs::read(&path).map_err(io)?,
        };
        serde_json::from_slice(&bytes).map_err(|error| DeliveryError::Place {
            path: path.clone(),
            reason: format!("it is no index: {error}"),
        })
    }

    /// Lists the manifest by this name, in the place of one that had it before.
    fn entry(&self, tag: Option<&str>, descriptor: &Descriptor) -> Result<(), DeliveryError> {
        let _lock = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = self.read_index()?;
        let mut entry = descriptor.clone();
        let is_same = |other: &Descriptor| match tag {
            Some(tag) => {
                other
                    .annotations
                    .get(annotation::REF_NAME)
                    .map(String::as_str)
                    == Some(tag)
            }
            None => {
                other.digest == descriptor.digest
                    && !other.annotations.contains_key(annotation::REF_NAME)
            }
        };
        index.manifests.retain(|other| !is_same(other));
        if let Some(tag) = tag {
            let name = annotation::REF_NAME.to_owned();
            entry.annotations.insert(name, tag.to_owned());
        }
        index.manifests.push(entry);
        let (_, bytes) = index.encode()?;
        self.replace("index.json", &bytes)
    }
}

/// A file that is removed unless it gets a name; readable by all who may
/// reach it, as files are that are not temporary.
fn temporary(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
}

impl BlobSink for Layout {
    fn has(&self, blob: &Descriptor) -> Result<bool, DeliveryError> {
        let found = self.is_there(&blob.digest, blob.size);
        if found {
            self.note(&blob.digest, Uploaded::Present);
        }
        Ok(found)
    }

    fn put(
        &self,
        _known: Option<&Descriptor>,
        make: &mut dyn FnMut(&mut dyn Write) -> Result<Written, DeliveryError>,
    ) -> Result<Written, DeliveryError> {
        let dir = self.path.join("blobs/sha256");
        let io = |error| DeliveryError::io(dir.display().to_string())(error);
        let file = temporary(&dir).map_err(io)?;
        let written = {
            let mut out = BufWriter::with_capacity(128 << 10, file.as_file());
            let written = make(&mut out)?;
            out.flush().map_err(io)?;
            written
        };
        if self.is_there(&written.digest, written.size) {
            self.note(&written.digest, Uploaded::Present);
            return Ok(written);
        }
        let path = self.blob_path(&written.digest);
        file.persist(&path).map_err(|e| io(e.error))?;
        self.note(&written.digest, Uploaded::Sent);
        Ok(written)
    }

    fn manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        top: bool,
    ) -> Result<(), DeliveryError> {
        let path = self.blob_path(&descriptor.digest);
        let name = path.strip_prefix(&self.path).unwrap_or(&path);
        self.replace(&name.to_string_lossy(), bytes)?;
        match top {
            true => self.entry(self.tag.as_deref(), descriptor),
            false => Ok(()),
        }
    }

    fn uploaded(&self, digest: &Digest) -> Option<Uploaded> {
        let uploaded = self.uploaded.lock();
        let uploaded = uploaded.unwrap_or_else(PoisonError::into_inner);
        uploaded.get(digest).copied()
    }

    /// In a layout the index lists all that nothing else leads to.
    fn refer(&self, _subject: &Digest, descriptor: &Descriptor) -> Result<(), DeliveryError> {
        let listed = self.read_index()?.manifests;
        match listed.iter().any(|other| other.digest == descriptor.digest) {
            true => Ok(()),
            false => self.entry(None, descriptor),
        }
    }
}

impl crate::lazy::RangeRead for Layout {
    fn read_range(&self, blob: &Descriptor, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt as _;
        let file = File::open(self.blob_path(&blob.digest))?;
        let len = range.end.checked_sub(range.start);
        let len = len.and_then(|len| usize::try_from(len).ok());
        let mut bytes = vec![0; len.ok_or(io::ErrorKind::InvalidInput)?];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }
}
