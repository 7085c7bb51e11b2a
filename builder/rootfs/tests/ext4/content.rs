//! Contents: packs, host files, literals, holes and fragments.

use bootwright_disk::{Content, Extent, SourceId};
use bootwright_rootfs::ext4::{self, Size};
use bootwright_rootfs::tree::{FileContent, Inode, Tree};

use crate::compare::compare;
use crate::workshop::*;

fn regular(size: u64, extents: Vec<Extent>) -> Inode {
    Inode::file(FileContent { size, extents }, 0o644, TIME)
}

/// The extents of a volume that show sources.
fn shown_extents(volume: &bootwright_rootfs::volume::Volume) -> Vec<(SourceId, u64, u64)> {
    volume
        .extents
        .iter()
        .filter_map(|e| match e.content {
            Content::Source { id, offset } => Some((id, offset, e.len)),
            Content::Literal(_) => None,
        })
        .collect()
}

#[test]
fn files_of_sizes_around_whole_blocks_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let mut pack = Pack::default();
    let mut offsets = Vec::new();
    let sizes: Vec<usize> = [0, 1, 2, 3, 16]
        .into_iter()
        .flat_map(|blocks: usize| {
            let len = blocks * 4096;
            [len.saturating_sub(1), len, len + 1]
        })
        .collect();
    for (seed, &len) in (0..).zip(&sizes) {
        offsets.push(pack.add(&noise(seed, len)));
    }
    let pack = shop.pack(&mut tree, &pack);
    let host = shop.host_file(&mut tree, &noise(99, 100_000));
    for (i, (&len, offset)) in sizes.iter().zip(offsets).enumerate() {
        let len64 = len as u64;
        put(&mut tree, &format!("pack{i}"), shown(pack, offset, len64));
        put(&mut tree, &format!("host{i}"), shown(host, 17, len64));
        put(
            &mut tree,
            &format!("literal{i}"),
            file(noise(i as u64, len)),
        );
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
}

#[test]
fn a_pack_becomes_one_extent() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    for n in 0..3u64 {
        let mut pack = Pack::default();
        let files: Vec<(u64, u64)> = (0..500u64)
            .map(|i| {
                let len = i * 37 % 9000 + 1;
                (pack.add(&noise(i + n, len as usize)), len)
            })
            .collect();
        let id = shop.pack(&mut tree, &pack);
        // Names in another order than the pack.
        for (i, (offset, len)) in files.into_iter().enumerate() {
            let name = format!("{}-{n}", i * 7919 % 500);
            put(&mut tree, &name, shown(id, offset, len));
        }
    }
    let (formatted, volume) = shop.format(&tree, &options(Size::Exact(512 * MIB)));
    let shown = shown_extents(&formatted.volume);
    let lens: Vec<_> = tree.sources().iter().map(|s| s.len).collect();
    let want: Vec<_> = (0..3).map(|n| (SourceId(n), 0, lens[n as usize])).collect();
    assert_eq!(shown, want);
    compare(&shop, &tree, &volume);
}

#[test]
fn unused_parts_of_a_pack_are_free_and_read_as_zeros() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let mut pack = Pack::default();
    let blocks = |n: u64| n as usize * 4096;
    pack.add(&noise(1, blocks(5000)));
    let a = pack.add(&noise(2, blocks(1500)));
    pack.add(&noise(3, blocks(3000)));
    let b = pack.add(&noise(4, blocks(1500)));
    pack.add(&noise(5, blocks(5000)));
    let id = shop.pack(&mut tree, &pack);
    put(&mut tree, "b", shown(id, a, 1500 * BLOCK));
    put(&mut tree, "a", shown(id, b, 1500 * BLOCK));
    let (roomy, volume) = shop.format(&tree, &options(Size::Exact(64 * MIB)));
    compare(&shop, &tree, &volume);
    let starts = |f: &ext4::Formatted| -> Vec<u64> {
        let shown = |e: &&Extent| matches!(e.content, Content::Source { .. });
        f.volume
            .extents
            .iter()
            .filter(shown)
            .map(|e| e.start)
            .collect()
    };
    // As far from each other as in the pack.
    let at = starts(&roomy);
    assert_eq!(at[1] - at[0], b - a);
    // The blocks between them are free: what is used is the same as without.
    let (tight, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(0)));
    compare(&shop, &tree, &volume);
    let exact = options(Size::Exact(tight.stats.minimum_size));
    let (tight, volume) = shop.format(&tree, &exact);
    compare(&shop, &tree, &volume);
    let at = starts(&tight);
    assert_eq!(at[1] - at[0], 1500 * BLOCK);
    assert_eq!(roomy.stats.content, tight.stats.content);
    assert!(tight.stats.minimum_size < 19 * MIB);
}

#[test]
fn a_range_that_two_files_show_has_blocks_in_each() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let mut pack = Pack::default();
    let at = pack.add(&noise(1, 100 * 4096));
    let id = shop.pack(&mut tree, &pack);
    let part = |from: u64, len: u64| shown(id, at + from * BLOCK, len * BLOCK - 5);
    put(&mut tree, "a", part(0, 50));
    put(&mut tree, "b", part(0, 50));
    put(&mut tree, "c", part(40, 20));
    put(&mut tree, "d", part(55, 45));
    put(&mut tree, "e", part(10, 1));
    // Twice in one file.
    let twice = vec![
        Extent::source(0, 9000, id, at + 40 * BLOCK),
        Extent::source(3 * BLOCK, 9000, id, at + 40 * BLOCK),
        Extent::source(6 * BLOCK + 100, 9000, id, at + 90 * BLOCK + 100),
    ];
    put(&mut tree, "f", regular(10 * BLOCK, twice));
    let (formatted, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
    assert_eq!(formatted.stats.content, (50 + 50 + 20 + 45 + 1 + 9) * BLOCK);
}

#[test]
fn pieces_that_share_blocks_and_holes_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let mut pack = Pack::default();
    let at = pack.add(&noise(1, 10 * 4096));
    let id = shop.pack(&mut tree, &pack);
    let host = shop.host_file(&mut tree, &noise(2, 50_000));
    let literal = |start, len: usize| Extent::literal(start, noise(3, len));
    let files = [
        (10, vec![literal(3, 4)]),
        (
            20_000,
            vec![literal(0, 1), literal(4095, 2), literal(19_999, 1)],
        ),
        (20_000, vec![]),
        (
            60_000,
            vec![
                Extent::source(0, 5000, id, at),
                literal(5000, 100),
                Extent::source(5200, 3000, id, at + 5200),
                Extent::source(8200, 4000, host, 3),
                Extent::source(12_288, 100, id, at + 3 * BLOCK),
                Extent::source(12_400, 100, id, at + 3 * BLOCK + 112),
                Extent::source(40_000, 20_000, host, 30_000),
            ],
        ),
        (
            BLOCK + 100,
            vec![Extent::source(100, BLOCK, id, at + 4 * BLOCK + 100)],
        ),
    ];
    for (i, (size, extents)) in files.into_iter().enumerate() {
        put(&mut tree, &format!("f{i}"), regular(size, extents));
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
}

#[test]
fn a_file_in_five_thousand_fragments_is_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let mut pack = Pack::default();
    let at = pack.add(&noise(1, 5000 * 4096));
    let id = shop.pack(&mut tree, &pack);
    let fragment =
        |i: u64, to: u64| Extent::source(to * 2 * BLOCK, BLOCK - i % 7, id, at + i * BLOCK);
    // With a hole after each block, forwards and backwards in the pack.
    let forwards = (0..5000).map(|i| fragment(i, i)).collect();
    let backwards = (0..5000).map(|i| fragment(4999 - i, i)).collect();
    put(&mut tree, "b", regular(10_000 * BLOCK, backwards));
    put(&mut tree, "f", regular(10_000 * BLOCK, forwards));
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
}

#[test]
fn sparse_files_up_to_the_largest_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let largest = u64::from(u32::MAX) * BLOCK;
    for (i, size) in [100 * GIB, largest - 1, largest].into_iter().enumerate() {
        let literal = |start| Extent::literal(start, noise(start, 9000));
        let extents = vec![literal(0), literal(size / 2), literal(size - 9000)];
        put(&mut tree, &format!("sparse{i}"), regular(size, extents));
        put(&mut tree, &format!("hole{i}"), regular(size, Vec::new()));
    }
    let (formatted, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    assert!(formatted.stats.content < MIB);
    compare(&shop, &tree, &volume);
}

#[test]
fn a_file_larger_than_a_group_steps_over_metadata() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    // Sparse on the host as well.
    let host = shop.host_file(&mut tree, &[]);
    let mut source = tree.sources()[host.0 as usize].clone();
    source.len = 3 * GIB;
    let file = std::fs::File::options()
        .write(true)
        .open(&source.path)
        .unwrap();
    file.set_len(3 * GIB).unwrap();
    let mut sparse = Tree::new(vec![source]);
    put(&mut sparse, "large", shown(host, 0, 3 * GIB));
    let formatted = ext4::format(&sparse, &options(Size::Exact(8 * GIB))).unwrap();
    // All but its contents, which are zeros anyway.
    let mut volume = formatted.volume.clone();
    volume
        .extents
        .retain(|e| matches!(e.content, Content::Literal(_)));
    let path = shop.write(&sparse, &volume);
    fsck(&path);
    let stat = succeed("debugfs", &["-R", "stat /large", path.to_str().unwrap()]);
    assert!(stat.contains("ETB0"), "an extent tree: {stat}");
    let total: u64 = shown_extents(&formatted.volume).iter().map(|e| e.2).sum();
    assert_eq!(total, 3 * GIB);
}
