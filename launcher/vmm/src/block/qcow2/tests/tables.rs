//! Entries and refcounts as pure functions.

use proptest::prelude::*;

use crate::block::qcow2::entry::{COPIED, Nonsense, Place, ZERO, from_bytes, to_bytes};
use crate::block::qcow2::refcounts::{get, set};

proptest! {
    #[test]
    fn a_refcount_changes_nothing_but_itself(
        order in 0..7u32,
        index in 0..64usize,
        values in prop::collection::vec(any::<u64>(), 64),
        new in any::<u64>(),
    ) {
        let max = u64::MAX >> (64 - (1u32 << order));
        let mut block = vec![0; 512];
        for (i, value) in values.iter().enumerate() {
            set(&mut block, order, i, value & max);
        }
        set(&mut block, order, index, new & max);
        for (i, value) in values.iter().enumerate() {
            let expect = if i == index { new & max } else { value & max };
            prop_assert_eq!(get(&block, order, i), expect);
        }
    }

    #[test]
    fn any_entry_is_a_place_or_nonsense(entry in any::<u64>(), version in 2..4u32, bits in 9..22u32) {
        match Place::decode(entry, version, bits) {
            Ok(Place::Plain { offset, .. } | Place::Zeros(Some(offset))) => {
                prop_assert!(offset > 0 && offset.is_multiple_of(1 << bits) && offset < 1 << 56);
            }
            Ok(Place::Compressed { offset, end }) => {
                prop_assert!(offset < end && end - offset <= (2 << bits) + 512);
            }
            Ok(_) => {}
            Err(Nonsense(given)) => prop_assert_eq!(given, entry),
        }
    }

    #[test]
    fn entries_come_back_as_they_went(entries in prop::collection::vec(any::<u64>(), 0..70)) {
        prop_assert_eq!(from_bytes(&to_bytes(&entries)), entries);
    }
}

#[test]
fn entries_are_understood_as_the_format_says() {
    let at = 5 << 16;
    let cases = [
        (0, Place::Unallocated),
        (COPIED, Place::Unallocated),
        (ZERO, Place::Zeros(None)),
        (at | ZERO, Place::Zeros(None)),
        (at | ZERO | COPIED, Place::Zeros(Some(at))),
        (
            at,
            Place::Plain {
                offset: at,
                own: false,
            },
        ),
        (
            at | COPIED,
            Place::Plain {
                offset: at,
                own: true,
            },
        ),
        // Bits 54 to 61: further sectors.
        (
            1 << 62 | 2 << 54 | 1000,
            Place::Compressed {
                offset: 1000,
                end: 512 * 4,
            },
        ),
    ];
    for (entry, place) in cases {
        assert_eq!(Place::decode(entry, 3, 16), Ok(place), "{entry:#x}");
    }
    assert!(Place::decode(at | ZERO, 2, 16).is_err());
    assert!(Place::decode(at + 512, 3, 16).is_err());
}
