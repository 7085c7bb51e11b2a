//! The file system with images and disks that guests in L1 boot.
//!
//! What an ordinary host has on its own disk, L1 has on this one: the demo's
//! image with its layers in a store, the disk that `bootwright build` makes of
//! it, and a disk of somebody else's; for pods, also what a node would have.
//! Beside it there is the disk that was made, whose root file system holds the
//! image's files as an image volume does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::assets::Lab;
use super::{foreign, initramfs, pod};
use crate::{image, paths, proc};

/// The size of the file system; most of it stays empty.
const SIZE: &str = "4G";

/// Makes it, with or without pods; returns the values of QEMU's option `-drive`
/// that show both disks. Nothing that L1 writes there lasts.
pub(super) fn make(lab: &Lab, pods: bool) -> Result<Vec<String>> {
    let stage = lab.dir.join("disk");
    stage_image(&stage)?;
    let at = |name: &str| stage.join(name);
    let sh = Shell::new()?;
    sh.change_dir(&stage);
    let binary = &lab.binary;
    // The store has the layers from now on: L1 would take minutes.
    proc::read(cmd!(
        sh,
        "{binary} build oci:image:debian --store store --quiet --force --format qcow2
         --output debian.qcow2 --size 4G --hostname lab
         --karg systemd.default_timeout_start_sec=300
         --karg systemd.default_device_timeout_sec=300"
    ))
    .context("cannot build the disk")?;
    let empty = at("empty.qcow2");
    proc::read(cmd!(sh, "qemu-img create -q -f qcow2 {empty} 64M"))?;
    let initrd = lab.dir.join("foreign.initrd");
    fs::write(&initrd, initramfs::l2(lab, &lab.bookworm)?)?;
    foreign::make(lab, &initrd, &at("foreign.raw"))?;
    match pods {
        true => pod::stage(lab, &stage)?,
        false => drop(fs::remove_dir_all(at("pods"))),
    }
    let disk = lab.dir.join("disk.img");
    let _ = fs::remove_file(&disk);
    proc::read(cmd!(sh, "mke2fs -q -t ext4 -d {stage} {disk} {SIZE}"))?;
    let shown = [("raw", disk), ("qcow2", at("debian.qcow2"))];
    let drive = |(format, file): (&str, PathBuf)| {
        let file = file.display();
        format!("if=virtio,format={format},snapshot=on,file={file}")
    };
    Ok(shown.map(drive).into())
}

/// Copies the image unless it is there; a store of another image goes.
fn stage_image(stage: &Path) -> Result<()> {
    let image = image::debian()?;
    let (from, to) = (&image.layout, stage.join("image"));
    let index = |dir: &Path| -> Option<Vec<u8>> { fs::read(dir.join("index.json")).ok() };
    if index(&to).is_some() && index(&to) == index(from) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(stage);
    fs::create_dir_all(stage)?;
    let sh = Shell::new()?;
    let temporary: PathBuf = paths::product("lab").join("disk/image.new");
    proc::read(cmd!(sh, "cp --recursive --reflink=auto {from} {temporary}"))?;
    Ok(fs::rename(&temporary, &to)?)
}
