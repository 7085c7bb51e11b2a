//! What a byte of a volume that was formatted here is, in words: for telling
//! people where two disks differ.

use std::io;

use super::extents::ROOT_LEN;
use super::geometry::{BLOCK, DESCRIPTOR, INODE};
use super::inode::EXTENTS;
use super::number::Numbering;
use crate::tree::{InodeId, Kind, Tree, display};

/// The inode of the journal.
const JOURNAL: u32 = 8;
/// Deepest extent tree that ext4 allows.
const MAX_DEPTH: u16 = 5;

/// Reads bytes of the volume.
type Read<'a> = dyn Fn(u64, &mut [u8]) -> io::Result<()> + 'a;

/// What the byte at `offset` of a volume is that was formatted from `tree`
/// and whose bytes `read` reads.
///
/// # Errors
/// The volume cannot be read.
pub fn name(tree: &Tree, read: &Read<'_>, offset: u64) -> io::Result<String> {
    let mut sb = [0; 1024];
    read(1024, &mut sb)?;
    let block = offset / BLOCK;
    if (1024..2048).contains(&offset) {
        return Ok(format!("superblock, byte {}", offset - 1024));
    }
    let (blocks, per_group) = (get32(&sb, 0x04), get32(&sb, 0x20).max(1));
    let inodes_per_group = get32(&sb, 0x28).max(1);
    let groups = blocks.div_ceil(per_group);
    let descriptor_blocks = (u64::from(groups) * u64::from(DESCRIPTOR)).div_ceil(BLOCK);
    let group = block / u64::from(per_group);
    match block % u64::from(per_group) {
        0 if group == 0 => return Ok("boot block".to_owned()),
        within if group == 0 && within <= descriptor_blocks => {
            return Ok("group descriptors".to_owned());
        }
        0 if is_backup(group) => return Ok(format!("backup superblock in group {group}")),
        within if is_backup(group) && within <= descriptor_blocks => {
            return Ok(format!("backup of the group descriptors in group {group}"));
        }
        _ => {}
    }
    let table_blocks = u64::from(inodes_per_group) * u64::from(INODE) / BLOCK;
    let mut tables = Vec::new();
    for group in 0..groups {
        let mut descriptor = [0; DESCRIPTOR as usize];
        read(
            BLOCK + u64::from(group) * u64::from(DESCRIPTOR),
            &mut descriptor,
        )?;
        let at = |low, high| {
            u64::from(get32(&descriptor, high)) << 32 | u64::from(get32(&descriptor, low))
        };
        if at(0, 0x20) == block {
            return Ok(format!("block bitmap of group {group}"));
        }
        if at(4, 0x24) == block {
            return Ok(format!("inode bitmap of group {group}"));
        }
        tables.push(at(8, 0x28));
    }
    let numbering = Numbering::new(tree);
    for (group, &table) in (0u32..).zip(&tables) {
        if (table..table + table_blocks).contains(&block) {
            let index = (offset - table * BLOCK) / u64::from(INODE);
            let number = group * inodes_per_group + index as u32 + 1;
            return Ok(match number {
                JOURNAL => "inode of the journal".to_owned(),
                _ => match path(tree, &numbering, number) {
                    Some(path) => format!("inode {number}, of {path}"),
                    None => format!("inode {number}"),
                },
            });
        }
    }
    // Whoever it belongs to; this is done once, so it may take its time.
    for number in std::iter::once(JOURNAL).chain(2..=numbering.last()) {
        let (group, index) = (
            (number - 1) / inodes_per_group,
            (number - 1) % inodes_per_group,
        );
        let Some(table) = tables.get(group as usize) else {
            break;
        };
        let mut inode = [0; INODE as usize];
        read(
            table * BLOCK + u64::from(index) * u64::from(INODE),
            &mut inode,
        )?;
        let Some(use_) = uses(read, &inode, block)? else {
            continue;
        };
        if number == JOURNAL {
            return Ok("journal".to_owned());
        }
        let path = path(tree, &numbering, number).unwrap_or_else(|| format!("inode {number}"));
        return Ok(match use_ {
            Use::Content(logical) => {
                let at = logical * BLOCK + offset % BLOCK;
                format!("content of {path}, byte {at}")
            }
            Use::Extents => format!("extents of {path}"),
            Use::Attributes => format!("extended attributes of {path}"),
        });
    }
    Ok(format!("block {block}, which is free"))
}

/// What an inode uses a block for.
enum Use {
    /// So many blocks into its content.
    Content(u64),
    Extents,
    Attributes,
}

fn uses(read: &Read<'_>, inode: &[u8; INODE as usize], block: u64) -> io::Result<Option<Use>> {
    if u64::from(get32(inode, 0x68)) == block {
        return Ok(Some(Use::Attributes));
    }
    if get32(inode, 0x20) & EXTENTS == 0 {
        return Ok(None);
    }
    let root = inode.get(0x28..0x28 + ROOT_LEN).unwrap_or_default();
    let mut nodes = vec![root.to_vec()];
    while let Some(node) = nodes.pop() {
        let (entries, depth) = (get16(&node, 2), get16(&node, 6));
        if get16(&node, 0) != 0xf30a || depth > MAX_DEPTH {
            continue;
        }
        for n in 0..usize::from(entries) {
            let at = 12 + 12 * n;
            if depth == 0 {
                let start = u64::from(get16(&node, at + 6)) << 32 | u64::from(get32(&node, at + 8));
                let len = u64::from(get16(&node, at + 4));
                if (start..start + len).contains(&block) {
                    let logical = u64::from(get32(&node, at)) + block - start;
                    return Ok(Some(Use::Content(logical)));
                }
                continue;
            }
            let child = u64::from(get16(&node, at + 8)) << 32 | u64::from(get32(&node, at + 4));
            if child == block {
                return Ok(Some(Use::Extents));
            }
            let mut bytes = vec![0; BLOCK as usize];
            read(child * BLOCK, &mut bytes)?;
            // What does not lead down would lead in circles.
            if get16(&bytes, 6) < depth {
                nodes.push(bytes);
            }
        }
    }
    Ok(None)
}

/// A name of the inode with this number.
fn path(tree: &Tree, numbering: &Numbering, number: u32) -> Option<String> {
    let id: InodeId = match number {
        2 => return Some("/".to_owned()),
        11 => return Some("/lost+found".to_owned()),
        3..=10 => return None,
        _ if number > numbering.last() => return None,
        _ => numbering.node(number).id?,
    };
    let mut walk = tree.walk();
    while let Some((path, found)) = walk.next_borrowed() {
        if found == id {
            let slash = match tree.inode(id).kind {
                Kind::Directory(_) => "/",
                _ => "",
            };
            return Some(format!("/{}{slash}", display(path)));
        }
    }
    None
}

/// Groups with backups: 1 and the powers of 3, 5 and 7 (`sparse_super`).
fn is_backup(group: u64) -> bool {
    let power = |base: u64| {
        let mut n = base;
        while n < group {
            n = n.saturating_mul(base);
        }
        n == group
    };
    group == 1 || [3, 5, 7].into_iter().any(power)
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..).and_then(|b| b.first_chunk());
    bytes.map_or(0, |b| u16::from_le_bytes(*b))
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|b| b.first_chunk());
    bytes.map_or(0, |b| u32::from_le_bytes(*b))
}
