//! What a pushed disk says of itself: partitions, boot, source and options.

use std::path::Path;

use anyhow::Context as _;
use bootwright_delivery::metadata::{DiskInfo, PartitionInfo, SourceImage, VERSION};
use bootwright_disk::gpt;
use bootwright_disk::ids::Ids;
use bootwright_disk::reader::{DiskCursor, ReadAt};
use bootwright_image::Digest;
use bootwright_rootfs::assemble::Disk;
use std::collections::BTreeMap;

use crate::args::{BootMode, DEFAULT_FREE, PlanArgs};
use crate::disk::boot_info;
use crate::image::Loaded;

/// Largest key or EFI binary that is digested, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// What made the disk.
pub(super) const TOOL: &str = concat!("bootwright ", env!("CARGO_PKG_VERSION"));

/// Describes a disk that was made of an image.
pub(super) fn of_image(
    loaded: &Loaded,
    disk: &Disk,
    options: BTreeMap<String, String>,
) -> DiskInfo {
    let partitions = disk.partitions.iter().zip(1..);
    DiskInfo {
        version: VERSION,
        guid: disk.guid,
        size: disk.plan.size(),
        tool: TOOL.to_owned(),
        partitions: partitions
            .map(|(summary, number)| PartitionInfo {
                file_system: Some(summary.file_system.to_owned()),
                uuid: Some(summary.uuid.clone()),
                ..partition(number, &summary.partition)
            })
            .collect(),
        boot: Some(boot_info(disk)),
        source: Some(SourceImage {
            reference: loaded.report.reference.clone(),
            digest: loaded.report.digest.clone(),
            identity: loaded.identity.to_string(),
        }),
        options,
        layers: Vec::new(),
    }
}

/// Describes a disk that somebody made. `content` tells it from others that
/// have no partition table.
pub(super) fn of_disk(disk: &dyn ReadAt, name: &str) -> DiskInfo {
    let table = gpt::read(&mut DiskCursor::new(disk)).ok();
    let guid = table.as_ref().map(|table| table.disk_guid);
    let size = disk.size().to_le_bytes();
    let partitions = table.iter().flat_map(|table| &table.partitions).zip(1..);
    DiskInfo {
        version: VERSION,
        guid: guid
            .unwrap_or_else(|| Ids::new([b"bootwright foreign disk 1", &size[..]]).uuid("disk")),
        size: disk.size(),
        tool: TOOL.to_owned(),
        partitions: partitions
            .map(|(entry, number)| partition(number, entry))
            .collect(),
        boot: None,
        source: None,
        options: BTreeMap::from([("disk".to_owned(), name.to_owned())]),
        layers: Vec::new(),
    }
}

fn partition(number: u32, entry: &gpt::Partition) -> PartitionInfo {
    PartitionInfo {
        number,
        type_guid: entry.type_guid,
        guid: entry.guid,
        name: entry.name.clone(),
        start: entry.start,
        size: entry.len,
        file_system: None,
        uuid: None,
    }
}

/// The options that shape the disk, where they are not the defaults. Secrets
/// show as nothing but their presence, files of the host as their digest.
pub(super) fn options(args: &PlanArgs) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            all.insert(name.to_owned(), value);
        }
    };
    add("size", args.size.map(|size| size.0.to_string()));
    let free = args.free.filter(|free| *free != DEFAULT_FREE);
    add("free", free.map(|free| free.0.to_string()));
    let boot = match args.boot.boot {
        None | Some(BootMode::Auto) => None,
        Some(BootMode::Uki) => Some("uki"),
        Some(BootMode::Bls) => Some("bls"),
        Some(BootMode::None) => Some("none"),
    };
    add("boot", boot.map(str::to_owned));
    add("karg", Some(args.boot.kargs.join(" ")));
    add("karg-delete", Some(args.boot.karg_deletes.join(" ")));
    add(
        "esp-size",
        args.boot.esp_size.map(|size| size.0.to_string()),
    );
    for (name, path) in [("stub", &args.boot.stub), ("loader", &args.boot.loader)] {
        add(name, path.as_deref().map(|p| digest(name, p)).transpose()?);
    }
    let customize = &args.customize;
    add("hostname", customize.hostname.clone());
    add("user", Some(customize.users.join(" ")));
    let keys = customize.ssh_keys.iter();
    let keys: Vec<_> = keys
        .map(|p| digest("ssh-key", p))
        .collect::<Result<_, _>>()?;
    add("ssh-key", Some(keys.join(" ")));
    let password = customize.root_password_file.is_some();
    add("root-password-file", password.then(|| "set".to_owned()));
    let files = customize.files.iter();
    // Where on the host they came from is nobody's business.
    let files: Vec<_> = files
        .map(|file| file.split_once(':').map_or("", |(_, to)| to))
        .collect();
    add("file", Some(files.join(" ")));
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    add("source-date-epoch", epoch);
    Ok(all)
}

fn digest(flag: &str, path: &Path) -> anyhow::Result<String> {
    let bytes = super::super::read_limited(path, MAX_FILE);
    let bytes = bytes.with_context(|| format!("--{flag}"))?;
    Ok(Digest::sha256(&bytes).to_string())
}
