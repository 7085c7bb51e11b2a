//! A whole disk: boot partition and root file system on a GPT.
//!
//! [`assemble`] takes a finished tree, prepares its boot files, formats both
//! partitions and lays them out. Out comes a [`Disk`]: the plan and all that
//! `inspect` and reports tell about it.

use bootwright_disk::gpt::{self, attributes, types};
use bootwright_disk::ids::Ids;
use bootwright_disk::{Plan, PlanBuilder, PlanError, SourceReader};
use bootwright_image::{Digest, Timestamp};
use uuid::Uuid;

use crate::boot::{self, Architecture, Boot, BootError};
use crate::ext4::{self, Ext4Error};
use crate::fat::{self, FatError};
use crate::tree::Tree;
use crate::volume::Volume;

/// Partitions start on multiples of this many bytes.
const ALIGNMENT: u64 = 1 << 20;

/// How large the disk is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The whole disk, in bytes; rounded up to a whole MiB.
    Disk(u64),
    /// As large as it takes to leave this many bytes free in the root file
    /// system.
    Free(u64),
}

/// What shapes a disk beside the tree.
#[derive(Debug, Clone)]
pub struct Options {
    /// The machine.
    pub architecture: Architecture,
    /// The image's identity; identifiers derive from it.
    pub identity: Digest,
    /// The time of everything that has none of its own.
    pub time: Timestamp,
    /// Size of the disk.
    pub size: Size,
    /// Size of the EFI system partition in bytes; None takes 512 MiB, or
    /// twice what is in it if that is more.
    pub esp_size: Option<u64>,
    /// How it boots.
    pub mode: boot::Mode,
    /// Kernel arguments to add.
    pub kargs: Vec<String>,
    /// Kernel arguments to take away.
    pub delete_kargs: Vec<String>,
    /// A UKI stub in place of the image's.
    pub stub: Option<boot::Given>,
    /// A boot loader in place of the image's.
    pub loader: Option<boot::Given>,
    /// Canonical text of the other options that changed the tree; disks made
    /// with others get other identifiers.
    pub variant: String,
}

/// A partition, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSummary {
    /// The partition as the table has it.
    pub partition: gpt::Partition,
    /// The file system in it: `vfat` or `ext4`.
    pub file_system: &'static str,
    /// The file system's UUID, as blkid(8) shows it.
    pub uuid: String,
}

/// A disk, planned.
#[derive(Debug)]
pub struct Disk {
    /// What every byte is.
    pub plan: Plan,
    /// Identifies the disk in formats that want an identifier of their own.
    pub guid: Uuid,
    /// The partitions in their order on the disk.
    pub partitions: Vec<PartitionSummary>,
    /// How it boots.
    pub boot: Boot,
    /// Figures of the root file system.
    pub root: ext4::Stats,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why a disk could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The image cannot be booted so.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The root file system cannot be made.
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
    /// The boot partition cannot be made.
    #[error("EFI system partition: {0}")]
    Fat(#[from] FatError),
    /// The partitions do not fit.
    #[error(transparent)]
    Layout(#[from] gpt::LayoutError),
    /// The given size does not hold the content.
    #[error("the disk needs at least {needed} bytes ({} MiB), --size says {given}", needed.div_ceil(1 << 20))]
    TooSmall {
        /// Smallest size in bytes that works.
        needed: u64,
        /// The size asked for.
        given: u64,
    },
    /// The formatters contradict each other; a defect of this program.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No partition type is defined for the architecture.
    #[error("no root partition type is known for {0}")]
    NoRootType(String),
}

/// Plans the disk for `tree`.
///
/// # Errors
/// See [`AssembleError`].
pub fn assemble(
    tree: &Tree,
    reader: &SourceReader,
    options: &Options,
) -> Result<Disk, AssembleError> {
    let ids = Ids::new([
        b"bootwright disk 1",
        options.identity.to_string().as_bytes(),
        canonical(options).as_bytes(),
    ]);
    let architecture = options.architecture.oci();
    let root_type = types::root_types(architecture)
        .ok_or_else(|| AssembleError::NoRootType(architecture.to_owned()))?
        .root;
    let root_uuid = ids.uuid("root file system");
    let boot = boot::prepare(
        tree,
        reader,
        &boot::Options {
            architecture: options.architecture,
            root: root_uuid,
            mode: options.mode,
            kargs: options.kargs.clone(),
            delete_kargs: options.delete_kargs.clone(),
            stub: options.stub.clone(),
            loader: options.loader.clone(),
        },
    )?;

    let esp = match boot.esp.is_empty() {
        true => None,
        false => Some(esp(&boot, &ids, options)?),
    };
    let before: Vec<u64> = esp.iter().map(|volume| volume.size).collect();
    let (disk_size, root_size) = root_size(&before, options.size)?;
    let seed = ids.uuid("directory hash seed").into_bytes();
    let root = ext4::format(
        tree,
        &ext4::Options {
            label: "root".into(),
            ..ext4::Options::new(root_size, root_uuid.into_bytes(), seed, options.time)
        },
    )
    .map_err(|error| too_small(error, &before, options.size))?;

    let new = |name: &str, type_guid, len, attributes| gpt::NewPartition {
        type_guid,
        guid: ids.uuid(name),
        name: name.to_owned(),
        len,
        attributes,
    };
    let mut wanted = Vec::new();
    let mut volumes = Vec::new();
    if let Some(volume) = esp {
        wanted.push(new("esp", types::ESP, volume.size, 0));
        let id = ids.number("esp volume id");
        let uuid = format!("{:04X}-{:04X}", id >> 16, id & 0xffff);
        volumes.push((volume, "vfat", uuid));
    }
    let grow = attributes::GROW_FILE_SYSTEM;
    wanted.push(new("root", root_type, root.volume.size, grow));
    volumes.push((root.volume, "ext4", root_uuid.to_string()));

    let guid = ids.uuid("disk");
    let layout = gpt::layout(
        &wanted,
        &gpt::Options {
            disk_guid: guid,
            disk_size,
            alignment: ALIGNMENT,
        },
    )?;
    let mut builder = PlanBuilder::new(tree.sources().to_vec());
    layout.extents.into_iter().for_each(|e| builder.put(e));
    let mut partitions = Vec::new();
    for (partition, (volume, file_system, uuid)) in layout.table.partitions.into_iter().zip(volumes)
    {
        builder.put_volume(partition.start, volume.extents);
        partitions.push(PartitionSummary {
            partition,
            file_system,
            uuid,
        });
    }
    Ok(Disk {
        plan: builder.finish(layout.disk_size)?,
        guid,
        partitions,
        warnings: boot.warnings.iter().cloned().chain(root.warnings).collect(),
        boot,
        root: root.stats,
    })
}

/// The options that shape the disk, for [`Ids`]: what differs here makes
/// another disk.
fn canonical(options: &Options) -> String {
    let given = |file: &Option<boot::Given>| {
        let digest = file.as_ref().map(|f| Digest::sha256(&f.bytes));
        digest.map_or_else(String::new, |digest| digest.to_string())
    };
    format!(
        "{:?} {:?} {:?} {:?} {:?} {} {} {}.{} {}",
        options.size,
        options.esp_size,
        options.mode,
        options.kargs,
        options.delete_kargs,
        given(&options.stub),
        given(&options.loader),
        options.time.secs,
        options.time.nanos,
        options.variant,
    )
}

fn esp(boot: &Boot, ids: &Ids, options: &Options) -> Result<Volume, FatError> {
    fat::format(
        &boot.esp,
        &fat::Options {
            size: options.esp_size,
            volume_id: ids.number("esp volume id"),
            label: "ESP".into(),
            time: options.time,
        },
    )
}

/// Says the size that the whole disk needs, not the partition.
fn too_small(error: Ext4Error, before: &[u64], asked: Size) -> AssembleError {
    let (Ext4Error::NoSpace { needed, .. }, Size::Disk(given)) = (&error, asked) else {
        return error.into();
    };
    let lens = before.iter().copied();
    let lens: Vec<_> = lens.chain([needed.next_multiple_of(ALIGNMENT)]).collect();
    match gpt::smallest_disk(&lens, ALIGNMENT) {
        Ok(needed) => AssembleError::TooSmall { needed, given },
        Err(error) => error.into(),
    }
}

/// Size of the disk, where it is given, and of the root file system.
fn root_size(before: &[u64], size: Size) -> Result<(Option<u64>, ext4::Size), AssembleError> {
    match size {
        Size::Free(bytes) => Ok((None, ext4::Size::MinimalPlusFree(bytes))),
        Size::Disk(bytes) => {
            let disk = bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(bytes);
            let root = gpt::space_left(before, disk, ALIGNMENT)?;
            Ok((Some(disk), ext4::Size::Exact(root)))
        }
    }
}
