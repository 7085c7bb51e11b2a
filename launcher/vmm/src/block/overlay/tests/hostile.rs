//! Overlay files that are damaged, or made to do harm.

use proptest::prelude::*;

use super::{ID, SIZE, base, fresh, session};
use crate::block::overlay::Overlay;
use crate::block::overlay::format::{
    CLUSTER, LeafEntry, NODE, Place, SUPERBLOCKS, Superblock, encode_inner, encode_leaf, sum,
};
use crate::block::testing::{Event, file_of};
use crate::block::{Backend, read_at};

/// What a session leaves in the file.
fn used() -> Vec<u8> {
    let mut image = fresh();
    for event in session(&image, 11, 50) {
        let (at, bytes) = match event {
            Event::Write(at, bytes) => (at, bytes),
            Event::Zero(at, len) => (at, vec![0; len as usize]),
            _ => continue,
        };
        let end = at as usize + bytes.len();
        image.resize(image.len().max(end), 0);
        image[at as usize..end].copy_from_slice(&bytes);
    }
    image
}

fn open(bytes: &[u8]) -> Result<Overlay, String> {
    Overlay::from_file(file_of(bytes), base(), ID).map_err(|e| e.to_string())
}

/// A file with the given leaf as the first of two under a root, all sums
/// right.
fn with_leaf(leaf: &[u8; NODE], change: impl FnOnce(&mut Superblock)) -> Vec<u8> {
    let mut bytes = vec![0; 4 * CLUSTER as usize];
    let at = CLUSTER;
    bytes[at as usize..][..NODE].copy_from_slice(leaf);
    let place = Place {
        offset: at,
        sum: sum(0, 0, leaf),
    };
    let root = encode_inner([(0, place)].into_iter());
    bytes[at as usize + NODE..][..NODE].copy_from_slice(&root);
    let mut superblock = Superblock {
        generation: 3,
        size: SIZE,
        base: ID,
        root: Some(Place {
            offset: at + NODE as u64,
            sum: sum(1, 0, &root),
        }),
    };
    change(&mut superblock);
    for at in SUPERBLOCKS {
        bytes[at as usize..][..NODE].copy_from_slice(&superblock.encode());
    }
    bytes
}

fn leaf(entries: &[LeafEntry]) -> [u8; NODE] {
    encode_leaf(entries.iter().copied())
}

#[test]
fn what_no_writer_makes_is_refused_by_name() {
    let good = LeafEntry {
        offset: 2 * CLUSTER,
        valid: 0xffff,
        zero: 0,
    };
    let kept = |_: &mut Superblock| {};
    assert_eq!(open(&with_leaf(&leaf(&[good]), kept)).err(), None);
    let mut reserved = leaf(&[good]);
    reserved[13] = 1;
    let wrong = |change: fn(&mut LeafEntry)| {
        let mut entry = good;
        change(&mut entry);
        with_leaf(&leaf(&[entry]), kept)
    };
    let cases = [
        ("impossible", wrong(|e| e.zero = 1)),
        ("impossible", wrong(|e| e.offset = 0)),
        ("impossible", wrong(|e| e.valid = 0)),
        ("impossible", wrong(|e| e.offset += 4096)),
        ("impossible", wrong(|e| e.offset = !0xffff)),
        ("impossible", wrong(|e| e.offset = 4 * CLUSTER)),
        ("used twice", with_leaf(&leaf(&[good, good]), kept)),
        ("used twice", wrong(|e| e.offset = CLUSTER)),
        ("reserved", with_leaf(&reserved, kept)),
        ("is empty", with_leaf(&leaf(&[]), kept)),
        ("a disk of 0", with_leaf(&leaf(&[good]), |s| s.size = 0)),
        ("a disk of", with_leaf(&leaf(&[good]), |s| s.size = !511)),
        ("a disk of", with_leaf(&leaf(&[good]), |s| s.size = 1000)),
        (
            "an overlay of 512",
            with_leaf(&leaf(&[good]), |s| s.size = 512),
        ),
        (
            "generation",
            with_leaf(&leaf(&[good]), |s| s.generation = u64::MAX),
        ),
        ("checksum", with_leaf(&leaf(&[good]), |s| s.size = 8 << 40)),
        (
            "no node at",
            with_leaf(&leaf(&[good]), |s| s.root.as_mut().unwrap().offset = 4096),
        ),
        (
            "no node at",
            with_leaf(&leaf(&[good]), |s| {
                s.root.as_mut().unwrap().offset = u64::MAX - 4095;
            }),
        ),
        ("it is empty", Vec::new()),
        ("too short", vec![0; 4096]),
        ("no superblock", vec![0; 1 << 20]),
    ];
    for (i, (message, bytes)) in cases.iter().enumerate() {
        let error = open(bytes).expect_err(message);
        assert!(error.contains(message), "case {i}: {error}");
    }
}

#[test]
fn a_version_from_the_future_is_named() {
    let mut bytes = fresh();
    for at in SUPERBLOCKS {
        let block = &mut bytes[at as usize..][..NODE];
        block[8] = 2;
        let sum = crc32c::crc32c(&block[..NODE - 4]);
        block[NODE - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    assert!(open(&bytes).unwrap_err().contains("version 2"));
}

#[test]
fn one_damaged_superblock_does_no_harm() {
    let good = used();
    for at in SUPERBLOCKS {
        let mut bytes = good.clone();
        bytes[at as usize + 30] ^= 1;
        let (a, b) = (open(&good).unwrap(), open(&bytes).unwrap());
        let (mut of_a, mut of_b) = (vec![0; 200_000], vec![0; 200_000]);
        read_at(&a, 0, &mut of_a).unwrap();
        read_at(&b, 0, &mut of_b).unwrap();
        assert!(of_a == of_b);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_in_the_tree_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        static IMAGE: std::sync::OnceLock<(Vec<u8>, Vec<u64>)> = std::sync::OnceLock::new();
        let (image, nodes) = IMAGE.get_or_init(|| {
            let image = used();
            let overlay = open(&image).unwrap();
            let nodes = (overlay.map().places.iter())
                .flat_map(|level| level.values().map(|place| place.offset))
                .collect();
            (image, nodes)
        });
        let mut bytes = image.clone();
        let at = at.index(nodes.len() * NODE);
        bytes[nodes[at / NODE] as usize + at % NODE] ^= 1 << bit;
        let error = open(&bytes).unwrap_err();
        prop_assert!(error.contains("checksum"), "{}", error);
    }

    #[test]
    fn a_leaf_of_anything_opens_to_a_disk_or_an_error(
        entries in prop::collection::vec(
            (prop_oneof![Just(0u64), (0..5u64).prop_map(|n| n * CLUSTER), any::<u64>()],
             prop_oneof![Just(0u16), Just(0xff), any::<u16>()],
             prop_oneof![Just(0u16), Just(0xff00), any::<u16>()]),
            1..4),
        cut in 0..5u64,
    ) {
        let entries: Vec<LeafEntry> = entries
            .into_iter()
            .map(|(offset, valid, zero)| LeafEntry { offset, valid, zero })
            .collect();
        let mut bytes = with_leaf(&leaf(&entries), |_| {});
        bytes.truncate((cut * CLUSTER) as usize);
        if let Ok(overlay) = open(&bytes) {
            let mut all = vec![0; 400_000];
            read_at(&overlay, 0, &mut all).unwrap();
            crate::block::write_at(&overlay, 1000 * 512, &[1; 70_000 / 512 * 512]).unwrap();
            overlay.flush().unwrap();
        }
    }
}
