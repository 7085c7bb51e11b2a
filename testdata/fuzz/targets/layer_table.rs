//! A layer's table of frames and runs, its checksum set right.
#![no_main]

use bootwright_delivery::LayerTable;
use bootwright_fuzz::seal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(table) = LayerTable::decode(&seal(input)) else {
        return;
    };
    let all = table
        .blob_range(0..table.frames().len())
        .expect("all frames");
    for number in 0..table.frames().len() {
        let one = table.blob_range(number..number + 1).expect("a frame");
        assert!(all.start <= one.start && one.start < one.end && one.end <= all.end);
        assert!(table.frame_len(number) <= 1 << 20);
    }
    let (mut tar, mut pack) = (0, 0);
    for run in table.runs_in(0..u64::MAX) {
        assert!(run.len > 0 && run.tar_offset >= tar && run.pack_offset >= pack);
        tar = run.tar_offset + run.len;
        pack = run.pack_offset + run.len;
        assert!(tar <= table.tar_len() && pack <= table.pack_len());
    }
    assert_eq!(LayerTable::decode(&table.encode()), Ok(table));
});
