//! Disks of the Debian image before the programs that own the formats, and
//! its root file system before another program's idea of the image.

mod tree;

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::image::Image;
use crate::{paths, proc};

/// Partition type GUIDs: UEFI 2.10 table 5-7 and the Discoverable Partitions
/// Specification (UAPI.2).
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const ROOT_X86_64: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// Bytes in a sector of the partition table.
const SECTOR: u64 = 512;

/// Builds the disks and has them all judged.
pub(crate) fn run(image: &Image, binary: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("comparing owners and devices takes root: unpacking and a read-only mount");
    }
    let dir = paths::product("referees");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let sh = Shell::new()?;
    sh.change_dir(&dir);
    let reference = &image.reference;
    for (name, options) in [
        ("disk.raw", &["raw"][..]),
        ("plain.qcow2", &["qcow2"]),
        ("zstd.qcow2", &["qcow2", "--compress", "zstd"]),
        ("disk.vmdk", &["vmdk"]),
        ("disk.vhd", &["vhd"]),
        ("fixed.vhd", &["vhd-fixed"]),
        ("disk.vhdx", &["vhdx"]),
    ] {
        proc::run(cmd!(
            sh,
            "{binary} build {reference} -o {name} --format {options...} --store store --quiet"
        ))?;
    }
    let raw = dir.join("disk.raw");
    for (name, kind) in [
        ("plain.qcow2", "qcow2"),
        ("zstd.qcow2", "qcow2"),
        ("disk.vmdk", "vmdk"),
        ("disk.vhd", "vpc"),
        ("fixed.vhd", "vpc"),
        ("disk.vhdx", "vhdx"),
    ] {
        // QEMU has no check for VHD.
        if kind != "vpc" {
            proc::run(cmd!(sh, "qemu-img check -f {kind} {name}"))?;
        }
        proc::run(cmd!(
            sh,
            "qemu-img compare --force-share -f raw -F {kind} {raw} {name}"
        ))?;
    }
    let partitions = partitions(&sh, &raw)?;
    cut(&raw, find(&partitions, ESP)?, &dir.join("esp.img"))?;
    proc::run(cmd!(sh, "fsck.fat -n esp.img"))?;
    let root = find(&partitions, ROOT_X86_64)?;
    let root_device = format!("disk.raw?offset={}", root.start);
    proc::run(cmd!(sh, "e2fsck -f -n {root_device}"))?;

    let layout = reference.trim_start_matches("oci:");
    proc::run(cmd!(sh, "umoci unpack --image {layout} bundle"))?;
    let mount = Mount::new(&raw, root.start, dir.join("root"))?;
    let compared = tree::compare(&dir.join("bundle/rootfs"), &mount.0)?;
    eprintln!("{compared} entries of the root file system are as the image says, and no others");
    drop(mount);
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A partition as sfdisk sees it.
#[derive(Debug)]
struct Partition {
    kind: String,
    /// First byte.
    start: u64,
    /// Bytes.
    len: u64,
}

/// The partitions of `disk`, after sgdisk has found no fault in them.
fn partitions(sh: &Shell, disk: &Path) -> Result<Vec<Partition>> {
    // sgdisk's exit status is 0 whatever it finds.
    let verdict = proc::read(cmd!(sh, "sgdisk --verify {disk}"))?;
    if !verdict.contains("No problems found") {
        bail!("sgdisk --verify:\n{verdict}");
    }
    let json = proc::read(cmd!(sh, "sfdisk --json {disk}"))?;
    let table: serde_json::Value = serde_json::from_str(&json)?;
    let list = table["partitiontable"]["partitions"]
        .as_array()
        .context("no partitions")?;
    let parse = |p: &serde_json::Value| -> Option<Partition> {
        Some(Partition {
            kind: p["type"].as_str()?.to_owned(),
            start: p["start"].as_u64()? * SECTOR,
            len: p["size"].as_u64()? * SECTOR,
        })
    };
    list.iter()
        .map(|p| parse(p).with_context(|| format!("strange partition: {p}")))
        .collect()
}

fn find<'a>(partitions: &'a [Partition], kind: &str) -> Result<&'a Partition> {
    partitions
        .iter()
        .find(|p| p.kind == kind)
        .with_context(|| format!("no partition of type {kind} among {partitions:?}"))
}

/// Copies a range of a file to a file of its own.
fn cut(disk: &Path, partition: &Partition, to: &Path) -> Result<()> {
    let mut from = fs::File::open(disk)?;
    from.seek(SeekFrom::Start(partition.start))?;
    let copied = io::copy(&mut from.take(partition.len), &mut fs::File::create(to)?)?;
    if copied != partition.len {
        bail!("{} ends inside {partition:?}", disk.display());
    }
    Ok(())
}

/// A file system in a file, mounted read-only. Dropped, it is unmounted.
struct Mount(PathBuf);

impl Mount {
    fn new(disk: &Path, start: u64, at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        let sh = Shell::new()?;
        let options = format!("loop,ro,noload,offset={start}");
        proc::run(cmd!(sh, "mount -t ext4 -o {options} {disk} {at}"))?;
        Ok(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Not through `proc`: this must also happen after an interrupt.
        let status = Command::new("umount").arg(&self.0).status();
        if !status.is_ok_and(|s| s.success()) {
            eprintln!("cannot unmount {}", self.0.display());
        }
    }
}
