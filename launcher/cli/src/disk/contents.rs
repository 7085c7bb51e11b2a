//! What a disk holds: its partitions, and what is on the boot partition.

use std::io;

use bootwright_disk::gpt::{self, PartitionReader};
use bootwright_disk::reader::{DiskCursor, ReadAt};
use bootwright_rootfs::boot::bls;
use bootwright_rootfs::{ext4, fat};
use serde::Serialize;

use crate::report::{Entry, Partition};

/// Largest loader entry read from a disk, in bytes.
const MAX_ENTRY: u64 = 1 << 20;

/// What a disk of any maker holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The disk's GUID.
    pub guid: Option<String>,
    /// The partitions.
    pub partitions: Vec<Partition>,
    /// Boot loader entries and unified kernel images.
    pub entries: Vec<Entry>,
    /// Files of the EFI system partition.
    pub esp: Vec<EspFile>,
    /// What could not be read.
    pub warnings: Vec<String>,
}

/// A file of the EFI system partition.
#[derive(Debug, Serialize)]
pub(crate) struct EspFile {
    /// Its path.
    pub path: String,
    /// Its length.
    pub size: u32,
}

impl Contents {
    /// Looks at a disk. What it cannot read becomes a warning.
    pub(crate) fn of(disk: &dyn ReadAt) -> Self {
        let mut contents = Self::default();
        match gpt::read(&mut DiskCursor::new(disk)) {
            Ok(table) => {
                contents.guid = Some(table.disk_guid.to_string());
                if table.copy == gpt::Copy::Backup {
                    let text = "the primary partition table is damaged; this is the backup";
                    contents.warnings.push(text.into());
                }
                for partition in &table.partitions {
                    inspect_partition(disk, partition, &mut contents);
                }
            }
            Err(error) => contents.warnings.push(error.to_string()),
        }
        contents
    }
}

/// Recognises the file system and reads what it says about booting.
fn inspect_partition(disk: &dyn ReadAt, partition: &gpt::Partition, report: &mut Contents) {
    let mut entry = Partition::from(partition);
    let mut start = [0; 2048];
    let readable = disk.read_exact_at(partition.start, &mut start).is_ok();
    if readable && let Ok(summary) = ext4::read_superblock(&start) {
        entry.file_system = Some("ext4".into());
        entry.uuid = Some(uuid::Uuid::from_bytes(summary.uuid).to_string());
    } else if let Ok(volume) =
        fat::Reader::open(PartitionReader::new(DiskCursor::new(disk), partition))
    {
        entry.file_system = Some("vfat".into());
        entry.uuid = volume
            .volume_id()
            .map(|id| format!("{:04X}-{:04X}", id >> 16, id & 0xffff));
        if let Err(error) = inspect_esp(volume, report) {
            report.warnings.push(format!("{}: {error}", partition.name));
        }
    }
    report.partitions.push(entry);
}

fn inspect_esp<R: io::Read + io::Seek>(
    mut volume: fat::Reader<R>,
    report: &mut Contents,
) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for file in volume.list()?.into_iter().filter(|file| !file.is_directory) {
        let lower = file.path.to_ascii_lowercase();
        if let Some(name) = lower.strip_prefix("loader/entries/")
            && name.ends_with(".conf")
        {
            let bytes = volume.read_file(&file.path, MAX_ENTRY)?;
            let file_name = file.path.rsplit('/').next().unwrap_or(&file.path);
            match bls::parse(file_name, &bytes) {
                Ok(entry) => found.push(entry),
                Err(error) => report.warnings.push(error.to_string()),
            }
        } else if lower.starts_with("efi/linux/") && lower.ends_with(".efi") {
            found.push(bls::Entry::unified(&file.path, &Default::default(), None));
        }
        report.esp.push(EspFile {
            path: file.path,
            size: file.size,
        });
    }
    bls::sort(&mut found);
    report.entries.extend(found.iter().map(Entry::from));
    Ok(())
}
