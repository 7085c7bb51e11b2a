//! KubeVirt containerDisks: an image with one file under `/disk`.
//!
//! [`push`] writes the form that KubeVirt's own images have, from any disk;
//! [`find`] finds the disk in the layers of a containerDisk of anybody's,
//! which came into the store as those of any image do. What consumers check
//! is in docs/src/formats/containerdisk.md.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bootwright_disk::reader::{DiskCursor, ReadAt};
use bootwright_disk::sink::{self, Compression, Format, Target};
use bootwright_disk::{Content, Extent, Plan, PlanBuilder, Source, SourceId, SourceKind};
use bootwright_image::Digest;
use bootwright_image::digest::{Algorithm, Hasher};
use bootwright_image::layer::EntryKind;
use bootwright_image::store::Layer;
use bootwright_image::{Entry, Platform};

use crate::disk_image::{Pushed, PushedLayer, provenance, put_image};
use crate::error::DeliveryError;
use crate::frames::{Codec, Work, Written, compress};
use crate::layer;
use crate::metadata::DiskInfo;
use crate::oci::{self, annotation};
use crate::sink::BlobSink;
use crate::tarball::{self, Owner};

/// User and group that QEMU runs as under KubeVirt.
const QEMU: u64 = 107;

/// Where the disk is.
const DIRECTORY: &[u8] = b"disk";

/// The label with the SHA-256 of the disk's file.
const SHASUM: &str = "shasum";

/// Environment variables by which a containerDisk says what suits it
/// (KubeVirt's `instancetype.kubevirt.io` labels, as its images have them).
pub const DEFAULT_INSTANCETYPE: &str = "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_INSTANCETYPE";
/// The preference that suits the disk.
pub const DEFAULT_PREFERENCE: &str = "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE";

/// How a containerDisk is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The form of the file in it.
    pub format: Format,
    /// How clusters of a qcow2 are compressed. The layer is compressed
    /// anyway; nodes keep the file as it is in here.
    pub compression: Compression,
    /// How the layer is compressed.
    pub codec: Codec,
    /// Where the file is put that the layer is made of, unless it is raw.
    pub spool: PathBuf,
    /// What it is for.
    pub platform: Platform,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// Environment variables, by name.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Hands all blobs of a containerDisk of `disk` to `sink`. `top` says that
/// the image's name shall lead to the manifest itself and not to an index
/// that is to come.
///
/// # Errors
/// The disk cannot be read, does not fit the format, or the sink fails.
pub fn push(
    disk: &dyn ReadAt,
    info: &DiskInfo,
    options: &Options,
    sink: &dyn BlobSink,
    top: bool,
    work: &Work<'_>,
) -> Result<Pushed, DeliveryError> {
    let mut shasum = None;
    let done = match options.format {
        Format::Raw => sink.put(None, &mut |out| {
            let mut file = DiskCursor::new(disk);
            let (written, sum) = write(&mut file, disk.size(), out, options.codec, work)?;
            shasum = Some(sum);
            Ok(written)
        })?,
        format => {
            // The tar says the file's length before the file.
            let (mut file, len) = spool(disk, format, options, work)?;
            sink.put(None, &mut |out| {
                file.rewind().map_err(DeliveryError::io("temporary file"))?;
                let (written, sum) = write(&mut file, len, out, options.codec, work)?;
                shasum = Some(sum);
                Ok(written)
            })?
        }
    };
    let mut config = oci::empty_config(options.platform.clone());
    config.created.clone_from(&options.created);
    config.entrypoint = vec!["no-entrypoint".to_owned()];
    config.env = options
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    config.labels.clone_from(&options.labels);
    if let Some(sum) = shasum {
        config
            .labels
            .insert(SHASUM.to_owned(), sum.hex().to_owned());
    }
    config.diff_ids = vec![done.plain_digest.clone()];
    let mut annotations = provenance(info);
    if let Some(created) = &options.created {
        annotations.insert(annotation::CREATED.to_owned(), created.clone());
    }
    let descriptor = layer::descriptor(&done, options.codec);
    let layers = vec![descriptor.clone()];
    let (manifest, config) = put_image(&config, layers, annotations, sink, top)?;
    Ok(Pushed {
        manifest,
        config,
        layers: vec![PushedLayer {
            descriptor,
            plain_len: done.plain_len,
        }],
    })
}

/// Writes the layer; says what was written and the SHA-256 of the file in it.
fn write(
    file: &mut dyn Read,
    len: u64,
    out: &mut dyn Write,
    codec: Codec,
    work: &Work<'_>,
) -> Result<(Written, Digest), DeliveryError> {
    let owner = |mode| Owner {
        id: QEMU,
        name: "qemu",
        mode,
    };
    let mut header =
        tarball::directory_header("disk/", owner(0o555)).map_err(DeliveryError::io("layer"))?;
    header.extend(
        tarball::file_header("disk/disk.img", len, owner(0o444))
            .map_err(DeliveryError::io("layer"))?,
    );
    let mut hashed = Hashed {
        reader: file,
        hasher: Hasher::new(Algorithm::Sha256),
        left: len,
    };
    let written = compress(
        "disk",
        &mut tarball::around(header, &mut hashed, len),
        out,
        codec,
        work,
    )?;
    Ok((written, hashed.hasher.finish()))
}

/// A file of known length, hashed while it is read.
struct Hashed<'a> {
    reader: &'a mut dyn Read,
    hasher: Hasher,
    left: u64,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let (buf, _) = buf.split_at_mut(len);
        let read = self.reader.read(buf)?;
        if read == 0 && len > 0 {
            // The tar would have another length than its header says.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (bytes, _) = buf.split_at(read);
        self.hasher.update(bytes);
        self.left -= read as u64;
        Ok(read)
    }
}

/// Writes the disk to a file without a name.
fn spool(
    disk: &dyn ReadAt,
    format: Format,
    options: &Options,
    work: &Work<'_>,
) -> Result<(File, u64), DeliveryError> {
    let file = tempfile::tempfile_in(&options.spool)
        .map_err(DeliveryError::io(options.spool.display().to_string()))?;
    let target = Target::Stream(Box::new(&file));
    let options = sink::Options {
        compression: options.compression,
        threads: work.threads,
        ..sink::Options::default()
    };
    let report = sink::write(disk, target, format, &options, &|_| (), work.cancel)?;
    Ok((file, report.length))
}

/// The file of a containerDisk.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name under `/disk`.
    pub name: String,
    /// The file's bytes, over packs of the store. Good as long as the layers
    /// are held.
    pub file: Arc<Plan>,
    /// Whether those are a qcow2, and not the disk itself.
    pub is_qcow2: bool,
}

/// Whether an image is a containerDisk by its content: it has one file under
/// `/disk`, and nothing else but directories.
pub fn is_container_disk(layers: &[Layer]) -> bool {
    let only_disk =
        |entry: Entry<'_>| entry.kind == EntryKind::Directory || entry.path.starts_with(b"disk/");
    layers.iter().all(|layer| layer.entries().all(only_disk)) && find(layers).is_ok()
}

/// Finds the file under `/disk` in the layers of an image, lowest first.
///
/// # Errors
/// There is none, more than one (KubeVirt refuses that, too), or it is no
/// regular file.
pub fn find(layers: &[Layer]) -> Result<Found, DeliveryError> {
    let malformed = |reason: String| DeliveryError::malformed("containerDisk", reason);
    let mut files: BTreeMap<Vec<u8>, (&Layer, Entry<'_>)> = BTreeMap::new();
    for layer in layers {
        let mut added = BTreeMap::new();
        for entry in layer.entries() {
            let (parent, name) = split(entry.path);
            if let Some(hidden) = name.strip_prefix(b".wh.") {
                // OCI image specification, layer.md, "Whiteouts": of what the
                // layers below have.
                let path = match (hidden, parent) {
                    (b".wh..opq", parent) => parent.to_vec(),
                    (hidden, b"") => hidden.to_vec(),
                    (hidden, parent) => [parent, b"/", hidden].concat(),
                };
                files.retain(|file, _| !is_in(file, &path));
            } else if entry.path == DIRECTORY && entry.kind != EntryKind::Directory {
                return Err(malformed("/disk is no directory".to_owned()));
            } else if is_in(entry.path, DIRECTORY) && entry.kind != EntryKind::Directory {
                added.insert(entry.path.to_vec(), (layer, entry));
            }
        }
        files.extend(added);
    }
    let mut names = files
        .keys()
        .map(|path| String::from_utf8_lossy(path).into_owned());
    if files.len() > 1 {
        let names: Vec<_> = names.by_ref().take(5).collect();
        let (count, names) = (files.len(), names.join(", "));
        return Err(malformed(format!(
            "there are {count} files under /disk, and only one may be: {names}"
        )));
    }
    let name = names.next().unwrap_or_default();
    drop(names);
    let Some((_, (layer, entry))) = files.pop_first() else {
        return Err(malformed("there is no file under /disk".to_owned()));
    };
    let EntryKind::Regular { size, segments } = &entry.kind else {
        return Err(malformed(format!("/{name} is no regular file")));
    };
    let source = Source {
        kind: SourceKind::Pack {
            diff_id: layer.diff_id().to_string(),
        },
        path: layer.pack_path().to_owned(),
        len: layer.pack_len(),
    };
    let mut builder = PlanBuilder::new(vec![source]);
    for segment in segments {
        let (start, len) = (segment.file_offset, segment.len);
        builder.put(Extent::source(start, len, SourceId(0), segment.pack_offset));
    }
    let file = Arc::new(
        builder
            .finish(*size)
            .map_err(|e| DeliveryError::Plan(e.into()))?,
    );
    let mut magic = [0; 4];
    let reader = bootwright_disk::PlanReader::new(Arc::clone(&file));
    if *size >= 4 {
        reader
            .read_exact_at(0, &mut magic)
            .map_err(DeliveryError::io("containerDisk"))?;
    }
    Ok(Found {
        name,
        file,
        is_qcow2: magic == *b"QFI\xfb",
    })
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => {
            let (parent, name) = path.split_at(at);
            (parent, name.get(1..).unwrap_or_default())
        }
        None => (b"", path),
    }
}

/// Whether a path is a directory or something in it.
fn is_in(path: &[u8], dir: &[u8]) -> bool {
    let rest = path.strip_prefix(dir);
    rest.is_some_and(|rest| dir.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
}

/// A disk that was found, open.
#[derive(Debug)]
pub struct OpenDisk {
    disk: Arc<dyn ReadAt>,
    /// Holds a qcow2 that was copied out of its pack.
    _directory: Option<tempfile::TempDir>,
}

impl Found {
    /// Opens the disk. It is read where it is in the store; but a qcow2 that
    /// is in pieces there is put into a temporary directory under `temporary`
    /// first, by a reflink where the file system can.
    ///
    /// # Errors
    /// The qcow2 cannot be copied, or is none that can be read.
    pub fn open(&self, temporary: Option<PathBuf>) -> Result<OpenDisk, DeliveryError> {
        let file = bootwright_disk::PlanReader::new(Arc::clone(&self.file));
        if !self.is_qcow2 {
            return Ok(OpenDisk {
                disk: Arc::new(file),
                _directory: None,
            });
        }
        if let Some((pack, part)) = self.in_one_piece() {
            let disk = bootwright_disk::reader::open_disk_part(pack, part)
                .map_err(|e| DeliveryError::malformed("containerDisk", e.to_string()))?;
            return Ok(OpenDisk {
                disk: Arc::new(disk),
                _directory: None,
            });
        }
        let parent = temporary.unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::tempdir_in(&parent)
            .map_err(DeliveryError::io(parent.display().to_string()))?;
        let path = directory.path().join("disk.qcow2");
        let options = sink::Options {
            sync: false,
            ..sink::Options::default()
        };
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let target = Target::Path(path.clone());
        sink::write(&file, target, Format::Raw, &options, &|_| (), &cancel)?;
        let disk = bootwright_disk::reader::open_disk(&path)
            .map_err(|e| DeliveryError::malformed("containerDisk", e.to_string()))?;
        Ok(OpenDisk {
            disk: Arc::new(disk),
            _directory: Some(directory),
        })
    }
}

impl Found {
    /// The pack and the part of it that the file is, unless a sparse tar had
    /// it in pieces.
    fn in_one_piece(&self) -> Option<(&Path, Range<u64>)> {
        let [extent] = self.file.extents() else {
            return None;
        };
        let Content::Source { id, offset } = extent.content else {
            return None;
        };
        let source = self.file.sources().get(id.0 as usize)?;
        let whole = extent.start == 0 && extent.len == self.file.size();
        whole.then(|| (source.path.as_path(), offset..offset + extent.len))
    }
}

impl OpenDisk {
    /// The disk.
    pub fn disk(&self) -> &Arc<dyn ReadAt> {
        &self.disk
    }
}
