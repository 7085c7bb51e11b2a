//! Kernels without any configuration: disks whose builder left booting to the
//! launcher.

use super::partitions::Purpose;
use super::volume::Volume;
use super::{Entry, Found, Source};
use crate::boot::version::{self, insert_descending};

/// The kernels of a root file system, newest first, with the initramfs that
/// belongs to each. The root file system is the one that the kernel is in.
pub(super) fn find(volumes: &[Volume], found: &mut Found) {
    let mut order: Vec<usize> = (0..volumes.len()).collect();
    // One that says it is the root file system comes first.
    order.sort_by_key(|&n| {
        volumes
            .get(n)
            .is_none_or(|v| v.partition.purpose != Purpose::Root)
    });
    for number in order {
        let Some(volume) = volumes.get(number).filter(|v| !v.is_fat()) else {
            continue;
        };
        let mut kernels: Vec<(String, String)> = Vec::new();
        let mut add = |version: &str, path: String| {
            if volume.file_len(&path).is_some_and(|len| len > 0)
                && kernels.iter().all(|(v, _)| v != version)
            {
                insert_descending(&mut kernels, (version.to_owned(), path), |a, b| {
                    version::compare(a.0.as_bytes(), b.0.as_bytes())
                });
            }
        };
        for version in volume.names("/usr/lib/modules") {
            add(&version, format!("/usr/lib/modules/{version}/vmlinuz"));
        }
        for name in volume.names("/boot") {
            for prefix in ["vmlinuz-", "vmlinux-"] {
                if let Some(version) = name.strip_prefix(prefix) {
                    add(version, format!("/boot/{name}"));
                }
            }
        }
        let root = match (&volume.partition.partuuid, &volume.uuid) {
            (Some(id), _) => format!("root=PARTUUID={id} rw"),
            (None, Some(id)) => format!("root=UUID={id} rw"),
            (None, None) => continue,
        };
        for (version, path) in kernels {
            found.entries.push(Entry {
                id: format!("kernel-{version}"),
                title: Some(format!("Linux {version}")),
                place: format!("{}, {path}", volume.partition.name),
                source: Source::Kernel,
                initrd: initrd(volume, &version).into_iter().collect(),
                kernel: path,
                command_line: root.clone(),
                version: Some(version),
                volume: number,
            });
        }
        if !found.entries.is_empty() {
            return;
        }
    }
}

fn initrd(volume: &Volume, version: &str) -> Option<String> {
    [
        format!("/usr/lib/modules/{version}/initramfs.img"),
        format!("/usr/lib/modules/{version}/initrd"),
        format!("/boot/initrd.img-{version}"),
        format!("/boot/initramfs-{version}.img"),
        format!("/boot/initrd-{version}"),
        format!("/boot/initramfs-{version}"),
    ]
    .into_iter()
    .find(|path| volume.file_len(path).is_some_and(|len| len > 0))
}
