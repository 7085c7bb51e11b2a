//! What an overlay remembers of the disk that it lies over.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;

use bootwright_disk::plan::{Content, Plan, SourceKind};
use sha2::{Digest, Sha256};

use super::HostFile;

/// Says which disk a base is: an overlay over one makes no sense over another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BaseId(pub [u8; 32]);

impl BaseId {
    /// The identity of a plan: its size, its extents with their literal
    /// bytes, and its sources, packs by diff id and host files by device,
    /// inode and modification time. Where packs lie does not matter.
    pub fn of_plan(plan: &Plan) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"bootwright plan 1\0");
        hash.update(plan.size().to_le_bytes());
        hash.update((plan.sources().len() as u64).to_le_bytes());
        for source in plan.sources() {
            match &source.kind {
                SourceKind::Pack { diff_id } => {
                    hash.update([0]);
                    hash.update((diff_id.len() as u64).to_le_bytes());
                    hash.update(diff_id);
                }
                SourceKind::HostFile {
                    device,
                    inode,
                    mtime_ns,
                } => {
                    hash.update([1]);
                    hash.update(device.to_le_bytes());
                    hash.update(inode.to_le_bytes());
                    hash.update(mtime_ns.to_le_bytes());
                }
            }
            hash.update(source.len.to_le_bytes());
        }
        for extent in plan.extents() {
            hash.update(extent.start.to_le_bytes());
            hash.update(extent.len.to_le_bytes());
            match &extent.content {
                Content::Literal(bytes) => {
                    hash.update([0]);
                    hash.update(bytes);
                }
                Content::Source { id, offset } => {
                    hash.update([1]);
                    hash.update(id.0.to_le_bytes());
                    hash.update(offset.to_le_bytes());
                }
            }
        }
        Self(hash.finalize().into())
    }

    /// The identity of a file: device, inode, length and modification time.
    ///
    /// # Errors
    /// Those cannot be read.
    pub fn of_file(file: &HostFile) -> io::Result<Self> {
        let metadata = file.file().metadata()?;
        let mut hash = Sha256::new();
        hash.update(b"bootwright file 1\0");
        for n in [metadata.dev(), metadata.ino(), file.len()?] {
            hash.update(n.to_le_bytes());
        }
        for n in [metadata.mtime(), metadata.mtime_nsec()] {
            hash.update(n.to_le_bytes());
        }
        Ok(Self(hash.finalize().into()))
    }
}

impl fmt::Debug for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseId({self})")
    }
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
