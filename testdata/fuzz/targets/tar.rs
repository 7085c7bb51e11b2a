//! A layer's tar, checksums of its headers set right. The first byte says in
//! pieces of what length it arrives.
#![no_main]

use bootwright_fuzz::seal_tar;
use bootwright_image::tar::{Limits, Member, Reader, Sink, TarError, normalise};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    max_entries: 200,
    max_layer_bytes: 1 << 20,
    max_index_bytes: 1 << 20,
    max_xattr_bytes: 4096,
    max_header_bytes: 8192,
    max_sparse_segments: 100,
    max_zstd_window_log: 10,
};

/// What came out of a tar, and the tar put together again.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    members: Vec<Member>,
    data: u64,
    bytes: Vec<u8>,
}

impl Sink for Seen {
    type Error = TarError;

    fn member(&mut self, member: &Member) -> Result<(), TarError> {
        self.all_data_came();
        self.data = 0;
        self.members.push(member.clone());
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.data += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn structure(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Seen {
    fn all_data_came(&self) {
        let last = self.members.last();
        let promised = last.map_or(0, |m| m.runs.iter().map(|r| r.len).sum());
        assert_eq!(self.data, promised);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, rest)) = input.split_first() else {
        return;
    };
    let mut tar = rest.to_vec();
    seal_tar(&mut tar);
    let (whole, result) = read(&tar, usize::MAX);
    let (pieces, same) = read(&tar, 1 + 7 * usize::from(piece));
    assert_eq!(result, same);
    assert_eq!(whole.members, pieces.members);
    assert!(tar.starts_with(&whole.bytes));
    if result.is_ok() {
        whole.all_data_came();
        assert_eq!(whole.bytes, tar);
    }
    assert!(whole.members.len() as u64 <= LIMITS.max_entries);
    whole.members.iter().for_each(check);
});

fn read(tar: &[u8], piece: usize) -> (Seen, Result<(), TarError>) {
    let (mut reader, mut seen) = (Reader::new(LIMITS), Seen::default());
    let fed = tar
        .chunks(piece)
        .try_for_each(|bytes| reader.feed(bytes, &mut seen));
    let result = fed.and_then(|()| reader.finish());
    (seen, result)
}

/// What the index, the tree and the pack rely on.
fn check(member: &Member) {
    let mut path = Vec::new();
    normalise(&member.path, &mut path).unwrap();
    assert_eq!(path, member.path, "a path is in its normal form");
    assert!(member.mode <= 0o7777 && member.mtime.nanos < 1_000_000_000);
    let mut end = 0;
    for run in &member.runs {
        assert!(run.len > 0 && run.offset >= end);
        end = run.offset.checked_add(run.len).unwrap();
    }
    assert!(end <= member.size && i64::try_from(member.size).is_ok());
    assert!(member.runs.len() <= LIMITS.max_sparse_segments);
    assert!(member.xattrs.is_sorted_by(|a, b| a.0 < b.0));
}
