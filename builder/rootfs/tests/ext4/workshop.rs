//! Making trees with real packs, writing volumes to sparse files, and asking
//! the ext4 tools about them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bootwright_disk::{Content, Extent, PlanBuilder, Source, SourceId, SourceKind, SourceReader};
use bootwright_image::Timestamp;
use bootwright_rootfs::ext4::{self, Formatted, Options, Size};
use bootwright_rootfs::tree::{FileContent, Inode, InodeId, Kind, Tree};
use bootwright_rootfs::volume::Volume;
use tempfile::TempDir;

pub(crate) const BLOCK: u64 = 4096;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

pub(crate) const TIME: Timestamp = Timestamp {
    secs: 1_741_171_811,
    nanos: 123_456_789,
};

pub(crate) fn options(size: Size) -> Options {
    let uuid = std::array::from_fn(|i| i as u8 * 7 + 1);
    let hash_seed = std::array::from_fn(|i| i as u8 * 13 + 5);
    Options {
        label: "root".into(),
        ..Options::new(size, uuid, hash_seed, TIME)
    }
}

/// A pack being made: contents one after the other, each from a block on.
#[derive(Debug, Default)]
pub(crate) struct Pack {
    bytes: Vec<u8>,
}

impl Pack {
    pub(crate) fn add(&mut self, bytes: &[u8]) -> u64 {
        let at = self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        let padded = self.bytes.len().next_multiple_of(BLOCK as usize);
        self.bytes.resize(padded, 0);
        at
    }
}

/// Bytes that differ from block to block and from file to file, never zero.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| ((i / 4096 * 31 + i * 7 + seed * 131) % 251) as u8 + 1)
        .collect()
}

pub(crate) struct Workshop {
    dir: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Stores a pack as the tree's next source.
    pub(crate) fn pack(&self, tree: &mut Tree, pack: &Pack) -> SourceId {
        let n = tree.sources().len();
        let path = self.path(&format!("pack-{n}"));
        fs::write(&path, &pack.bytes).unwrap();
        tree.add_source(Source {
            kind: SourceKind::Pack {
                diff_id: format!("sha256:{n:064x}"),
            },
            path,
            len: pack.bytes.len() as u64,
        })
    }

    /// Stores a file of the host as the tree's next source.
    pub(crate) fn host_file(&self, tree: &mut Tree, bytes: &[u8]) -> SourceId {
        let n = tree.sources().len();
        let path = self.path(&format!("host-{n}"));
        fs::write(&path, bytes).unwrap();
        let meta = fs::metadata(&path).unwrap();
        tree.add_source(Source {
            kind: SourceKind::HostFile {
                device: meta.dev(),
                inode: meta.ino(),
                mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            },
            path,
            len: bytes.len() as u64,
        })
    }

    /// Writes the volume to a sparse file.
    pub(crate) fn write(&self, tree: &Tree, volume: &Volume) -> PathBuf {
        let mut plan = PlanBuilder::new(tree.sources().to_vec());
        plan.put_volume(0, volume.extents.iter().cloned());
        let plan = plan.finish(volume.size).unwrap();
        let path = self.path("volume");
        let file = File::create(&path).unwrap();
        file.set_len(plan.size()).unwrap();
        let reader = SourceReader::new(tree.sources().to_vec());
        for extent in plan.extents() {
            match &extent.content {
                Content::Literal(bytes) => file.write_all_at(bytes, extent.start).unwrap(),
                Content::Source { id, offset } => {
                    let mut done = 0;
                    while done < extent.len {
                        let len = (extent.len - done).min(MIB);
                        let mut bytes = vec![0; len as usize];
                        reader
                            .read_exact_at(*id, offset + done, &mut bytes)
                            .unwrap();
                        file.write_all_at(&bytes, extent.start + done).unwrap();
                        done += len;
                    }
                }
            }
        }
        path
    }

    /// Formats, writes, and lets e2fsck judge.
    pub(crate) fn format(&self, tree: &Tree, options: &Options) -> (Formatted, PathBuf) {
        let formatted = ext4::format(tree, options).unwrap();
        let path = self.write(tree, &formatted.volume);
        fsck(&path);
        (formatted, path)
    }
}

/// Runs a tool, which must be installed.
pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"))
}

/// Runs a tool that must succeed, and returns what it printed.
pub(crate) fn succeed(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// e2fsck must find nothing at all.
pub(crate) fn fsck(path: &Path) {
    let text = succeed("e2fsck", &["-f", "-n", path.to_str().unwrap()]);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("Pass ") && !line.starts_with("e2fsck "))
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].contains(" files ("), "{text}");
}

pub(crate) fn directory() -> Inode {
    Inode::directory(0o755, TIME)
}

pub(crate) fn file(bytes: Vec<u8>) -> Inode {
    Inode::file(FileContent::literal(bytes), 0o644, TIME)
}

pub(crate) fn fifo() -> Inode {
    Inode::new(Kind::Fifo, 0o600)
}

/// A file that shows `len` bytes of a source from `offset` on.
pub(crate) fn shown(id: SourceId, offset: u64, len: u64) -> Inode {
    let extents = match len {
        0 => Vec::new(),
        _ => vec![Extent::source(0, len, id, offset)],
    };
    Inode::file(FileContent { size: len, extents }, 0o644, TIME)
}

/// Inserts into the root.
pub(crate) fn put(tree: &mut Tree, name: &str, inode: Inode) -> InodeId {
    tree.insert(tree.root(), name.as_bytes(), inode).unwrap()
}
