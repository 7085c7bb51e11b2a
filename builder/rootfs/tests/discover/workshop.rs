//! Disks as others make them: FAT and ext4 file systems (the latter by
//! mke2fs) in a GPT, an MBR, or alone.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bootwright_disk::gpt::{self, NewPartition, types};
use bootwright_disk::{Extent, PlanBuilder, PlanReader, ReadAt};
use bootwright_image::Timestamp;
use bootwright_rootfs::fat::{self, FatFile};
use bootwright_rootfs::tree::FileContent;
use uuid::Uuid;

/// UUID of the ext4 file systems.
pub(crate) const ROOT: &str = "11111111-2222-4333-8444-555555555555";

/// What a file system holds: paths and contents.
pub(crate) type Files<'a> = &'a [(&'a str, &'a [u8])];

/// Something that passes for an x86 kernel, told apart by `name`.
pub(crate) fn kernel(name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes.extend(name.as_bytes());
    bytes
}

/// A FAT32 volume.
pub(crate) fn fat(files: Files<'_>) -> (u64, Vec<Extent>) {
    let files: Vec<FatFile> = files
        .iter()
        .map(|(path, content)| FatFile {
            path: (*path).to_owned(),
            content: FileContent::literal(content.to_vec()),
        })
        .collect();
    let volume = fat::format(
        &files,
        &fat::Options {
            size: Some(fat::MIN_SIZE),
            volume_id: 0x1234_5678,
            label: String::new(),
            time: Timestamp::default(),
        },
    )
    .unwrap();
    (volume.size, volume.extents)
}

/// An ext4 file system that mke2fs made; a content of `-> TARGET` is a
/// symbolic link.
pub(crate) fn ext4(files: Files<'_>) -> (u64, Vec<Extent>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix(b"-> ") {
            Some(target) => {
                let target = std::str::from_utf8(target).unwrap();
                std::os::unix::fs::symlink(target, path).unwrap();
            }
            None => fs::write(path, content).unwrap(),
        }
    }
    let image = dir.path().join("image");
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-U", ROOT, "-d"])
        .args([&root, &image])
        .arg("8M"));
    whole(&image)
}

fn whole(image: &Path) -> (u64, Vec<Extent>) {
    let bytes = fs::read(image).unwrap();
    (bytes.len() as u64, vec![Extent::literal(0, bytes)])
}

fn run(command: &mut Command) {
    let output = command
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; the tests need e2fsprogs"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// A GPT disk of volumes with their partition types.
pub(crate) fn gpt_disk(volumes: Vec<(Uuid, (u64, Vec<Extent>))>) -> Arc<dyn ReadAt> {
    let wanted: Vec<NewPartition> = volumes
        .iter()
        .zip(1u128..)
        .map(|((type_guid, (len, _)), n)| NewPartition {
            type_guid: *type_guid,
            guid: Uuid::from_u128(n << 64 | 7),
            name: format!("p{n}"),
            len: *len,
            attributes: 0,
        })
        .collect();
    let layout = gpt::layout(
        &wanted,
        &gpt::Options {
            disk_guid: Uuid::from_u128(1),
            disk_size: None,
            alignment: gpt::ALIGNMENT,
        },
    )
    .unwrap();
    let mut plan = PlanBuilder::new(Vec::new());
    layout.extents.into_iter().for_each(|e| plan.put(e));
    for (partition, (_, (_, extents))) in layout.table.partitions.iter().zip(volumes) {
        plan.put_volume(partition.start, extents);
    }
    Arc::new(PlanReader::new(plan.finish(layout.disk_size).unwrap()))
}

/// A disk with an MBR and one partition.
pub(crate) fn mbr_disk(volume: (u64, Vec<Extent>)) -> Arc<dyn ReadAt> {
    let mut mbr = vec![0; 512];
    mbr[440..444].copy_from_slice(&0xcafe_f00du32.to_le_bytes());
    mbr[450] = 0x83;
    mbr[454..458].copy_from_slice(&2048u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&((volume.0 / 512) as u32).to_le_bytes());
    mbr[510..].copy_from_slice(b"\x55\xaa");
    let mut plan = PlanBuilder::new(Vec::new());
    plan.put(Extent::literal(0, mbr));
    plan.put_volume(1 << 20, volume.1);
    Arc::new(PlanReader::new(plan.finish((1 << 20) + volume.0).unwrap()))
}

/// A disk that is one file system.
pub(crate) fn bare_disk(volume: (u64, Vec<Extent>)) -> Arc<dyn ReadAt> {
    let mut plan = PlanBuilder::new(Vec::new());
    plan.put_volume(0, volume.1);
    Arc::new(PlanReader::new(plan.finish(volume.0).unwrap()))
}

/// The type of a Linux partition with no purpose.
pub(crate) const LINUX: Uuid = types::LINUX_GENERIC;
