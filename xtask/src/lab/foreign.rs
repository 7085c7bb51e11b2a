//! A disk as a distribution's makers build theirs for clouds.
//!
//! It is laid out as Debian's genericcloud images are: a partition for GRUB's
//! core, an EFI system partition with GRUB's stub of a configuration, and one
//! ext4 with the kernel, the initrd and what `grub-mkconfig` writes in /boot.
//! Nothing of Bootwright's has a part in making it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use xshell::{Shell, cmd};

use super::assets::Lab;
use crate::proc;

/// The root file system's UUID.
const ROOT: &str = "0b1f4a52-6c0e-4f0b-9d7e-1a2b3c4d5e6f";

/// Where the EFI system partition and the root start, in sectors.
const ESP: u64 = 8192;
const START: u64 = 262_144;

/// The root file system's size in MiB.
const MEBIBYTES: u64 = 256;

/// Runs on the disk's own root file system.
const INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox mount -t proc proc /proc\n\
    echo \"init: the disk's own root, $(/bin/busybox grep -c ext4 /proc/mounts) mounted\"\n\
    /bin/busybox poweroff -f\n";

/// What is on the EFI system partition beside GRUB itself.
const STUB: &str = "search.fs_uuid {ROOT} root\n\
    set prefix=($root)'/boot/grub'\n\
    configfile $prefix/grub.cfg\n";

/// The parts of a configuration of grub-mkconfig's that decide what is booted,
/// as version 2.06 writes them.
const CONFIGURATION: &str = r#"
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
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os $menuentry_id_option 'gnulinux-simple-{ROOT}' {
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod part_gpt
	insmod ext2
	search --no-floppy --fs-uuid --set=root {ROOT}
	echo	'Loading Linux {VERSION} ...'
	linux	/boot/vmlinuz-{VERSION} root=UUID={ROOT} ro  console=tty0 console=ttyS0,115200 consoleblank=0 quiet lab=root
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-{VERSION}
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-{ROOT}' {
	menuentry 'Debian GNU/Linux, with Linux {VERSION} (recovery mode)' --class debian {
		linux	/boot/vmlinuz-{VERSION} root=UUID={ROOT} ro single
		initrd	/boot/initrd.img-{VERSION}
	}
}
"#;

/// Makes the disk at `path` with the older kernel and `initrd`.
pub(super) fn make(lab: &Lab, initrd: &Path, path: &Path) -> Result<()> {
    let tree = lab.dir.join("foreign");
    let _ = fs::remove_dir_all(&tree);
    for folder in ["bin", "boot/grub", "dev", "proc", "sbin", "sys"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    let name = lab.bookworm.image.file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let version = name.trim_start_matches("vmlinuz-");
    let filled = |text: &str| text.replace("{ROOT}", ROOT).replace("{VERSION}", version);
    fs::copy(&lab.bookworm.image, tree.join("boot").join(&*name))?;
    fs::copy(initrd, tree.join(format!("boot/initrd.img-{version}")))?;
    fs::write(tree.join("boot/grub/grub.cfg"), filled(CONFIGURATION))?;
    fs::copy(&lab.busybox, tree.join("bin/busybox"))?;
    fs::write(tree.join("sbin/init"), INIT)?;
    for program in ["bin/busybox", "sbin/init"] {
        fs::set_permissions(tree.join(program), fs::Permissions::from_mode(0o755))?;
    }
    let stub_file = lab.dir.join("foreign.stub");
    fs::write(&stub_file, filled(STUB))?;

    let _ = fs::remove_file(path);
    fs::File::create(path)?.set_len((START * 512) + ((MEBIBYTES + 2) << 20))?;
    let sh = Shell::new()?;
    let (root, esp) = (START.to_string(), ESP.to_string());
    let root_end = START + (MEBIBYTES << 11) - 1;
    let root_end = root_end.to_string();
    let esp_end = (START - 1).to_string();
    proc::read(cmd!(
        sh,
        "sgdisk --new=1:{root}:{root_end} --typecode=1:8300 --new=14:2048:8191 --typecode=14:ef02
         --new=15:{esp}:{esp_end} --typecode=15:ef00 {path}"
    ))?;
    let kibibytes = ((START - ESP) / 2).to_string();
    proc::read(cmd!(sh, "mkfs.fat --offset {esp} -F 16 {path} {kibibytes}"))?;
    let fat = format!("{}@@{}", path.display(), ESP * 512);
    proc::read(cmd!(sh, "mmd -i {fat} ::/EFI ::/EFI/debian"))?;
    proc::read(cmd!(
        sh,
        "mcopy -i {fat} {stub_file} ::/EFI/debian/grub.cfg"
    ))?;
    let offset = format!("offset={}", START * 512);
    let size = format!("{MEBIBYTES}M");
    proc::read(cmd!(
        sh,
        "mke2fs -q -F -t ext4 -U {ROOT} -E {offset} -d {tree} {path} {size}"
    ))?;
    Ok(())
}
