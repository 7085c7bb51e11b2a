//! FAT volumes against independent implementations: fsck.fat, mtools and the
//! `fatfs` crate.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootwright_disk::{Content, Extent, SourceId};
use bootwright_image::Timestamp;
use bootwright_rootfs::fat::{self, DEFAULT_SIZE, FatError, FatFile, MIN_SIZE, Options};
use bootwright_rootfs::tree::FileContent;
use bootwright_rootfs::volume::Volume;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn options(size: Option<u64>) -> Options {
    Options {
        size,
        volume_id: 0xabcd_ef01,
        label: "esp".into(),
        time: Timestamp {
            secs: 1_741_171_811, // 2025-03-05T10:50:11Z
            nanos: 0,
        },
    }
}

/// Bytes that differ from block to block and from source to source.
fn source(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i / 7 + i * 31 + seed * 131) as u8)
        .collect()
}

/// A file whose bytes are those of source `seed`, in two extents.
fn file(path: &str, seed: usize, len: usize) -> FatFile {
    let id = SourceId(seed as u32);
    let (half, len) = (len as u64 / 2, len as u64);
    let parts = [(0, half), (half, len - half)];
    let extents = parts
        .into_iter()
        .filter(|(_, len)| *len > 0)
        .map(|(start, len)| Extent::source(start, len, id, start))
        .collect();
    FatFile {
        path: path.into(),
        content: FileContent { size: len, extents },
    }
}

fn literal(path: &str, bytes: &[u8]) -> FatFile {
    FatFile {
        path: path.into(),
        content: FileContent {
            size: bytes.len() as u64,
            extents: vec![Extent::literal(0, bytes.to_vec())],
        },
    }
}

/// A file that is one hole.
fn hole(path: &str, size: u64) -> FatFile {
    FatFile {
        path: path.into(),
        content: FileContent {
            size,
            extents: Vec::new(),
        },
    }
}

/// Gives all runs of bytes to `put`.
fn for_each_run(extents: &[Extent], mut put: impl FnMut(u64, &[u8])) {
    for extent in extents {
        match &extent.content {
            Content::Literal(bytes) => put(extent.start, bytes),
            Content::Source { id, offset } => {
                let all = source(id.0 as usize, (offset + extent.len) as usize);
                put(extent.start, &all[*offset as usize..]);
            }
        }
    }
}

fn write(path: &Path, volume: &Volume) {
    let file = File::create(path).unwrap();
    file.set_len(volume.size).unwrap();
    for_each_run(&volume.extents, |at, bytes| {
        file.write_all_at(bytes, at).unwrap();
    });
}

fn in_memory(size: u64, extents: &[Extent]) -> Vec<u8> {
    let mut out = vec![0; size as usize];
    for_each_run(extents, |at, bytes| {
        out[at as usize..][..bytes.len()].copy_from_slice(bytes);
    });
    out
}

/// Standard output of a tool that must succeed.
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Names and bytes below a directory of the host.
fn files_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            found.insert(name.to_owned(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Names and bytes that the `fatfs` crate finds.
fn files_by_fatfs(image: Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    let fs = fatfs::FileSystem::new(Cursor::new(image), fatfs::FsOptions::new()).unwrap();
    assert_eq!(fs.fat_type(), fatfs::FatType::Fat32);
    assert_eq!(fs.volume_id(), 0xabcd_ef01);
    let mut found = BTreeMap::new();
    let mut left = vec![(String::new(), fs.root_dir())];
    while let Some((prefix, dir)) = left.pop() {
        for entry in dir.iter() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name());
            if entry.is_file() {
                let mut bytes = Vec::new();
                entry.to_file().read_to_end(&mut bytes).unwrap();
                found.insert(path, bytes);
            } else if entry.file_name() != "." && entry.file_name() != ".." {
                left.push((path + "/", entry.to_dir()));
            }
        }
    }
    found
}

fn usual() -> Vec<FatFile> {
    vec![
        file("EFI/BOOT/BOOTX64.EFI", 1, 123_456),
        file("EFI/systemd/systemd-bootx64.efi", 1, 123_456),
        file("EFI/Linux/6.12.0-1-amd64.efi", 2, 3 * 1024 * 1024 + 1),
        literal("loader/loader.conf", b"timeout 3\n"),
        literal(
            "loader/entries/debian with a long name 1.conf",
            b"title x\n",
        ),
        literal(
            "loader/entries/debian with a long name 2.conf",
            b"title y\n",
        ),
        literal("loader/entries.srel", b"type1\n"),
        hole("empty", 0),
        hole("hole", 5000),
        literal("exactly13chrs", b"13"),
        literal("Gr\u{fc}\u{df}e \u{65e5}\u{672c}.txt", b"hello"),
        file("cluster", 3, 4096),
        file("cluster+1", 4, 4097),
    ]
}

fn expected(files: &[FatFile]) -> BTreeMap<String, Vec<u8>> {
    files
        .iter()
        .map(|FatFile { path, content }| (path.clone(), in_memory(content.size, &content.extents)))
        .collect()
}

#[test]
fn fsck_and_mtools_and_fatfs_agree_with_what_was_put_in() {
    let dir = tempfile::tempdir().unwrap();
    for mib in [33, 67, 200, 512] {
        let image = dir.path().join("esp");
        let files = usual();
        let volume = fat::format(&files, &options(Some(mib * MIB))).unwrap();
        write(&image, &volume);
        let image = image.to_str().unwrap();

        let verdict = tool("fsck.fat", &["-nv", image]);
        assert!(!verdict.contains("wrong"), "{mib} MiB: {verdict}");

        let copy = dir.path().join(format!("copy{mib}"));
        fs::create_dir(&copy).unwrap();
        tool("mcopy", &["-snQi", image, "::/", copy.to_str().unwrap()]);
        assert_eq!(files_below(&copy), expected(&files), "{mib} MiB");
        assert_eq!(files_by_fatfs(fs::read(image).unwrap()), expected(&files));

        let listing = tool("mdir", &["-i", image, "::/loader/entries"]);
        for line in [
            "DEBIAN~1 CON         8 2025-03-05  10:50",
            "is ESP",
            "ABCD-EF01",
        ] {
            assert!(listing.contains(line), "{line} is not in {listing}");
        }
    }
}

#[test]
fn large_volumes_have_large_clusters_and_stay_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp");
    for (gib, cluster) in [(8, 4096), (9, 8192), (40, 32768)] {
        let volume = fat::format(&usual(), &options(Some(gib << 30))).unwrap();
        write(&image, &volume);
        let verdict = tool("fsck.fat", &["-nv", image.to_str().unwrap()]);
        let line = format!("{cluster} bytes per cluster");
        assert!(verdict.contains(&line), "{verdict}");
        let metadata: usize = volume
            .extents
            .iter()
            .map(|e| match &e.content {
                Content::Literal(bytes) => bytes.len(),
                Content::Source { .. } => 0,
            })
            .sum();
        assert!(metadata < 64 << 10, "{metadata} bytes of metadata");
    }
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let forwards = usual();
    let mut backwards = usual();
    backwards.reverse();
    let volume = fat::format(&forwards, &options(None)).unwrap();
    assert_eq!(volume.size, DEFAULT_SIZE);
    assert_eq!(volume, fat::format(&backwards, &options(None)).unwrap());
}

#[test]
fn each_file_is_one_run_on_a_4_kib_boundary() {
    let files = [file("a", 1, 10_000), file("b", 2, 6)];
    let volume = fat::format(&files, &options(None)).unwrap();
    let runs: Vec<_> = volume
        .extents
        .iter()
        .filter(|e| matches!(e.content, Content::Source { .. }))
        .map(|e| (e.start, e.len))
        .collect();
    let a = runs[0].0;
    assert_eq!(a % 4096, 0);
    let b = a + 3 * 4096;
    assert_eq!(runs, [(a, 5000), (a + 5000, 5000), (b, 3), (b + 3, 3)]);
}

#[test]
fn the_default_size_leaves_two_thirds_free() {
    let volume = fat::format(&[hole("linux.efi", 1 << 30)], &options(None)).unwrap();
    assert!((3 << 30..4 << 30).contains(&volume.size), "{}", volume.size);
}

#[test]
fn a_directory_of_many_clusters_is_clean() {
    let files: Vec<_> = (0..3000)
        .map(|n| {
            literal(
                &format!("many/a rather long file name, number {n}.txt"),
                b"x",
            )
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp");
    write(
        &image,
        &fat::format(&files, &options(Some(40 * MIB))).unwrap(),
    );
    tool("fsck.fat", &["-n", image.to_str().unwrap()]);
    assert_eq!(files_by_fatfs(fs::read(image).unwrap()), expected(&files));

    let files: Vec<_> = (0..40_000)
        .map(|n| hole(&format!("a long name {n}"), 0))
        .collect();
    let error = fat::format(&files, &options(None)).unwrap_err();
    assert!(
        matches!(error, FatError::DirectoryTooLarge { .. }),
        "{error}"
    );
}

#[test]
fn a_full_volume_is_clean_and_one_byte_more_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp");
    let small = Options {
        label: String::new(),
        ..options(Some(MIN_SIZE))
    };
    // Clusters are sectors here: all but 32 reserved ones, two FATs of 528
    // and the root directory's.
    let clusters = MIN_SIZE / 512 - 32 - 2 * 528;
    let size = (clusters - 1) * 512;
    write(&image, &fat::format(&[hole("full", size)], &small).unwrap());
    let verdict = tool("fsck.fat", &["-n", image.to_str().unwrap()]);
    let line = format!("{clusters}/{clusters} clusters");
    assert!(verdict.contains(&line), "{line} is not in {verdict}");

    let error = fat::format(&[hole("full", size + 1)], &small).unwrap_err();
    let FatError::NoSpace { path, needed, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(path, "full");
    let enough = Options {
        size: Some(*needed),
        ..small
    };
    fat::format(&[hole("full", size + 1)], &enough).unwrap();
}

#[test]
fn what_fat_cannot_hold_is_refused_by_name() {
    let one = |path: &str| vec![literal(path, b"x")];
    let two = |a: &str, b: &str| vec![literal(a, b"x"), literal(b, b"x")];
    let cases = [
        (one(""), "\"\" cannot be a path"),
        (one("/EFI"), "\"/EFI\" cannot be a path"),
        (one("EFI//x"), "\"EFI//x\" cannot be a path"),
        (one("EFI/"), "\"EFI/\" cannot be a path"),
        (one("a/../b"), "\"a/../b\" cannot be a path"),
        (one("a:b"), "\"a:b\" cannot be a path"),
        (one(&"x/".repeat(200)), "more than 259"),
        (two("EFI/a", "EFI/A"), "\"EFI/a\" and \"EFI/A\""),
        (two("\u{e4}", "\u{c4}"), "\"\u{e4}\" and \"\u{c4}\""),
        (two("a", "a/b"), "\"a/b\" and \"a\""),
        (two("A/b", "a"), "\"a\" and \"A\""),
        (
            vec![hole("large", 1 << 32)],
            "\"large\" has 4294967296 bytes",
        ),
    ];
    for (files, message) in cases {
        let error = fat::format(&files, &options(None)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}, not {message}");
    }
    let label = Options {
        label: "too long a label".into(),
        ..options(None)
    };
    let error = fat::format(&[], &label).unwrap_err();
    assert!(matches!(error, FatError::BadLabel(_)), "{error}");
    let error = fat::format(&[], &options(Some(MIB))).unwrap_err();
    assert_eq!(error, FatError::BadSize { size: MIB });
    // Directories merge whatever the case of their names.
    assert!(fat::format(&two("EFI/a", "efi/b"), &options(None)).is_ok());
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Z0-9]{1,8}(\\.[A-Z]{1,3})?",
        "[a-zA-Z]{1,3}",
        "[a-z .+~\u{fc}\u{65e5}-]{0,30}[a-z]",
        "x{12,28}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_set_of_files_is_clean_and_comes_back(
        set in proptest::collection::btree_map(
            proptest::collection::vec(names(), 1..4),
            0usize..20_000,
            0..40,
        ),
        mib in 33u64..80,
    ) {
        let files: Vec<_> = (1..)
            .zip(&set)
            .map(|(seed, (path, &len))| file(&path.join("/"), seed, len))
            .collect();
        let volume = match fat::format(&files, &options(Some(mib * MIB))) {
            Ok(volume) => volume,
            Err(FatError::Duplicate { .. }) => return Ok(()),
            Err(error) => panic!("{error}"),
        };
        // Directories take the case of their first file in order of paths.
        let folded = |map: BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
            map.into_iter().map(|(path, bytes)| (path.to_uppercase(), bytes)).collect()
        };
        let image = in_memory(volume.size, &volume.extents);
        prop_assert_eq!(folded(files_by_fatfs(image)), folded(expected(&files)));
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("esp");
        write(&image, &volume);
        tool("fsck.fat", &["-n", image.to_str().unwrap()]);
    }
}
