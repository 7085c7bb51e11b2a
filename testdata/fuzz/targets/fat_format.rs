//! Paths, one a line, that a FAT volume is to hold: what is accepted comes
//! back.
#![no_main]

use std::collections::BTreeSet;

use bootwright_disk::{Content, Extent, SourceId};
use bootwright_fuzz::Disk;
use bootwright_image::Timestamp;
use bootwright_rootfs::fat::{self, FatFile, MIN_SIZE, Options, Reader};
use bootwright_rootfs::tree::FileContent;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let files: Vec<FatFile> = (0..)
        .zip(input.lines().take(500))
        .map(|(n, path)| FatFile {
            path: path.to_owned(),
            content: FileContent {
                size: n * 97,
                extents: Vec::from_iter((n > 0).then(|| Extent::source(0, n * 97, SourceId(0), 0))),
            },
        })
        .collect();
    let options = Options {
        size: Some(MIN_SIZE),
        volume_id: 1,
        label: "FUZZ".to_owned(),
        time: Timestamp::default(),
    };
    let Ok(volume) = fat::format(&files, &options) else {
        return;
    };
    let end = volume.extents.iter().map(Extent::end).max().unwrap_or(0);
    let mut head = vec![0; end as usize];
    for extent in &volume.extents {
        if let Content::Literal(bytes) = &extent.content {
            head[extent.start as usize..extent.end() as usize].copy_from_slice(bytes);
        }
    }
    let mut reader = Reader::open(Disk::new(&head, volume.size)).unwrap();
    let entries = reader.list().unwrap().into_iter();
    // Directories that differ in case are one, so paths may come back in
    // another case than they went in.
    let read: BTreeSet<_> = entries
        .filter(|entry| !entry.is_directory)
        .map(|entry| (entry.path.to_uppercase(), u64::from(entry.size)))
        .collect();
    let put: BTreeSet<_> = files
        .iter()
        .map(|file| (file.path.to_uppercase(), file.content.size))
        .collect();
    assert_eq!(read, put);
    for file in &files {
        let bytes = reader.read_file(&file.path, 1 << 20).unwrap();
        assert_eq!(bytes.len() as u64, file.content.size);
    }
});
