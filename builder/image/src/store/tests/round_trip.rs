//! Whatever a tar says, the index says after it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::layer::{Entry, PACK_BLOCK, Timestamp};
use crate::store::build::{IndexBuilder, Summary};
use crate::store::index::Index;
use crate::store::pack::PackWriter;
use crate::tar::{Member, MemberKind, Run, normalise};

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![1u8..=255, Just(b'/')], 1..60).prop_filter_map("a path", |bytes| {
        let mut path = Vec::new();
        normalise(&bytes, &mut path).ok()?;
        (!path.is_empty()).then_some(path)
    })
}

fn runs() -> impl Strategy<Value = (u64, Vec<Run>)> {
    vec((0u64..9000, 1u64..9000), 0..6).prop_map(|pairs| {
        let mut end = 0;
        let runs: Vec<Run> = pairs
            .iter()
            .map(|&(gap, len)| {
                let offset = end + gap;
                end = offset + len;
                Run { offset, len }
            })
            .collect();
        (end + 5, runs)
    })
}

fn member() -> impl Strategy<Value = Member> {
    let kind = prop_oneof![
        Just(MemberKind::Regular),
        Just(MemberKind::Directory),
        Just(MemberKind::Symlink),
        Just(MemberKind::Hardlink),
        Just(MemberKind::Fifo),
        (0u32..4096, 0u32..0x10_0000)
            .prop_map(|(major, minor)| MemberKind::CharDevice { major, minor }),
        (0u32..4096, 0u32..0x10_0000)
            .prop_map(|(major, minor)| MemberKind::BlockDevice { major, minor }),
    ];
    let xattrs =
        proptest::collection::btree_map(vec(1u8..=255, 1..20), vec(any::<u8>(), 0..300), 0..4);
    let ids = (
        any::<u32>(),
        any::<u32>(),
        any::<i64>(),
        0u32..1_000_000_000,
        0u16..0o10000,
    );
    (name(), name(), kind, runs(), xattrs, ids).prop_map(
        |(path, target, kind, (size, runs), xattrs, (uid, gid, secs, nanos, mode))| {
            let file = kind == MemberKind::Regular;
            let link = matches!(kind, MemberKind::Symlink | MemberKind::Hardlink);
            Member {
                path,
                kind,
                target: if link { target } else { Vec::new() },
                mode,
                uid,
                gid,
                mtime: Timestamp { secs, nanos },
                size: if file { size } else { 0 },
                runs: if file { runs } else { Vec::new() },
                xattrs: xattrs.into_iter().collect(),
            }
        },
    )
}

/// The index and the pack of these members; byte `n` of a file's data is `n`.
fn built(members: &[Member]) -> (Vec<u8>, Vec<u8>) {
    let file = tempfile::tempfile().unwrap();
    let mut pack = PackWriter::new(&file);
    let mut builder = IndexBuilder::default();
    let mut segments = Vec::new();
    for member in members {
        pack.begin(&member.runs, &mut segments).unwrap();
        builder.add(member, &segments, &Limits::default()).unwrap();
        let data: Vec<u8> = member
            .runs
            .iter()
            .flat_map(|run| run.offset..run.offset + run.len)
            .map(|n| n as u8)
            .collect();
        pack.data(&data).unwrap();
    }
    let (pack_len, chunk_sums) = pack.finish().unwrap();
    let digest = Digest::sha256(b"");
    let index = builder.finish(&Summary {
        diff_id: &digest,
        blob: &digest,
        blob_len: 1,
        tar_len: 2,
        pack_len,
        chunk_sums: &chunk_sums,
        skeleton_sum: 4,
        written_under: [3; 16],
    });
    let mut bytes = vec![0; pack_len as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    (index, bytes)
}

fn assert_same(entry: &Entry<'_>, member: &Member, pack: &[u8]) {
    assert_eq!(entry.path, member.path);
    assert_eq!(
        (entry.mode, entry.uid, entry.gid),
        (member.mode, member.uid, member.gid)
    );
    assert_eq!(entry.mtime, member.mtime);
    let xattrs: Vec<(&[u8], &[u8])> = member
        .xattrs
        .iter()
        .map(|(n, v)| (&n[..], &v[..]))
        .collect();
    assert_eq!(entry.xattrs, xattrs);
    let target = &member.target[..];
    match (&entry.kind, member.kind) {
        (EntryKind::Regular { size, segments }, MemberKind::Regular) => {
            assert_eq!(*size, member.size);
            let mut expected = vec![0; member.size as usize];
            for run in &member.runs {
                for n in run.offset..run.offset + run.len {
                    expected[n as usize] = n as u8;
                }
            }
            let mut content = vec![0; member.size as usize];
            for s in segments {
                assert_eq!(s.file_offset % PACK_BLOCK, s.pack_offset % PACK_BLOCK);
                let (to, from, len) = (
                    s.file_offset as usize,
                    s.pack_offset as usize,
                    s.len as usize,
                );
                content[to..to + len].copy_from_slice(&pack[from..from + len]);
            }
            assert!(content == expected);
        }
        (EntryKind::Directory, MemberKind::Directory) | (EntryKind::Fifo, MemberKind::Fifo) => {}
        (EntryKind::Symlink { target: t }, MemberKind::Symlink)
        | (EntryKind::Hardlink { target: t }, MemberKind::Hardlink) => assert_eq!(*t, target),
        (EntryKind::CharDevice { major, minor }, MemberKind::CharDevice { major: a, minor: b })
        | (
            EntryKind::BlockDevice { major, minor },
            MemberKind::BlockDevice { major: a, minor: b },
        ) => {
            assert_eq!((*major, *minor), (a, b));
        }
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

proptest! {
    #[test]
    fn members_come_back_as_entries(members in vec(member(), 0..20)) {
        let (index, pack) = built(&members);
        let index = Index::parse(index).unwrap();
        prop_assert_eq!(index.entries().len(), members.len());
        for (entry, member) in index.entries().zip(&members) {
            assert_same(&entry, member, &pack);
        }
    }

    #[test]
    fn a_changed_index_with_a_right_sum_never_makes_it_panic(
        members in vec(member(), 1..6),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut bytes, _) = built(&members);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let len = bytes.len() as u64;
        bytes[32..40].copy_from_slice(&len.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[32..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        if let Ok(index) = Index::parse(bytes) {
            for entry in index.entries() {
                if let EntryKind::Regular { size, segments } = entry.kind {
                    for s in segments {
                        prop_assert!(s.file_offset + s.len <= size);
                        prop_assert!(s.pack_offset + s.len <= index.pack_len());
                    }
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..1000)) {
        let _ = Index::parse([&b"bw-index\x01\0\0\0"[..], &bytes].concat());
    }
}
