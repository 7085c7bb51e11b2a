//! From a layout of known size to the volume's extents.

use bytes::Bytes;

use super::blocks::{Blocks, Extents};
use super::checksum::{inode_seed, volume_seed};
use super::collect::{Collected, FAST_SYMLINK, Key, MAX_LINKS, hash_words};
use super::contents::{self, Place, Run};
use super::extents::{self, FileExtent};
use super::geometry::{BLOCK, GROUP, INODE, has_backup};
use super::groups::{self, Usage};
use super::inode::{self, EXTENTS, INDEX, Record, mode};
use super::journal;
use super::layout::{Fit, Layout, root_blocks};
use super::number::{Node, number};
use super::superblock::{self, Superblock};
use super::xattr::BODY;
use super::{Formatted, Options, Stats};
use crate::tree::{Inode, Kind, Tree};
use crate::volume::Volume;

/// Writes everything into a volume of `size` bytes; `minimum` blocks would
/// have been enough.
pub(super) fn emit(
    tree: &Tree,
    options: &Options,
    collected: Collected<'_>,
    fit: Fit,
    size: u64,
    minimum: u64,
) -> Formatted {
    let Collected {
        numbering,
        body,
        xattr_blocks,
        layout,
        warnings,
    } = collected;
    let Fit {
        geometry,
        space,
        journal,
        ..
    } = &fit;
    let (geometry, journal) = (*geometry, *journal);
    let seed = volume_seed(&options.uuid);
    let mut out = Extents::default();

    for &index in &layout.packs {
        let run = &layout.runs[index as usize];
        if let Some(id) = numbering.node(run.ino).id
            && let Kind::Regular(file) = &tree.inode(id).kind
        {
            let at = journal + run.at;
            contents::emit(file, tree.sources(), run, at, space, &mut out);
        }
    }
    body.emit(journal + layout.body, space, &mut out);
    let mut blocks = Blocks::default();
    let first_xattr = journal + layout.xattrs;
    for (at, block) in (first_xattr..).zip(&xattr_blocks) {
        // It could be divided when the tree was read.
        if let Ok(split) = block.key.split() {
            blocks.push(&split.block(space.block(at), block.shared, seed));
        }
    }
    blocks.emit(first_xattr, space, &mut out);

    let mut table = Table {
        bytes: vec![0; numbering.last() as usize * INODE as usize],
        seed,
        trees: Blocks::default(),
        first_tree: journal + layout.end,
        fit: &fit,
        extents: Vec::new(),
    };
    let journal_root = (journal > 0).then(|| (journal, table.write_journal(options)));
    let mut directories = vec![0; geometry.groups as usize];
    let mut rest = &layout.runs[..];
    for (index, node) in numbering.nodes.iter().enumerate() {
        let ino = number(index);
        let (runs, next) = rest.split_at(rest.partition_point(|run| run.ino == ino));
        rest = next;
        let inode = node.id.map(|id| tree.inode(id));
        if inode.is_none_or(Inode::is_directory) {
            directories[((ino - 1) / geometry.inodes_per_group) as usize] += 1;
        }
        let mut record = match inode {
            Some(inode) => record(inode, node),
            None => lost_found(options, node),
        };
        if node.xattr_block > 0 {
            record.xattr_block = space.block(first_xattr + node.xattr_block - 1);
            record.blocks += 1;
        }
        table.write(ino, record, runs);
        if let Some(Kind::Regular(file)) = inode.map(|inode| &inode.kind) {
            for run in runs.iter().filter(|run| run.place == Place::Dense) {
                let at = journal + run.at;
                contents::emit(file, tree.sources(), run, at, space, &mut out);
            }
        }
    }
    let Table {
        bytes,
        trees,
        first_tree,
        ..
    } = table;
    trees.emit(first_tree, space, &mut out);

    let inodes = Bytes::from(bytes);
    let group_bytes = (geometry.inodes_per_group * INODE) as usize;
    for group in 0..geometry.groups {
        let from = (group as usize * group_bytes).min(inodes.len());
        let to = (from + group_bytes).min(inodes.len());
        let start = u64::from(geometry.inode_table(group)) * BLOCK;
        out.put_bytes(start, inodes.slice(from..to));
    }
    if journal > 0 {
        let bytes = journal::superblock(journal, &options.uuid);
        out.put_bytes(u64::from(space.block(0)) * BLOCK, Bytes::from(bytes));
    }

    let used = used_blocks(&layout, &fit);
    let usage = Usage {
        blocks: &used,
        last_inode: numbering.last(),
        directories: &directories,
    };
    let descriptors = Bytes::from(groups::write(&geometry, &usage, seed, &mut out));
    let in_use: u64 = used.iter().map(|&(_, len)| u64::from(len)).sum();
    let free_blocks = u64::from(geometry.blocks) - in_use;
    let free_inodes = geometry.inodes() - numbering.last();
    let superblock = Superblock {
        geometry: &geometry,
        uuid: &options.uuid,
        hash_seed: &hash_words(&options.hash_seed),
        label: &options.label,
        time: options.time,
        root_blocks: root_blocks(u64::from(geometry.blocks)),
        free_blocks,
        free_inodes,
        overhead: geometry.blocks - space.len() + journal,
        journal: journal_root,
    };
    for group in (0..geometry.groups).filter(|&group| has_backup(group)) {
        let start = u64::from(geometry.group_start(group)) * BLOCK;
        let offset = if group == 0 {
            superblock::LEN as u64
        } else {
            0
        };
        let bytes = superblock.encode(group);
        out.put_bytes(start + offset, Bytes::copy_from_slice(&bytes));
        out.put_bytes(start + BLOCK, descriptors.clone());
    }

    let contents: u64 = layout
        .runs
        .iter()
        .filter(|run| !matches!(run.place, Place::Body(_)))
        .map(|run| u64::from(run.count))
        .sum();
    let stats = Stats {
        size: u64::from(geometry.blocks) * BLOCK,
        minimum_size: minimum * BLOCK,
        free: free_blocks * BLOCK,
        available: layout.available(&fit) * BLOCK,
        inodes: geometry.inodes(),
        free_inodes,
        content: contents * BLOCK,
        journal: u64::from(journal) * BLOCK,
        literal: out.literal,
    };
    Formatted {
        volume: Volume {
            size,
            extents: out.finish(),
        },
        stats,
        warnings: warnings.finish(),
    }
}

/// The inode table being filled, and the extent trees that belong to it.
struct Table<'a> {
    bytes: Vec<u8>,
    seed: u32,
    trees: Blocks,
    first_tree: u32,
    fit: &'a Fit,
    /// Reused for each inode.
    extents: Vec<FileExtent>,
}

impl Table<'_> {
    fn write(&mut self, ino: u32, mut record: Record, runs: &[Run]) {
        self.extents.clear();
        let Fit { space, journal, .. } = self.fit;
        for run in runs {
            extents::append(
                &mut self.extents,
                run.logical,
                journal + run.at,
                run.count,
                space,
            );
            record.blocks += u64::from(run.count);
            if record.mode & mode::TYPE == mode::DIRECTORY {
                record.size += u64::from(run.count) * BLOCK;
            }
        }
        self.finish(ino, record);
    }

    /// The journal's inode; returns its extents for the superblock.
    fn write_journal(&mut self, options: &Options) -> [u8; extents::ROOT_LEN] {
        let Fit { space, journal, .. } = self.fit;
        self.extents.clear();
        extents::append(&mut self.extents, 0, 0, *journal, space);
        let record = Record {
            mode: mode::REGULAR | 0o600,
            uid: 0,
            gid: 0,
            size: u64::from(*journal) * BLOCK,
            links: 1,
            blocks: u64::from(*journal),
            flags: EXTENTS,
            time: options.time,
            block: [0; extents::ROOT_LEN],
            xattr_block: 0,
            xattrs: [0; BODY],
        };
        self.finish(journal::INODE, record)
    }

    fn finish(&mut self, ino: u32, mut record: Record) -> [u8; extents::ROOT_LEN] {
        if record.flags & EXTENTS != 0 {
            let before = self.trees.count();
            record.block = extents::write(
                &self.extents,
                inode_seed(self.seed, ino),
                self.first_tree,
                &self.fit.space,
                &mut self.trees,
            );
            record.blocks += u64::from(self.trees.count() - before);
        }
        let at = (ino - 1) as usize * INODE as usize;
        inode::write(
            &record,
            ino,
            self.seed,
            &mut self.bytes[at..at + INODE as usize],
        );
        record.block
    }
}

/// All that the tree says of an inode. Blocks and extents are added later.
fn record(inode: &Inode, node: &Node) -> Record {
    let mut block = [0; extents::ROOT_LEN];
    let (kind, size, flags) = match &inode.kind {
        // Its size follows from its blocks.
        Kind::Directory(_) if node.indexed => (mode::DIRECTORY, 0, EXTENTS | INDEX),
        Kind::Directory(_) => (mode::DIRECTORY, 0, EXTENTS),
        Kind::Regular(file) => (mode::REGULAR, file.size, EXTENTS),
        Kind::Symlink(target) if target.len() < FAST_SYMLINK => {
            block[..target.len()].copy_from_slice(target);
            (mode::SYMLINK, target.len() as u64, 0)
        }
        Kind::Symlink(target) => (mode::SYMLINK, target.len() as u64, EXTENTS),
        Kind::CharDevice { major, minor } => {
            block = inode::device(*major, *minor);
            (mode::CHAR, 0, 0)
        }
        Kind::BlockDevice { major, minor } => {
            block = inode::device(*major, *minor);
            (mode::BLOCK, 0, 0)
        }
        Kind::Fifo => (mode::FIFO, 0, 0),
    };
    // Linux makes every symbolic link with mode 0777 (symlink(7)), whatever a
    // tar says.
    let permissions = match kind {
        mode::SYMLINK => 0o777,
        _ => inode.mode & 0o7777,
    };
    Record {
        mode: kind | permissions,
        uid: inode.uid,
        gid: inode.gid,
        size,
        links: links(node),
        blocks: 0,
        flags,
        time: inode.mtime,
        block,
        xattr_block: 0,
        xattrs: match Key::new(inode).split() {
            Ok(split) if !inode.xattrs.is_empty() => split.body(),
            _ => [0; BODY],
        },
    }
}

fn lost_found(options: &Options, node: &Node) -> Record {
    Record {
        mode: mode::DIRECTORY | 0o700,
        uid: 0,
        gid: 0,
        size: 0,
        links: links(node),
        blocks: 0,
        flags: EXTENTS,
        time: options.time,
        block: [0; extents::ROOT_LEN],
        xattr_block: 0,
        xattrs: [0; BODY],
    }
}

/// Directories with too many subdirectories do not count them (feature
/// `dir_nlink`); for files there was an error.
fn links(node: &Node) -> u16 {
    match node.links {
        0..=MAX_LINKS => node.links as u16,
        _ => 1,
    }
}

/// All blocks in use, as start and length, in order and joined.
fn used_blocks(layout: &Layout, fit: &Fit) -> Vec<(u32, u32)> {
    let mut used: Vec<(u32, u32)> = fit.geometry.reserved().collect();
    let mut at = 0;
    let mut add = |from: u32, to: u32| used.extend(fit.space.pieces(from, to - from));
    for &(gap, len) in layout.gaps() {
        add(at, fit.journal + gap);
        at = fit.journal + gap + len;
    }
    add(at, fit.journal + layout.end + fit.trees);
    used.sort_unstable();
    let mut joined: Vec<(u32, u32)> = Vec::with_capacity(used.len());
    for (start, len) in used {
        match joined.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.0 + last.1 == start => last.1 += len,
            _ => joined.push((start, len)),
        }
    }
    joined
}

const _: () = assert!(GROUP as u64 == BLOCK * 8);
