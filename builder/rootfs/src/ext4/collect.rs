//! From the tree to what needs room: numbers, directory blocks, attribute
//! blocks and runs of contents.

use std::collections::HashMap;

use super::blocks::{Blocks, ZERO};
use super::checksum::{inode_seed, volume_seed};
use super::contents::{self, Place, Run};
use super::directory::{self, Context, Entry, FileType, Written};
use super::inode::{MAX_MAJOR, MAX_MINOR};
use super::layout::Layout;
use super::number::{LOST_FOUND, LOST_FOUND_NAME, Numbering, number};
use super::xattr::{self, MAX_SHARED, XattrError};
use super::{Ext4Error, Options};
use crate::tree::{Inode, InodeId, Kind, Tree, Xattrs, display};

/// All of the tree that does not depend on the volume's size.
#[derive(Debug)]
pub(super) struct Collected<'a> {
    pub(super) numbering: Numbering,
    /// Blocks of directories and link targets.
    pub(super) body: Blocks,
    pub(super) xattr_blocks: Vec<XattrBlock<'a>>,
    pub(super) layout: Layout,
    pub(super) warnings: Warnings,
}

/// A block of attributes that inodes share.
#[derive(Debug, Clone, Copy)]
pub(super) struct XattrBlock<'a> {
    /// The attributes of these inodes, with those that are in the inode.
    pub(super) key: Key<'a>,
    pub(super) shared: u32,
}

/// What decides which attributes an inode has where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key<'a> {
    pub(super) xattrs: &'a Xattrs,
    pub(super) directory: bool,
    pub(super) symlink: bool,
}

impl<'a> Key<'a> {
    pub(super) fn new(inode: &'a Inode) -> Self {
        Self {
            xattrs: &inode.xattrs,
            directory: inode.is_directory(),
            symlink: matches!(inode.kind, Kind::Symlink(_)),
        }
    }

    pub(super) fn split(&self) -> Result<xattr::Split<'a>, XattrError<'a>> {
        xattr::split(self.xattrs, self.directory, self.symlink)
    }
}

/// Targets shorter than this are in the inode.
pub(super) const FAST_SYMLINK: usize = 60;
/// Blocks of `/lost+found`, so that e2fsck need not allocate any.
const LOST_FOUND_BLOCKS: u32 = 4;
/// The most names of a file, and of subdirectories that a directory counts.
pub(super) const MAX_LINKS: u32 = 65000;
/// How many warnings are kept.
const MAX_WARNINGS: usize = 100;

/// What was left out, up to a limit.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    list: Vec<String>,
    more: u64,
}

impl Warnings {
    fn add(&mut self, text: impl FnOnce() -> String) {
        if self.list.len() < MAX_WARNINGS {
            self.list.push(text());
        } else {
            self.more += 1;
        }
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.list.push(format!("and {} more", self.more));
        }
        self.list
    }
}

/// Reads the tree.
pub(super) fn collect<'a>(tree: &'a Tree, options: &Options) -> Result<Collected<'a>, Ext4Error> {
    if let Some(id) = tree.child(tree.root(), LOST_FOUND_NAME)
        && !tree.inode(id).is_directory()
    {
        return Err(Ext4Error::LostFound);
    }
    let mut collector = Collector {
        tree,
        seed: volume_seed(&options.uuid),
        hash_seed: hash_words(&options.hash_seed),
        numbering: Numbering::new(tree),
        body: Blocks::default(),
        runs: Vec::new(),
        xattr_blocks: Vec::new(),
        shared: HashMap::new(),
        warnings: Warnings::default(),
    };
    for index in 0..collector.numbering.nodes.len() {
        collector.add(index)?;
    }
    let xattr_blocks = collector.xattr_blocks;
    let layout = Layout::new(
        collector.runs,
        collector.body.count(),
        xattr_blocks.len() as u32,
    )
    .map_err(|_| Ext4Error::TooLarge)?;
    Ok(Collected {
        numbering: collector.numbering,
        body: collector.body,
        xattr_blocks,
        layout,
        warnings: collector.warnings,
    })
}

/// The seed as the superblock has it.
pub(super) fn hash_words(seed: &[u8; 16]) -> [u32; 4] {
    std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|byte| seed[i * 4 + byte])))
}

struct Collector<'a> {
    tree: &'a Tree,
    seed: u32,
    hash_seed: [u32; 4],
    numbering: Numbering,
    body: Blocks,
    runs: Vec<Run>,
    xattr_blocks: Vec<XattrBlock<'a>>,
    /// Only looked up, never walked, so its order does not matter.
    shared: HashMap<Key<'a>, u32>,
    warnings: Warnings,
}

impl<'a> Collector<'a> {
    fn add(&mut self, index: usize) -> Result<(), Ext4Error> {
        let ino = number(index);
        let node = self.numbering.nodes[index];
        let Some(id) = node.id else {
            return self.add_directory(index, None);
        };
        let inode = self.tree.inode(id);
        match &inode.kind {
            Kind::Directory(_) => self.add_directory(index, Some(id))?,
            Kind::Regular(file) => {
                let size = file.size;
                if size > contents::MAX_FILE {
                    let path = self.path(id);
                    return Err(Ext4Error::LargeFile { path, size });
                }
                if !contents::is_sound(file, self.tree.sources()) {
                    let path = self.path(id);
                    return Err(Ext4Error::BadContent { path });
                }
                contents::add_runs(ino, file, self.tree.sources(), &mut self.runs);
            }
            Kind::Symlink(target) => self.add_symlink(ino, id, target)?,
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                if *major > MAX_MAJOR || *minor > MAX_MINOR {
                    return Err(Ext4Error::BadDevice {
                        path: self.path(id),
                        major: *major,
                        minor: *minor,
                    });
                }
            }
            Kind::Fifo => {}
        }
        if node.links > MAX_LINKS && !inode.is_directory() {
            return Err(Ext4Error::ManyLinks {
                path: self.path(id),
                links: node.links,
            });
        }
        if !inode.xattrs.is_empty() {
            self.numbering.nodes[index].xattr_block = self.add_xattrs(id, Key::new(inode))?;
        }
        Ok(())
    }

    fn add_directory(&mut self, index: usize, id: Option<InodeId>) -> Result<(), Ext4Error> {
        let ino = number(index);
        let children = id.and_then(|id| self.tree.directory(id));
        let mut entries: Vec<Entry<'_>> = children
            .into_iter()
            .flatten()
            .map(|(name, &id)| Entry {
                name,
                ino: self.numbering.of(id),
                file_type: file_type(&self.tree.inode(id).kind),
            })
            .collect();
        let is_root = index == 0;
        if is_root && children.is_some_and(|c| !c.contains_key(LOST_FOUND_NAME)) {
            entries.push(Entry {
                name: LOST_FOUND_NAME,
                ino: LOST_FOUND,
                file_type: FileType::Directory,
            });
        }
        let context = Context {
            ino,
            parent: self.numbering.nodes[index].parent,
            inode_seed: inode_seed(self.seed, ino),
            hash_seed: &self.hash_seed,
            min_blocks: if ino == LOST_FOUND {
                LOST_FOUND_BLOCKS
            } else {
                1
            },
        };
        let first = self.body.count();
        let count = match directory::write(&entries, &context, &mut self.body) {
            Written::Linear(count) => count,
            Written::Indexed(count) => {
                self.numbering.nodes[index].indexed = true;
                count
            }
            Written::TooLarge => {
                return Err(Ext4Error::LargeDirectory {
                    path: id.map_or_else(String::new, |id| self.path(id)),
                    entries: entries.len(),
                });
            }
        };
        self.add_body(ino, first, count);
        Ok(())
    }

    fn add_symlink(&mut self, ino: u32, id: InodeId, target: &[u8]) -> Result<(), Ext4Error> {
        let len = target.len();
        let mut block = ZERO;
        if len == 0 || len >= block.len() || target.contains(&0) {
            let path = self.path(id);
            return Err(Ext4Error::BadSymlink { path, len });
        }
        if len >= FAST_SYMLINK {
            block[..len].copy_from_slice(target);
            let first = self.body.count();
            self.body.push(&block);
            self.add_body(ino, first, 1);
        }
        Ok(())
    }

    fn add_body(&mut self, ino: u32, first: u32, count: u32) {
        self.runs.push(Run {
            ino,
            logical: 0,
            count,
            place: Place::Body(first),
            at: 0,
        });
    }

    /// One more than the place of the attribute block; 0 if none is needed.
    fn add_xattrs(&mut self, id: InodeId, key: Key<'a>) -> Result<u32, Ext4Error> {
        let split = match key.split() {
            Ok(split) => split,
            Err(XattrError::TooLarge(needed)) => {
                let path = self.path(id);
                return Err(Ext4Error::LargeXattrs { path, needed });
            }
            Err(XattrError::Acl(name, source)) => {
                return Err(Ext4Error::BadAcl {
                    path: self.path(id),
                    name: display(name),
                    source,
                });
            }
        };
        for name in &split.left_out {
            let tree = self.tree;
            self.warnings.add(|| {
                let name = display(name);
                let path = path(tree, id);
                format!("ext4 has no place for the extended attribute {name}: /{path}")
            });
        }
        if !split.needs_block() {
            return Ok(0);
        }
        if let Some(&place) = self.shared.get(&key)
            && let Some(block) = self.xattr_blocks.get_mut(place as usize)
            && block.shared < MAX_SHARED
        {
            block.shared += 1;
            return Ok(place + 1);
        }
        let place = self.xattr_blocks.len() as u32;
        self.xattr_blocks.push(XattrBlock { key, shared: 1 });
        self.shared.insert(key, place);
        Ok(place + 1)
    }

    fn path(&self, id: InodeId) -> String {
        path(self.tree, id)
    }
}

fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Directory(_) => FileType::Directory,
        Kind::Regular(_) => FileType::Regular,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::CharDevice { .. } => FileType::CharDevice,
        Kind::BlockDevice { .. } => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
    }
}

/// The first path of an inode, for messages; found by walking the tree.
fn path(tree: &Tree, id: InodeId) -> String {
    let mut walk = tree.walk();
    while let Some((path, found)) = walk.next_borrowed() {
        if found == id {
            return display(path);
        }
    }
    String::new()
}
