//! Random trees.

use bootwright_disk::{Extent, SourceId};
use bootwright_image::Timestamp;
use bootwright_rootfs::ext4::{self, Options, Size};
use bootwright_rootfs::tree::{FileContent, Inode, InodeId, Kind, Tree};
use proptest::prelude::*;

use crate::compare::compare;
use crate::workshop::*;

const PACK_BLOCKS: u64 = 300;

#[derive(Debug, Clone)]
enum What {
    Directory,
    Regular {
        pieces: Vec<Piece>,
        tail: u64,
    },
    Symlink(usize),
    Device(u32, u32),
    Fifo,
    /// Another name of an earlier file.
    Link(usize),
}

#[derive(Debug, Clone)]
struct Piece {
    gap: u64,
    len: u64,
    /// A pack or host file, or a literal.
    from: Option<(u32, u64)>,
}

#[derive(Debug, Clone)]
struct Node {
    parent: usize,
    name: Vec<u8>,
    what: What,
    xattrs: Vec<(String, Vec<u8>)>,
    mode: u16,
    owner: u32,
    time: i64,
}

fn piece() -> impl Strategy<Value = Piece> {
    let gap = prop_oneof![Just(0u64), 0..5000u64, (0..20u64).prop_map(|b| b * 4096)];
    let len = prop_oneof![1..10u64, 1..30_000u64, (1..9u64).prop_map(|b| b * 4096)];
    let offset = prop_oneof![0..500_000u64, (0..PACK_BLOCKS - 8).prop_map(|b| b * 4096)];
    let from = prop_oneof![Just(None), (0..3u32, offset).prop_map(Some)];
    (gap, len, from).prop_map(|(gap, len, from)| Piece { gap, len, from })
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => Just(What::Directory),
        6 => (prop::collection::vec(piece(), 0..6), 0..9000u64)
            .prop_map(|(pieces, tail)| What::Regular { pieces, tail }),
        1 => (1..300usize).prop_map(What::Symlink),
        1 => (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| What::Device(major, minor)),
        1 => Just(What::Fifo),
        2 => any::<usize>().prop_map(What::Link),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let name = prop::collection::vec(1..=255u8, 1..60).prop_filter("a file name", |name| {
        !name.contains(&b'/') && name != b"." && name != b".."
    });
    let xattr = (
        "(user|security|trusted)\\.[a-z]{1,20}",
        prop::collection::vec(any::<u8>(), 0..120),
    );
    (
        any::<usize>(),
        name,
        what(),
        prop::collection::vec(xattr, 0..4),
        0..0o10_000u16,
        any::<u32>(),
        0..0x7fff_ffffi64,
    )
        .prop_map(|(parent, name, what, xattrs, mode, owner, time)| Node {
            parent,
            name,
            what,
            xattrs,
            mode,
            owner,
            time,
        })
}

fn content(pieces: &[Piece], tail: u64, sources: &[SourceId]) -> FileContent {
    let mut at = 0;
    let mut extents = Vec::new();
    for piece in pieces {
        at += piece.gap;
        extents.push(match piece.from {
            Some((source, offset)) => {
                // Half of them in step with the pack's blocks.
                let offset = if offset % 4096 == 0 {
                    offset + at % 4096
                } else {
                    offset
                };
                Extent::source(at, piece.len, sources[source as usize], offset)
            }
            None => Extent::literal(at, noise(at, piece.len as usize)),
        });
        at += piece.len;
    }
    FileContent {
        size: at + tail,
        extents,
    }
}

fn build(shop: &Workshop, nodes: &[Node]) -> Tree {
    let mut tree = Tree::new(Vec::new());
    let sources: Vec<SourceId> = (0..3u64)
        .map(|seed| {
            let bytes = noise(seed, (PACK_BLOCKS * BLOCK) as usize);
            let mut pack = Pack::default();
            pack.add(&bytes);
            if seed == 2 {
                shop.host_file(&mut tree, &bytes)
            } else {
                shop.pack(&mut tree, &pack)
            }
        })
        .collect();
    let mut dirs: Vec<InodeId> = vec![tree.root()];
    let mut files: Vec<InodeId> = Vec::new();
    for node in nodes {
        let parent = dirs[node.parent % dirs.len()];
        if tree.child(parent, &node.name).is_some() {
            continue;
        }
        let kind = match &node.what {
            What::Directory => directory().kind,
            // Pieces that end with a file's last block must be padded there,
            // as in a real pack: end inside of the noise.
            What::Regular { pieces, tail } => {
                Kind::Regular(content(pieces, *tail + 4096, &sources))
            }
            What::Symlink(len) => Kind::Symlink(vec![b'/'; *len].into()),
            What::Device(major, minor) => Kind::BlockDevice {
                major: *major,
                minor: *minor,
            },
            What::Fifo => Kind::Fifo,
            What::Link(to) if files.is_empty() => {
                let _ = to;
                continue;
            }
            What::Link(to) => {
                tree.link(parent, &node.name, files[to % files.len()])
                    .unwrap();
                continue;
            }
        };
        let is_directory = matches!(kind, Kind::Directory(_));
        let inode = Inode {
            uid: node.owner,
            gid: node.owner.rotate_left(7),
            mtime: Timestamp {
                secs: node.time,
                nanos: node.owner % 1_000_000_000,
            },
            xattrs: node
                .xattrs
                .iter()
                .map(|(n, v)| (n.as_bytes(), v.as_slice()))
                .collect(),
            ..Inode::new(kind, node.mode)
        };
        let id = tree.insert(parent, &node.name, inode).unwrap();
        if is_directory {
            dirs.push(id);
        } else {
            files.push(id);
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_formatted_clean_and_complete(
        nodes in prop::collection::vec(node(), 0..120),
        free in 0..20_000_000u64,
        spare_inodes in 0..5000u32,
    ) {
        let shop = Workshop::new();
        let tree = build(&shop, &nodes);
        let options = Options { spare_inodes, ..options(Size::MinimalPlusFree(free)) };
        let (formatted, volume) = shop.format(&tree, &options);
        compare(&shop, &tree, &volume);
        prop_assert!(formatted.stats.available >= free);
        prop_assert_eq!(&ext4::format(&tree, &options).unwrap(), &formatted);
        // And in the least room there is.
        let least = Options { size: Size::Exact(formatted.stats.minimum_size), ..options };
        let (_, volume) = shop.format(&tree, &least);
        compare(&shop, &tree, &volume);
    }
}
