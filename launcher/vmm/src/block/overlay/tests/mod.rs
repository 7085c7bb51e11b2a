//! Overlays: as disks, after crashes, and when others made them.

mod hostile;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::Overlay;
use crate::block::testing::{Dice, Event, Journal, Rig, check_spots, crash, file_of, sector};
use crate::block::{Backend, BaseId, OpenError, RawDisk, read_at, write_at};

const ID: BaseId = BaseId([7; 32]);
/// Two leaves and the end of a disk that is no whole block.
const SIZE: u64 = (24 << 20) + 3 * 512;

fn base_value(sector: u64) -> u32 {
    // A part of the base is zeros, and the overlay is larger than it.
    if sector * 512 >= SIZE - (1 << 20) || (1000..1100).contains(&sector) {
        0
    } else {
        0x8000_0000 | sector as u32
    }
}

fn base() -> Arc<dyn Backend> {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        (0..(SIZE - (1 << 20)) / 512)
            .flat_map(|at| sector(base_value(at)))
            .collect()
    });
    Arc::new(RawDisk::from_file(file_of(bytes), true).unwrap())
}

fn spots() -> Vec<std::ops::Range<u64>> {
    let end = SIZE / 512;
    // Around the border of two clusters, of two leaves, of what the base has,
    // and the end.
    vec![
        0..300,
        900..1200,
        32700..32900,
        end - 2100..end - 1900,
        end - 150..end,
    ]
}

fn rig<'a>(disk: &'a Overlay, journal: Journal) -> Rig<'a> {
    Rig {
        disk,
        journal,
        base: &base_value,
        model: Default::default(),
        spots: spots(),
        next: 1,
    }
}

/// An overlay file just made, as bytes.
fn fresh() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    drop(Overlay::create(&path, base(), ID, SIZE).unwrap());
    std::fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_is_what_was_written_also_when_opened_again(seed in any::<u64>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay");
        let mut overlay = Overlay::create(&path, base(), ID, SIZE).unwrap();
        let mut dice = Dice::new(seed);
        let (mut model, mut next) = Default::default();
        for _ in 0..4 {
            let mut rig = rig(&overlay, Journal::default());
            (rig.model, rig.next) = (model, next + 1);
            for _ in 0..60 {
                rig.step(&mut dice);
            }
            rig.compare();
            (model, next) = (rig.model, rig.next);
            drop(overlay);
            overlay = Overlay::open(&path, base(), ID).unwrap();
            let mut rig = self::rig(&overlay, Journal::default());
            rig.model = model.clone();
            rig.compare();
        }
    }

    #[test]
    fn an_ephemeral_overlay_is_what_was_written(seed in any::<u64>(), in_file in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let overlay = Overlay::ephemeral(in_file.then_some(dir.path()), base(), SIZE).unwrap();
        let mut dice = Dice::new(seed);
        let mut rig = rig(&overlay, Journal::default());
        for _ in 0..100 {
            rig.step(&mut dice);
        }
        rig.compare();
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// Records a random session over `image` and returns what was done.
fn session(image: &[u8], seed: u64, steps: usize) -> Vec<Event> {
    let journal = Journal::default();
    let file = file_of(image).recorded(journal.clone());
    let overlay = Overlay::from_file(file, base(), ID).unwrap();
    let mut dice = Dice::new(seed);
    let mut rig = rig(&overlay, journal.clone());
    for _ in 0..steps {
        rig.step(&mut dice);
    }
    rig.compare();
    drop(overlay);
    journal.events()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn after_a_crash_at_any_point_all_that_was_flushed_is_there(seed in any::<u64>()) {
        let image = fresh();
        let events = session(&image, seed, 40);
        let mut dice = Dice::new(seed ^ 1);
        let mut count = 0;
        let seen = crash(&image, &events, &base_value, &mut dice, &mut |bytes, good| {
            let overlay = Overlay::from_file(file_of(bytes), base(), ID).unwrap();
            check_spots(&overlay, &spots(), good);
            count += 1;
            if count % 16 == 0 {
                // And it can be used on: what is written now is kept, too.
                let journal = Journal::default();
                drop(overlay);
                let file = file_of(bytes).recorded(journal.clone());
                let overlay = Overlay::from_file(file, base(), ID).unwrap();
                let new = [sector(77), sector(78)].concat();
                write_at(&overlay, 512 * 150, &new).unwrap();
                overlay.flush().unwrap();
                std::mem::forget(overlay);
                let mut after = bytes.to_vec();
                for event in journal.events() {
                    if let Event::Write(at, bytes) = event {
                        let end = at as usize + bytes.len();
                        after.resize(after.len().max(end), 0);
                        after[at as usize..end].copy_from_slice(&bytes);
                    }
                }
                let overlay = Overlay::from_file(file_of(&after), base(), ID).unwrap();
                check_spots(&overlay, &spots(), &|at, bytes| match at {
                    150 => bytes == sector(77),
                    151 => bytes == sector(78),
                    _ => good(at, bytes),
                });
            }
        });
        prop_assert!(seen > 100);
    }
}

#[test]
fn the_crash_test_notices_a_flush_that_lies() {
    // The same session, but none of its syncs happened.
    let image = fresh();
    let mut events = session(&image, 3, 60);
    events.retain(|event| !matches!(event, Event::Sync));
    let wrong = std::panic::catch_unwind(|| {
        crash(
            &image,
            &events,
            &base_value,
            &mut Dice::new(5),
            &mut |bytes, good| {
                let overlay = Overlay::from_file(file_of(bytes), base(), ID).unwrap();
                check_spots(&overlay, &spots(), good);
            },
        )
    });
    assert!(wrong.is_err());
}

#[test]
fn an_overlay_knows_its_base_and_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    let first = Overlay::create(&path, base(), ID, SIZE).unwrap();
    let error = Overlay::open(&path, base(), ID).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    let error = Overlay::create(&path, base(), ID, SIZE).unwrap_err();
    assert!(error.to_string().contains("File exists"), "{error}");
    drop(first);
    let error = Overlay::open(&path, base(), BaseId([8; 32])).unwrap_err();
    assert!(
        error.to_string().contains("belongs to another disk"),
        "{error}"
    );
    Overlay::open(&path, base(), ID).unwrap();
    let error = Overlay::create(&dir.path().join("other"), base(), ID, 512).unwrap_err();
    assert!(
        error.to_string().contains("an overlay of 512 bytes"),
        "{error}"
    );
    assert!(!dir.path().join("other").exists());
}

#[test]
fn discarding_gives_space_back_and_zeros_of_the_base_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    let overlay = Overlay::create(&path, base(), ID, SIZE).unwrap();
    write_at(&overlay, 0, &vec![5; 4 << 20]).unwrap();
    overlay.flush().unwrap();
    let blocks = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
    assert!(blocks(&path) > 4 << 20);
    overlay.discard(4096..4 << 20).unwrap();
    overlay.flush().unwrap();
    assert!(blocks(&path) < 512 << 10, "{}", blocks(&path));
    let mut bytes = vec![1; 4 << 20];
    read_at(&overlay, 0, &mut bytes).unwrap();
    assert!(bytes[..4096].iter().all(|b| *b == 5) && bytes[4096..].iter().all(|b| *b == 0));
    // Past the base's end all is zeros already.
    let nodes = overlay.map().leaves.len();
    overlay.discard(SIZE - 512 * 1024..SIZE - 1536).unwrap();
    overlay.flush().unwrap();
    assert!(overlay.map().leaves.len() <= nodes + 1);
    assert!(overlay.map().leaves.values().all(|leaf| !leaf.dirty));
}

#[test]
fn two_writes_to_one_new_block_wait_for_each_other() {
    let overlay = Overlay::ephemeral(None, base(), SIZE).unwrap();
    let whole = overlay.prepare_write(0..4096).unwrap();
    let error = overlay.prepare_write(512..1024).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    overlay.abandoned(0..4096);
    // The block is the base's again, so what is written now is surrounded by
    // the base's bytes.
    write_at(&overlay, 512, &sector(9)).unwrap();
    let mut bytes = [0; 2048];
    read_at(&overlay, 0, &mut bytes).unwrap();
    let expect = [
        sector(base_value(0)),
        sector(9),
        sector(base_value(2)),
        sector(base_value(3)),
    ];
    assert_eq!(bytes, *expect.concat());
    drop(whole);
}
