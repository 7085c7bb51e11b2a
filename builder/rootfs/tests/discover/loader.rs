//! Boot Loader Specification: entries and unified kernel images.

use std::fs;

use bootwright_disk::gpt::types;
use bootwright_disk::{ReadAt as _, SourceReader};
use bootwright_rootfs::boot::Architecture;
use bootwright_rootfs::boot::discover::{Source, discover};
use bootwright_rootfs::boot::uki::{self, NewSection};
use bootwright_rootfs::tree::{FileContent, Inode, Timestamp, Tree};

use crate::workshop::{ext4, fat, gpt_disk, kernel};

const X86: Architecture = Architecture::X86_64;

#[test]
fn entries_are_in_the_order_of_the_specification() {
    let entry = |linux: &str, more: &str| {
        format!("title T\n{more}\nlinux /{linux}\ninitrd /i1\ninitrd /i2\noptions a\noptions b=c\n")
    };
    let (new, old) = (entry("new", "version 6.12"), entry("old", "version 6.1"));
    let (arm, gone) = (entry("new", "architecture aa64"), entry("gone", ""));
    let (new_kernel, old_kernel) = (kernel("new"), kernel("old"));
    let disk = gpt_disk(vec![(
        types::ESP,
        fat(&[
            ("loader/entries/a-6.1.conf", old.as_bytes()),
            ("loader/entries/a-6.12.conf", new.as_bytes()),
            // Given up by boot counting, newer or not.
            ("loader/entries/a-6.13+0-3.conf", new.as_bytes()),
            ("loader/entries/arm.conf", arm.as_bytes()),
            ("loader/entries/gone.conf", gone.as_bytes()),
            ("new", &new_kernel),
            ("old", &old_kernel),
            ("i1", b"one!!"),
            ("i2", b"two"),
        ]),
    )]);
    let mut found = discover(disk, X86).unwrap();
    let ids: Vec<_> = found.entries.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["a-6.12", "a-6.1", "a-6.13"]);
    let notes = found.notes.join("\n");
    assert!(notes.contains("it is for aa64"), "{notes}");
    assert!(notes.contains("/gone is not there"), "{notes}");

    let entry = found.default_entry().unwrap().clone();
    assert_eq!(entry.source, Source::LoaderEntry);
    let payload = found.load(&entry).unwrap();
    assert_eq!(payload.kernel, new_kernel);
    assert_eq!(payload.initrd, b"one!!\0\0\0two");
    assert_eq!(payload.command_line, "a b=c");
}

#[test]
fn both_boot_partitions_count_and_loader_conf_chooses() {
    let (a, b) = (kernel("a"), kernel("b"));
    let disk = gpt_disk(vec![
        (
            types::ESP,
            fat(&[
                ("loader/loader.conf", b"timeout 3\ndefault B-*\n"),
                ("loader/entries/z.conf", b"linux /a\n"),
                ("a", &a),
            ]),
        ),
        (
            types::XBOOTLDR,
            ext4(&[
                ("loader/entries/b-1.conf", b"linux /vmlinuz\n"),
                ("vmlinuz", b"-> real/vmlinuz"),
                ("real/vmlinuz", &b),
            ]),
        ),
    ]);
    let mut found = discover(disk, X86).unwrap();
    assert_eq!(found.entries.len(), 2);
    let entry = found.default_entry().unwrap().clone();
    assert_eq!((entry.id.as_str(), found.default), ("b-1", 1));
    assert_eq!(found.load(&entry).unwrap().kernel, b);
}

/// A unified kernel image around this kernel, of Debian's stub.
fn unified(linux: &[u8]) -> Vec<u8> {
    let path = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
    let stub = fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}; install systemd-boot-efi"));
    let new = |name, bytes: &[u8]| NewSection {
        name,
        content: FileContent::literal(bytes.to_vec()),
    };
    let sections = vec![
        new(".osrel", b"ID=acme\nPRETTY_NAME=Acme\nVERSION_ID=7\n"),
        new(".cmdline", b"root=LABEL=x quiet\n\0"),
        new(".initrd", b"the initrd"),
        new(".linux", linux),
    ];
    let content = uki::compose(&stub, sections, 0).unwrap();
    let mut tree = Tree::new(Vec::new());
    let inode = Inode::file(content, 0o644, Timestamp::default());
    let id = tree.insert(tree.root(), b"uki", inode).unwrap();
    tree.read(id, 1 << 30, &SourceReader::new(Vec::new()))
        .unwrap()
}

#[test]
fn a_unified_kernel_image_gives_its_parts() {
    let linux = kernel("inside");
    let image = unified(&linux);
    let disk = gpt_disk(vec![(
        types::ESP,
        fat(&[
            ("EFI/Linux/acme-7+3-1.efi", &image),
            ("EFI/Linux/broken.efi", b"MZ"),
            // A type #1 entry that starts one.
            (
                "loader/entries/other.conf",
                b"efi /EFI/Other.efi\noptions mine\n",
            ),
            ("EFI/Other.efi", &image),
        ]),
    )]);
    assert!(disk.size() > 0);
    let mut found = discover(disk, X86).unwrap();
    let entry = found.find("acme-7").unwrap().clone();
    assert_eq!(entry.title.as_deref(), Some("Acme"));
    assert_eq!(entry.source, Source::Unified);
    let payload = found.load(&entry).unwrap();
    assert_eq!(payload.kernel, linux);
    assert_eq!(payload.initrd, b"the initrd");
    assert_eq!(payload.command_line, "root=LABEL=x quiet");
    let other = found.find("other").unwrap().clone();
    let payload = found.load(&other).unwrap();
    assert_eq!(
        (payload.kernel, payload.command_line),
        (linux, "mine".into())
    );
    assert!(found.notes.iter().any(|n| n.contains("broken.efi")));
}

#[test]
fn a_kernel_for_another_machine_is_refused_by_name() {
    let mut arm = vec![0; 0x400];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let disk = gpt_disk(vec![(
        types::ESP,
        fat(&[("loader/entries/a.conf", b"linux /arm\n"), ("arm", &arm)]),
    )]);
    let mut found = discover(disk, X86).unwrap();
    let entry = found.default_entry().unwrap().clone();
    let error = found.load(&entry).unwrap_err().to_string();
    assert!(error.contains("64-bit ARM"), "{error}");
}
