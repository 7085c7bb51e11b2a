//! What a client sends to the NBD server. Unless the first byte is 0, options
//! that agree on everything are put before it, so that the rest are requests.
#![no_main]

use std::io;
use std::ops::Range;

use bootwright_disk::ReadAt;
use bootwright_disk::nbd::{self, Export};
use libfuzzer_sys::fuzz_target;

/// What agrees on structured replies, contexts and the export.
const AGREE: &[u8] = b"\0\0\0\x03\
    IHAVEOPT\0\0\0\x08\0\0\0\0\
    IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation\
    IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0";

/// Two blocks of data in 64 KiB.
#[derive(Debug)]
struct Disk;

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        64 << 10
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert!(offset + buf.len() as u64 <= self.size());
        buf.fill(1);
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let runs = [5000..9000, 20_000..20_001];
        let next = runs.into_iter().find(|run| run.end > from);
        Ok(next.map(|run| run.start.max(from)..run.end))
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let mut sent = Vec::new();
    if *first != 0 {
        sent.extend(AGREE);
    }
    sent.extend(rest);
    let export = Export {
        name: "disk",
        description: "",
        disk: &Disk,
        writer: None,
        warn: &|_| {},
    };
    let mut output = Vec::new();
    let _ = nbd::serve(&sent[..], &mut output, &export);
    // A request of 28 bytes is answered with the disk and some headers at
    // most.
    assert!(output.len() <= 1024 + sent.len() * (80 << 10) / 16);
});
