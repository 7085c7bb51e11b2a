//! Disks with GRUB, and with nothing.

use bootwright_disk::gpt::types;
use bootwright_disk::{Extent, PlanBuilder, PlanReader};
use bootwright_rootfs::boot::Architecture;
use bootwright_rootfs::boot::discover::{Source, discover};
use std::sync::Arc;

use crate::workshop::{LINUX, ROOT, bare_disk, ext4, fat, gpt_disk, kernel, mbr_disk};

const X86: Architecture = Architecture::X86_64;

/// As grub-mkconfig writes it on a Debian cloud image, shortened.
const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
  fi
}
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'simple' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	search --no-floppy --fs-uuid --set=root 11111111-2222-4333-8444-555555555555
	echo	'Loading Linux 6.1.0 ...'
	linux	/boot/vmlinuz-6.1.0 root=PARTUUID=abc ro  console=tty0 console=ttyS0,115200
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0
}
submenu 'Advanced options' $menuentry_id_option 'advanced' {
	menuentry 'Debian, with Linux 6.1.0' $menuentry_id_option 'new' {
		linux	/boot/vmlinuz-6.1.0 root=PARTUUID=abc ro
		initrd	/boot/initrd.img-6.1.0
	}
	menuentry 'Debian, with Linux 5.10.0 (recovery mode)' $menuentry_id_option 'old' {
		linux	/boot/vmlinuz-5.10.0 root=PARTUUID=abc ro single
	}
}
if [ "$grub_platform" = "efi" ]; then
	menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
		fwsetup
	}
fi
"#;

fn debian_root(environment: &[u8]) -> (u64, Vec<Extent>) {
    ext4(&[
        ("boot/grub/grub.cfg", DEBIAN.as_bytes()),
        ("boot/grub/grubenv", environment),
        ("boot/vmlinuz-6.1.0", &kernel("6.1")),
        ("boot/vmlinuz-5.10.0", &kernel("5.10")),
        ("boot/initrd.img-6.1.0", b"initrd"),
    ])
}

#[test]
fn a_debian_cloud_image_boots_by_grubs_configuration() {
    let stub =
        b"search.fs_uuid 1111 root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n";
    let disk = gpt_disk(vec![
        (LINUX, debian_root(b"# GRUB Environment Block\n")),
        (types::ESP, fat(&[("EFI/debian/grub.cfg", stub)])),
    ]);
    let mut found = discover(disk, X86).unwrap();
    let ids: Vec<_> = found.entries.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["simple", "new", "old"]);
    let entry = found.default_entry().unwrap().clone();
    assert_eq!((entry.id.as_str(), entry.source), ("simple", Source::Grub));
    let payload = found.load(&entry).unwrap();
    assert_eq!(payload.kernel, kernel("6.1"));
    assert_eq!(payload.initrd, b"initrd");
    assert_eq!(
        payload.command_line,
        "root=PARTUUID=abc ro console=tty0 console=ttyS0,115200"
    );
    assert_eq!(
        found.find("old").unwrap().title.as_deref(),
        Some("Advanced options>Debian, with Linux 5.10.0 (recovery mode)")
    );
}

#[test]
fn grubs_environment_chooses_an_entry_of_a_submenu() {
    for (next, id) in [
        ("advanced>old", "old"),
        ("1>1", "old"),
        ("1>0", "new"),
        ("1", "new"),
        ("Debian GNU/Linux", "simple"),
        ("nonsense", "simple"),
    ] {
        let environment = format!("# GRUB Environment Block\nnext_entry={next}\n####");
        let disk = mbr_disk(debian_root(environment.as_bytes()));
        let found = discover(disk, X86).unwrap();
        assert_eq!(found.default_entry().unwrap().id, id, "{next}");
    }
}

#[test]
fn a_fedora_disk_boots_by_the_entries_that_grub_takes_in() {
    let config = "set default=\"${saved_entry}\"\nload_env\nset default=\"${saved_entry}\"\n\
        insmod blscfg\nblscfg\n";
    let environment =
        b"# GRUB Environment Block\nsaved_entry=abc-6.9\nkernelopts=root=UUID=r ro\n##";
    let entry = |version: &str| {
        format!(
            "title Fedora ({version})\nversion {version}\nlinux /vmlinuz-{version}\n\
             initrd /initramfs-{version}.img $tuned_initrd\noptions $kernelopts $tuned_params rhgb\n"
        )
    };
    let (new, old) = (entry("6.10"), entry("6.9"));
    let disk = gpt_disk(vec![
        (types::ESP, fat(&[("EFI/fedora/shim.efi", b"MZ")])),
        (
            LINUX,
            ext4(&[
                ("grub2/grub.cfg", config.as_bytes()),
                ("grub2/grubenv", environment),
                ("loader/entries/abc-6.10.conf", new.as_bytes()),
                ("loader/entries/abc-6.9.conf", old.as_bytes()),
                ("vmlinuz-6.10", &kernel("6.10")),
                ("vmlinuz-6.9", &kernel("6.9")),
                ("initramfs-6.10.img", b"new"),
                ("initramfs-6.9.img", b"old"),
            ]),
        ),
    ]);
    let mut found = discover(disk, X86).unwrap();
    let ids: Vec<_> = found.entries.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["abc-6.10", "abc-6.9"]);
    let entry = found.default_entry().unwrap().clone();
    assert_eq!(entry.id, "abc-6.9");
    let payload = found.load(&entry).unwrap();
    assert_eq!(payload.initrd, b"old");
    assert_eq!(payload.command_line, "root=UUID=r ro rhgb");
}

#[test]
fn a_disk_without_configuration_boots_its_newest_kernel() {
    let files = |root: bool| {
        ext4(&[
            ("boot/vmlinuz-6.1.0-9", &kernel("old")),
            ("boot/vmlinuz-6.1.0-38", &kernel("new")),
            ("boot/initrd.img-6.1.0-38", b"initrd"),
            ("etc/fstab", if root { b"" } else { b"#" }),
        ])
    };
    let type_guid = types::root_types("amd64").unwrap().root;
    let gpt = gpt_disk(vec![(type_guid, files(true))]);
    let guid = "00000000-0000-0001-0000-000000000007";
    for (disk, root) in [
        (gpt, format!("root=PARTUUID={guid} rw")),
        (mbr_disk(files(true)), "root=PARTUUID=cafef00d-01 rw".into()),
        (bare_disk(files(false)), format!("root=UUID={ROOT} rw")),
    ] {
        let mut found = discover(disk, X86).unwrap();
        let entry = found.default_entry().unwrap().clone();
        assert_eq!(entry.id, "kernel-6.1.0-38");
        assert_eq!(entry.source, Source::Kernel);
        let payload = found.load(&entry).unwrap();
        assert_eq!(payload.command_line, root);
        assert_eq!(payload.initrd, b"initrd");
    }
}

#[test]
fn a_disk_with_nothing_to_boot_says_where_was_looked() {
    let xfs = (
        1 << 20,
        vec![Extent::literal(0, vec![b'X', b'F', b'S', b'B'])],
    );
    let disk = gpt_disk(vec![
        (types::ESP, fat(&[("readme", b"hello")])),
        (LINUX, xfs),
        (LINUX, ext4(&[("boot/vmlinuz.txt", b"no")])),
    ]);
    let error = discover(disk, X86).unwrap_err().to_string();
    for part in [
        "nothing to boot",
        "partition 1: a FAT file system without any of these",
        "partition 2: XFS, which is not read here",
        "partition 3: a ext4",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let empty = PlanBuilder::new(Vec::new()).finish(1 << 20).unwrap();
    let error = discover(Arc::new(PlanReader::new(empty)), X86).unwrap_err();
    assert!(error.to_string().contains("the whole disk"), "{error}");
}
