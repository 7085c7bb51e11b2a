use std::fs;
use std::io::Read;

use proptest::prelude::*;

use super::*;

/// Writes the archive that `fill` makes and reads its headers.
fn index(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Result<TarIndex, SourceError> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    index_bytes(&tar.into_inner().unwrap())
}

fn index_bytes(bytes: &[u8]) -> Result<TarIndex, SourceError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    TarIndex::open(file.path())
}

fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).unwrap();
}

fn link(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    tar.append_link(&mut header, name, target).unwrap();
}

/// Adds a member with a name as it is, valid or not.
fn add_raw(tar: &mut tar::Builder<Vec<u8>>, name: &[u8], kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

fn content(index: &TarIndex, name: &str) -> String {
    let mut text = String::new();
    index.file(name).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn files_are_found_by_name_and_through_links() {
    use tar::EntryType::{Link, Symlink};
    let long = "d/".repeat(100) + "file";
    let index = index(|tar| {
        add(tar, "./a", b"a");
        add(tar, &long, b"long");
        add(tar, "dir/b", b"b");
        add(tar, "twice", b"old");
        add(tar, "twice", b"new");
        link(tar, Symlink, "dir/sym", "../a");
        link(tar, Symlink, "other/sym", "../dir/sym");
        link(tar, Symlink, "absolute", "/dir/b");
        link(tar, Link, "hard", "dir/b");
        tar.append_pax_extensions([("path", b"by/pax".as_slice())])
            .unwrap();
        add_raw(tar, b"short", tar::EntryType::Regular, b"pax");
    })
    .unwrap();
    for (name, text) in [
        ("a", "a"),
        (&long, "long"),
        ("twice", "new"),
        ("dir/sym", "a"),
        ("other/sym", "a"),
        ("absolute", "b"),
        ("hard", "b"),
        ("by/pax", "pax"),
        ("dir/../a", "a"),
    ] {
        assert_eq!(content(&index, name), text, "{name}");
    }
    assert!(index.contains("a") && !index.contains("b") && !index.contains("short"));
}

#[test]
fn what_leads_out_or_in_circles_is_not_found() {
    use tar::EntryType::Symlink;
    let index = index(|tar| {
        add_raw(tar, b"../escape", tar::EntryType::Regular, b"x");
        link(tar, Symlink, "out", "../../etc/passwd");
        link(tar, Symlink, "one", "two");
        link(tar, Symlink, "two", "one");
        link(tar, Symlink, "lost", "nowhere");
        add(tar, "a", b"a");
    })
    .unwrap();
    for (name, part) in [
        ("../escape", "no ../escape"),
        ("escape", "no escape"),
        ("out", "no out"),
        ("/etc/passwd", "no /etc/passwd"),
        ("one", "leads nowhere"),
        ("lost", "no lost"),
        ("", "no  in it"),
    ] {
        let error = index.file(name).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
}

#[test]
fn archives_that_are_broken_are_refused() {
    let mut good = tar::Builder::new(Vec::new());
    add(&mut good, "a", &[7; 2000]);
    add(&mut good, "b", b"b");
    let good = good.into_inner().unwrap();
    let changed = |at: usize, with: u8| {
        let mut bytes = good.clone();
        bytes[at] = with;
        bytes
    };
    for (bytes, part) in [
        (vec![], "empty"),
        (vec![0; 1024], "empty"),
        (b"hello".to_vec(), "no tar archive"),
        (changed(0, b'x'), "no tar archive"),
        (changed(512 + 2048, b'x'), "corrupt tar header at byte 2560"),
        (good[..1500].to_vec(), "cut short"),
        (good[..2700].to_vec(), "cut short"),
        (
            [&[0x1f, 0x8b], &[0; 600][..]].concat(),
            "compressed with gzip",
        ),
    ] {
        let error = index_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
    // The end marker is often missing, and no harm.
    assert!(index_bytes(&good[..512 + 2048 + 1024]).is_ok());

    let error = index(|tar| {
        let size = 1 << 20;
        add_raw(tar, b"pax", tar::EntryType::XHeader, &vec![b'x'; size]);
    });
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("extended header of 1048576 bytes")
    );
    let error = index(|tar| {
        tar.append_pax_extensions([("size", b"99999999999".as_slice())])
            .unwrap();
        add_raw(tar, b"a", tar::EntryType::Regular, b"a");
    });
    assert!(error.unwrap_err().to_string().contains("cut short"));
    let error = index(|tar| add_raw(tar, b"s", tar::EntryType::GNUSparse, b""));
    assert!(error.unwrap_err().to_string().contains("sparse"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        valid in any::<bool>(),
    ) {
        if valid && bytes.len() >= 512 {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[..512]);
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
        }
        let _ = index_bytes(&bytes);
    }
}
