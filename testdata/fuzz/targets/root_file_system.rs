//! An image's layers, as tars one after the other with a block of `NEXT`
//! between them: read, merged, and formatted as ext4.
#![no_main]

use bootwright_disk::{Content, Extent, Source, SourceId, SourceKind};
use bootwright_fuzz::seal_tar;
use bootwright_image::layer::PACK_BLOCK;
use bootwright_image::tar::{Limits, Member, MemberKind, Reader, Sink, TarError};
use bootwright_image::{Entry, EntryKind, Segment, Timestamp};
use bootwright_rootfs::ext4::{self, Options, Size};
use bootwright_rootfs::tree::Tree;
use libfuzzer_sys::fuzz_target;

const NEXT: &[u8] = b"the next layer\0";

/// A layer's members, and where their contents would be in its pack.
#[derive(Default)]
struct Layer {
    members: Vec<(Member, Vec<Segment>)>,
    pack_len: u64,
}

impl Sink for Layer {
    type Error = TarError;

    fn member(&mut self, member: &Member) -> Result<(), TarError> {
        let mut segments = Vec::new();
        let mut free = 0;
        // Runs that share a block with the one before are left out, which
        // spares this the work of a pack.
        for run in member.runs.iter().filter(|run| run.len < 1 << 40) {
            if run.offset < free {
                continue;
            }
            free = (run.offset + run.len).next_multiple_of(PACK_BLOCK);
            let in_block = run.offset % PACK_BLOCK;
            segments.push(Segment {
                file_offset: run.offset,
                pack_offset: self.pack_len + in_block,
                len: run.len,
            });
            self.pack_len += (in_block + run.len).next_multiple_of(PACK_BLOCK);
        }
        self.members.push((member.clone(), segments));
        Ok(())
    }

    fn data(&mut self, _: &[u8]) -> Result<(), TarError> {
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let mut layers = vec![Vec::new()];
    for block in input.chunks(512).take(2000) {
        match (block.starts_with(NEXT), layers.last_mut()) {
            (true, _) => layers.push(Vec::new()),
            (false, Some(tar)) => tar.extend_from_slice(block),
            (false, None) => {}
        }
    }
    let layers: Vec<Layer> = layers.into_iter().take(8).map(read).collect();
    let sources = layers.iter().enumerate().map(|(n, layer)| Source {
        kind: SourceKind::Pack {
            diff_id: format!("sha256:{n:064}"),
        },
        path: "/nowhere".into(),
        len: layer.pack_len,
    });
    let mut tree = Tree::new(sources.collect());
    for (layer, id) in layers.iter().zip(0..) {
        let entries: Vec<_> = layer.members.iter().map(entry).collect();
        if tree.apply_layer(SourceId(id), entries).is_err() {
            return;
        }
    }
    let size = Size::MinimalPlusFree(1 << 20);
    let options = Options::new(size, [1; 16], [2; 16], Timestamp::default());
    let Ok(formatted) = ext4::format(&tree, &options) else {
        return;
    };
    let mut end = 0;
    for extent in &formatted.volume.extents {
        assert!(extent.start >= end && extent.end() > extent.start);
        end = extent.end();
        if let Content::Source { id, offset } = &extent.content {
            let len = end - extent.start;
            assert!(offset + len <= tree.sources()[id.0 as usize].len);
        }
    }
    assert!(end <= formatted.volume.size);
    let superblock = bytes(&formatted.volume.extents, 0, 2048);
    let summary = ext4::read_superblock(&superblock).unwrap();
    assert_eq!(summary.size(), formatted.stats.size);
    // What was said to be the smallest size is one.
    let exact = Size::Exact(formatted.stats.minimum_size);
    let smallest = ext4::format(
        &tree,
        &Options {
            size: exact,
            ..options
        },
    )
    .unwrap();
    assert_eq!(smallest.stats.minimum_size, formatted.stats.minimum_size);
});

fn read(mut tar: Vec<u8>) -> Layer {
    seal_tar(&mut tar);
    let mut layer = Layer::default();
    let limits = Limits {
        max_entries: 500,
        max_sparse_segments: 1000,
        ..Limits::default()
    };
    // What came before an error is a layer, too.
    let _ = Reader::new(limits).feed(&tar, &mut layer);
    layer
}

fn entry((member, segments): &(Member, Vec<Segment>)) -> Entry<'_> {
    let target = member.target.as_slice();
    let kind = match member.kind {
        MemberKind::Regular => EntryKind::Regular {
            size: member.size,
            segments: segments.clone(),
        },
        MemberKind::Directory => EntryKind::Directory,
        MemberKind::Symlink => EntryKind::Symlink { target },
        MemberKind::Hardlink => EntryKind::Hardlink { target },
        MemberKind::CharDevice { major, minor } => EntryKind::CharDevice { major, minor },
        MemberKind::BlockDevice { major, minor } => EntryKind::BlockDevice { major, minor },
        MemberKind::Fifo => EntryKind::Fifo,
    };
    let xattrs = member.xattrs.iter();
    Entry {
        path: &member.path,
        kind,
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs: xattrs.map(|(n, v)| (n.as_slice(), v.as_slice())).collect(),
    }
}

/// Bytes of a volume, as far as they are literals.
fn bytes(extents: &[Extent], start: usize, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    for extent in extents
        .iter()
        .take_while(|e| e.start < (start + len) as u64)
    {
        if let Content::Literal(literal) = &extent.content {
            for (at, byte) in (extent.start as usize..).zip(literal.iter()) {
                if let Some(place) = at.checked_sub(start).and_then(|at| out.get_mut(at)) {
                    *place = *byte;
                }
            }
        }
    }
    out
}
