//! A plan read back says what its extents say.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Seek, SeekFrom};

use bootwright_disk::reader::{DiskCursor, ReadAt, data_len};
use common::{Sample, samples};
use proptest::prelude::*;

fn whole(reader: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0xee; reader.size() as usize];
    reader.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// What is outside of every run of data, made visible.
fn marked(reader: &dyn ReadAt) -> Vec<bool> {
    let mut data = vec![false; reader.size() as usize];
    let mut at = 0;
    while let Some(run) = reader.next_data(at).unwrap() {
        assert!(run.start >= at && run.end > run.start && run.end <= reader.size());
        data[run.start as usize..run.end as usize].fill(true);
        at = run.end;
    }
    data
}

fn check(sample: &Sample, cuts: &[u64]) {
    let expected = sample.bytes();
    let reader = sample.reader();
    assert!(whole(&reader) == expected);

    let mut cuts: Vec<u64> = cuts.iter().map(|c| c % (reader.size() + 1)).collect();
    cuts.extend([0, reader.size()]);
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let mut part = vec![0xee; (pair[1] - pair[0]) as usize];
        reader.read_exact_at(pair[0], &mut part).unwrap();
        assert!(
            part == expected[pair[0] as usize..pair[1] as usize],
            "{pair:?}"
        );
    }

    let data = marked(&reader);
    let outside = data.iter().zip(&expected).filter(|(data, _)| !**data);
    assert!(outside.into_iter().all(|(_, byte)| *byte == 0));
    let counted = data.iter().filter(|data| **data).count() as u64;
    assert_eq!(data_len(&reader).unwrap(), counted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_plan_reads_as_its_extents_say(
        sample in samples(),
        cuts in prop::collection::vec(any::<u64>(), 0..20),
    ) {
        check(&sample, &cuts);
    }
}

#[test]
fn nasty_plans_read_as_their_extents_say() {
    for (name, sample) in common::nasty() {
        println!("{name}");
        check(&sample, &[1, 511, 4097, 65535, 65537, 700_001]);
    }
}

#[test]
fn a_read_past_the_end_is_an_error() {
    let sample = Sample::new(4096, []);
    let mut buf = [0; 2];
    for offset in [4095, 4096, u64::MAX] {
        let error = sample.reader().read_exact_at(offset, &mut buf).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_cursor_reads_and_seeks_within_its_part() {
    let sample = common::nasty().remove(4).1;
    let bytes = sample.bytes();
    let mut cursor = DiskCursor::part(sample.reader(), 1000, 5000);
    let mut part = Vec::new();
    cursor.read_to_end(&mut part).unwrap();
    assert!(part == bytes[1000..6000]);
    assert_eq!(cursor.seek(SeekFrom::End(-10)).unwrap(), 4990);
    let mut tail = Vec::new();
    cursor.read_to_end(&mut tail).unwrap();
    assert_eq!(tail, bytes[5990..6000]);
    assert!(cursor.seek(SeekFrom::Current(-6000)).is_err());
    cursor.seek(SeekFrom::Start(u64::MAX)).unwrap();
    assert_eq!(cursor.read(&mut [0; 8]).unwrap(), 0);
}
