//! The disk of a KubeVirt VirtualMachine artifact (VEP 256), taken out of it.
//!
//! [`find`] reads the artifact's manifest; [`fetch`] brings the one disk that
//! it names onto this machine, verified and expanded, in a file that vanishes
//! with its last user. Unlike the layers of images nothing of it is kept:
//! the disk is one blob, and of the next version no byte is the same blob.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use bootwright_image::Digest;
use bootwright_image::digest::Hasher;
use bootwright_image::manifest::Descriptor;
use bootwright_image::source::{ImageSource, Note};
use serde::Deserialize;

use crate::error::DeliveryError;
use crate::oci;

/// What the artifact is.
const ARTIFACT_TYPE: &str = "application/vnd.kubevirt.virtualmachine.v1";
/// Media types of disks: the form, and whether it is compressed with zstd.
const DISKS: [(&str, bool); 2] = [
    ("application/vnd.kubevirt.disk.raw+zstd", true),
    ("application/vnd.kubevirt.disk.raw", false),
];

/// Blocks of zeros of this size become holes.
const BLOCK: usize = 64 << 10;

/// The largest window that a frame may ask for, as a power of two: 128 MiB,
/// zstd's own limit for what is not asked for by name.
const MAX_WINDOW: u32 = 27;

/// The disk of an artifact.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its blob.
    pub blob: Descriptor,
    /// Whether it is compressed with zstd.
    pub is_compressed: bool,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// Finds the one disk in the manifest of an artifact.
///
/// # Errors
/// It is no VirtualMachine artifact, or has no or several disks.
pub fn find(manifest: &[u8]) -> Result<Found, DeliveryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest {
        #[serde(default)]
        artifact_type: Option<String>,
        config: oci::Descriptor,
        layers: Vec<oci::Descriptor>,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let malformed = |reason: String| DeliveryError::malformed("artifact", reason);
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|e| malformed(e.to_string()))?;
    // OCI image spec, "Guidelines for Artifact Usage": without a type of its
    // own, an artifact is of its config's type.
    let kind = match manifest.artifact_type.as_deref() {
        None | Some("") => manifest.config.media_type.as_str(),
        Some(kind) => kind,
    };
    if kind != ARTIFACT_TYPE {
        return Err(malformed(format!(
            "it is of type {kind:?}; of artifacts only {ARTIFACT_TYPE} has a disk"
        )));
    }
    let disk = |layer: &oci::Descriptor| {
        let known = DISKS.iter().find(|(name, _)| *name == layer.media_type);
        known.map(|(_, compressed)| *compressed)
    };
    let mut disks = manifest.layers.iter().filter(|l| disk(l).is_some());
    let (Some(layer), others) = (disks.next(), disks.count()) else {
        return Err(malformed(
            "it has no disk of a kind that is known".to_owned(),
        ));
    };
    if others > 0 {
        let count = others + 1;
        return Err(malformed(format!(
            "it has {count} disks, and one is expected"
        )));
    }
    Ok(Found {
        blob: Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            platform: None,
            annotations: layer.annotations.clone(),
        },
        is_compressed: disk(layer) == Some(true),
        annotations: manifest.annotations,
    })
}

/// Fetches the disk into a file without a name in `dir`. `advanced` is told
/// how many more bytes of the blob have come.
///
/// # Errors
/// It cannot be fetched, is not what its digest says, or has more than `limit`
/// bytes.
pub fn fetch(
    found: &Found,
    source: &dyn ImageSource,
    dir: &Path,
    limit: u64,
    note: Note<'_>,
    advanced: &dyn Fn(u64),
) -> Result<File, DeliveryError> {
    let Descriptor { digest, size, .. } = &found.blob;
    let what = format!("disk {digest}");
    let fail = |error| DeliveryError::io(what.clone())(error);
    let blob = source.open_blob(&found.blob, note);
    let mut blob = Verified {
        // One byte more than expected shows that there is more.
        blob: blob.map_err(io::Error::other).map_err(fail)?.take(size + 1),
        hasher: Hasher::new(digest.algorithm()),
        len: 0,
        advanced,
    };
    let mut file =
        tempfile::tempfile_in(dir).map_err(DeliveryError::io(dir.display().to_string()))?;
    if found.is_compressed {
        let mut decoder = zstd::Decoder::new(&mut blob).map_err(fail)?;
        decoder.window_log_max(MAX_WINDOW).map_err(fail)?;
        copy(&mut decoder, &mut file, limit).map_err(fail)?;
    } else {
        copy(&mut blob, &mut file, limit).map_err(fail)?;
    }
    // What may follow the last frame belongs to the blob.
    io::copy(&mut blob, &mut io::sink()).map_err(fail)?;
    let (len, actual) = (blob.len, blob.hasher.finish());
    check(digest, *size, len, &actual)?;
    Ok(file)
}

fn check(digest: &Digest, size: u64, len: u64, actual: &Digest) -> Result<(), DeliveryError> {
    let reason = if len != size {
        format!("{digest} has not the {size} bytes that its descriptor says")
    } else if actual != digest {
        format!("{digest} is corrupt: its content has the digest {actual}")
    } else {
        return Ok(());
    };
    Err(DeliveryError::malformed("disk of the artifact", reason))
}

/// Copies to the end, zeros as holes.
fn copy(from: &mut dyn Read, file: &mut File, limit: u64) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BLOCK, from);
    let mut block = vec![0; BLOCK];
    let mut len: u64 = 0;
    loop {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match from.read(rest)? {
                0 => break,
                n => filled += n,
            }
        }
        let bytes = block.get(..filled).unwrap_or_default();
        len += bytes.len() as u64;
        if len > limit {
            let message = format!("the disk has more than {limit} bytes; raise --max-layer-size");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        if bytes.iter().all(|&b| b == 0) {
            file.seek(SeekFrom::Current(bytes.len() as i64))?;
        } else {
            file.write_all(bytes)?;
        }
        if filled < BLOCK {
            return file.set_len(len);
        }
    }
}

/// A blob that is hashed while it is read.
struct Verified<'a, R> {
    blob: R,
    hasher: Hasher,
    len: u64,
    advanced: &'a dyn Fn(u64),
}

impl<R: Read> Read for Verified<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read(buf)?;
        self.hasher.update(buf.get(..read).unwrap_or_default());
        self.len += read as u64;
        (self.advanced)(read as u64);
        Ok(read)
    }
}
