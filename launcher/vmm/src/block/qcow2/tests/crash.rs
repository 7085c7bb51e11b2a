//! Stopping the machine at any write.

use proptest::prelude::*;

use super::{KINDS, Kind, SIZE, backing, backing_bytes, run, spots};
use crate::block::Backend;
use crate::block::qcow2::Qcow2Disk;
use crate::block::testing::{Dice, Event, Journal, check_spots, crash, file_of};

/// The kinds whose files are small enough to be made thousands of times.
const OF_CRASHES: [usize; 4] = [1, 2, 4, 5];

/// Records a random session over `image`, without its end.
fn session(kind: Kind, image: &[u8], seed: u64, steps: usize) -> Vec<Event> {
    let journal = Journal::default();
    let file = file_of(image).recorded(journal.clone());
    let disk = Qcow2Disk::from_file(file, false, kind.backed.then(backing)).unwrap();
    let mut dice = Dice::new(seed);
    let mut rig = kind.rig(&disk, journal.clone());
    for _ in 0..steps {
        rig.step(&mut dice);
    }
    rig.compare();
    drop(disk);
    journal.events()
}

/// A file just made, as bytes.
fn fresh(kind: Kind) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::read(kind.make(dir.path())).unwrap()
}

/// qemu-img may find clusters that are counted and not used, never the other
/// way round.
fn check_nothing_worse_than_leaks(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(dir.path().join("backing.raw"), backing_bytes()).unwrap();
    let output = run(
        "qemu-img",
        &["check", "-f", "qcow2", path.to_str().unwrap()],
    );
    let code = output.status.code();
    assert!(
        matches!(code, Some(0 | 3)),
        "{code:?} {}",
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn after_a_crash_at_any_point_all_that_was_flushed_is_there(
        seed in any::<u64>(),
        kind in 0..OF_CRASHES.len(),
    ) {
        let kind = KINDS[OF_CRASHES[kind]];
        let image = fresh(kind);
        let events = session(kind, &image, seed, 30);
        let mut dice = Dice::new(seed ^ 1);
        let mut count = 0;
        let seen = crash(&image, &events, kind.base(), &mut dice, &mut |bytes, good| {
            let open = || {
                let below = kind.backed.then(backing);
                Qcow2Disk::from_file(file_of(bytes), false, below).unwrap()
            };
            let disk = open();
            check_spots(&disk, &spots(), good);
            count += 1;
            if count % 8 == 0 {
                check_nothing_worse_than_leaks(bytes);
                // And it can be used on.
                let mut rig = kind.rig(&disk, Journal::default());
                rig.spots = vec![20_000..20_200, 25_000..25_100];
                let mut dice = Dice::new(count);
                for _ in 0..10 {
                    rig.step(&mut dice);
                }
                rig.compare();
                check_spots(&disk, &spots(), good);
            }
        });
        prop_assert!(seen > 50);
    }
}

#[test]
fn the_crash_test_notices_a_flush_that_lies() {
    let kind = KINDS[1];
    let image = fresh(kind);
    let mut events = session(kind, &image, 3, 60);
    events.retain(|event| !matches!(event, Event::Sync));
    let wrong = std::panic::catch_unwind(|| {
        crash(
            &image,
            &events,
            kind.base(),
            &mut Dice::new(5),
            &mut |bytes, good| {
                let disk = Qcow2Disk::from_file(file_of(bytes), false, Some(backing())).unwrap();
                check_spots(&disk, &spots(), good);
            },
        )
    });
    assert!(wrong.is_err());
}

#[test]
fn after_a_failed_flush_nothing_is_promised_any_more() {
    let kind = KINDS[0];
    let image = fresh(kind);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &image).unwrap();
    // Opened for reading only: whatever is written fails.
    let only_read = std::fs::File::open(file.path()).unwrap();
    let host = crate::block::HostFile::new(only_read, file.path());
    let disk = Qcow2Disk::from_file(host, false, None).unwrap();
    assert!(disk.prepare_write(0..512).is_err());
    assert!(disk.discard(0..SIZE / 512 * 512).is_ok());
    let state_changed = disk.write_zeroes(0..512, false);
    assert!(state_changed.is_ok(), "zeros already");
    assert!(disk.flush().is_err());
    let again = disk.flush().unwrap_err().to_string();
    assert!(again.contains("an earlier flush failed"), "{again}");
}
