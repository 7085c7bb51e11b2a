//! A unified kernel image of Debian's real stub, checked with objdump and
//! sbverify, and signed with sbsign.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use bootwright_disk::SourceReader;
use bootwright_rootfs::boot::pe;
use bootwright_rootfs::boot::uki::{self, NewSection, UkiError};
use bootwright_rootfs::tree::{FileContent, Inode, Timestamp, Tree};

const EFI: &str = "/usr/lib/systemd/boot/efi";

/// A file of the package systemd-boot-efi.
fn systemd(name: &str) -> Vec<u8> {
    fs::read(Path::new(EFI).join(name))
        .unwrap_or_else(|e| panic!("{EFI}/{name}: {e}; install systemd-boot-efi"))
}

/// Runs a command and gives its output; fails with it if the command does.
fn run(dir: &Path, line: &str) -> String {
    let mut words = line.split(' ');
    let name = words.next().unwrap();
    let output = Command::new(name)
        .args(words)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{name}: {e}; the tests need binutils, sbsigntool, openssl"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{line}: {text}");
    text
}

fn bytes_of(content: &FileContent) -> Vec<u8> {
    let mut tree = Tree::new(Vec::new());
    let inode = Inode::file(content.clone(), 0o644, Timestamp::default());
    let id = tree.insert(tree.root(), b"uki", inode).unwrap();
    tree.read(id, 1 << 30, &SourceReader::new(Vec::new()))
        .unwrap()
}

fn sections() -> Vec<NewSection> {
    // The loader stands in for a kernel: it is a signable EFI program too.
    let parts: [(&'static str, Vec<u8>); 5] = [
        (".osrel", b"ID=debian\nVERSION_ID=13\n".to_vec()),
        (".cmdline", b"root=UUID=x rw quiet".to_vec()),
        (".uname", b"6.12.9".to_vec()),
        (".initrd", vec![b'i'; 5001]),
        (".linux", systemd("systemd-bootx64.efi")),
    ];
    parts.map(|(name, bytes)| new(name, bytes)).into()
}

fn new(name: &'static str, bytes: Vec<u8>) -> NewSection {
    NewSection {
        name,
        content: FileContent::literal(bytes),
    }
}

#[test]
fn other_tools_read_the_sections_that_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let content = uki::compose(&systemd("linuxx64.efi.stub"), sections(), 0).unwrap();
    let bytes = bytes_of(&content);
    assert_eq!(bytes.len() as u64, content.size);
    fs::write(dir.path().join("uki.efi"), &bytes).unwrap();

    let listing = run(dir.path(), "objdump -h uki.efi");
    assert!(listing.contains("pei-x86-64"), "{listing}");
    let headers: Vec<Vec<&str>> = listing
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let mut end_of_last = 0;
    for section in sections() {
        let name = section.name;
        let fields = headers.iter().find(|f| f.get(1) == Some(&name));
        let fields = fields.unwrap_or_else(|| panic!("no {name} in {listing}"));
        let number = |i: usize| u64::from_str_radix(fields[i], 16).unwrap();
        let (address, offset) = (number(3), number(5));
        assert_eq!(number(2), section.content.size, "{name}");
        assert_eq!((address % 4096, offset % 512), (0, 0), "{name}");
        assert!(address >= end_of_last, "{name} overlaps in {listing}");
        end_of_last = address + section.content.size;

        run(
            dir.path(),
            &format!("objcopy --dump-section {name}=out uki.efi rewritten"),
        );
        let got = fs::read(dir.path().join("out")).unwrap();
        // objcopy gives the padding of the file, too.
        let (got, padding) = got.split_at(section.content.size as usize);
        assert!(got == bytes_of(&section.content), "{name} differs");
        assert!(padding.len() < 512 && padding.iter().all(|&b| b == 0));
    }

    let parsed = uki::parse(&bytes, bytes.len() as u64).unwrap();
    for section in sections() {
        let range = parsed.section(section.name).unwrap().range();
        let found = &bytes[range.start as usize..range.end as usize];
        assert!(found == bytes_of(&section.content));
    }
    let headers = pe::parse(&bytes, bytes.len() as u64).unwrap();
    assert_eq!((headers.symbols_offset, headers.symbols), (0, 0));
    assert!(u64::from(headers.size_of_image) >= end_of_last);
}

#[test]
fn a_signed_one_verifies_and_a_changed_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let content = uki::compose(&systemd("linuxx64.efi.stub"), sections(), 0x200_0000).unwrap();
    fs::write(dir.path().join("uki.efi"), bytes_of(&content)).unwrap();
    assert!(run(dir.path(), "sbverify --list uki.efi").contains("No signature table present"));

    run(
        dir.path(),
        "openssl req -new -x509 -newkey rsa:2048 -nodes -subj /CN=test/ -keyout key.pem -out cert.pem",
    );
    let signing = run(
        dir.path(),
        "sbsign --key key.pem --cert cert.pem --output signed.efi uki.efi",
    );
    // sbsign warns of gaps and overlaps that firmware would hash differently.
    assert!(!signing.contains("warning"), "{signing}");
    let verified = run(dir.path(), "sbverify --cert cert.pem signed.efi");
    assert!(verified.contains("Signature verification OK"), "{verified}");

    let mut signed = fs::read(dir.path().join("signed.efi")).unwrap();
    let parsed = uki::parse(&signed, signed.len() as u64).unwrap();
    assert!(parsed.signed);
    let at = parsed.section(".cmdline").unwrap().offset as usize;
    signed[at] ^= 1;
    fs::write(dir.path().join("changed.efi"), signed).unwrap();
    let status = Command::new("sbverify")
        .args(["--cert", "cert.pem", "changed.efi"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(!status.status.success());
}

#[test]
fn a_stub_takes_as_many_sections_as_it_has_room_for() {
    const NAMES: [&str; 9] = [".a", ".b", ".c", ".d", ".e", ".f", ".g", ".h", ".i"];
    let stub = systemd("linuxx64.efi.stub");
    let with = |n: usize| {
        let sections = NAMES[..n].iter().map(|name| new(name, vec![1]));
        uki::compose(&stub, sections.collect(), 0)
    };
    let Err(UkiError::NoRoom { room, needed: 9 }) = with(9) else {
        panic!("Debian's stub has grown; take more names");
    };
    assert!(room >= 5, "no room for what a UKI needs: {room}");
    let full = bytes_of(&with(room).unwrap());
    let headers = pe::parse(&full, full.len() as u64).unwrap();
    assert_eq!(headers.sections.last().unwrap().name, NAMES[room - 1]);
    assert!(with(room + 1).is_err());
}

#[test]
fn what_cannot_be_a_stub_is_refused() {
    let stub = systemd("linuxx64.efi.stub");
    let uki = bytes_of(&uki::compose(&stub, sections(), 0).unwrap());
    let patched = |at: usize, with: &[u8]| {
        let mut stub = stub.clone();
        stub[at..at + with.len()].copy_from_slice(with);
        stub
    };
    let nt = pe::parse(&stub, stub.len() as u64).unwrap().nt_offset;
    let optional = nt + 24;
    let table: [(Vec<u8>, &str); 9] = [
        (Vec::new(), "does not begin with MZ"),
        (stub[..200].to_vec(), "not a 64-bit PE file"),
        (stub[..4096].to_vec(), "lies outside the file"),
        (uki, "already has a section .osrel"),
        (
            [&stub[..], b"data"].concat(),
            "data behind its last section",
        ),
        (patched(optional, &[0x0b, 1]), "not a 64-bit PE file"),
        (patched(optional + 36, &[0, 3]), "no power of two"),
        (patched(optional + 68, &[3]), "no EFI application"),
        (patched(optional + 112 + 4 * 8, &[8]), "it is signed"),
    ];
    for (stub, message) in table {
        let error = uki::compose(&stub, sections(), 0).unwrap_err().to_string();
        assert!(error.contains(message), "{error} instead of {message}");
    }
    let huge = FileContent {
        size: 1 << 32,
        extents: Vec::new(),
    };
    let huge = vec![NewSection {
        name: ".initrd",
        content: huge,
    }];
    let error = uki::compose(&stub, huge, 0).unwrap_err().to_string();
    assert!(
        error.contains("larger than 4 GiB at section .initrd"),
        "{error}"
    );
}

proptest::proptest! {
    #[test]
    fn a_stub_with_any_headers_is_used_or_refused(
        changes in proptest::collection::vec((0usize..0x300, proptest::num::u8::ANY), 1..6),
        memory in proptest::num::u32::ANY,
    ) {
        let mut stub = systemd("linuxx64.efi.stub");
        for (at, byte) in changes {
            stub[at] = byte;
        }
        let _ = uki::parse(&stub, stub.len() as u64);
        if let Ok(content) = uki::compose(&stub, sections(), memory) {
            let bytes = bytes_of(&content);
            let parsed = uki::parse(&bytes, bytes.len() as u64).unwrap();
            proptest::prop_assert_eq!(parsed.section(".initrd").unwrap().len, 5001);
        }
    }
}
