//! What a disk boots, found without firmware and without a boot loader.
//!
//! [`discover`] looks where loaders look, on a disk of any maker and in any
//! form that can be read at any offset:
//!
//! 1. Boot Loader Specification (UAPI.1): type #1 entries and unified kernel
//!    images on the EFI system partition and the extended boot loader
//!    partition, in the specification's order, with `loader.conf`'s default;
//! 2. GRUB's configuration, on `/boot` or the root file system, with the
//!    loader entries that `blscfg` takes in;
//! 3. loader entries on `/boot` or the root file system without either;
//! 4. the newest kernel on the root file system.
//!
//! Out comes a [`Discovery`]: entries in the order of a boot menu, from which
//! [`Discovery::load`] reads a [`Payload`]. Disks may be hostile; everything
//! read is bounded, and what cannot be read is noted, not fatal, as long as
//! there is something to boot.

mod grub;
mod kernels;
mod loader;
mod partitions;
mod payload;
mod volume;

use std::sync::Arc;

use bootwright_disk::ReadAt;

use self::volume::Volume;
use super::Architecture;
pub use payload::{LoadError, Payload, check_kernel};

/// Most partitions that are looked at.
const MAX_PARTITIONS: usize = 128;

/// Most notes that an error repeats.
const MAX_NOTES: usize = 12;

/// How an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A type #1 entry (UAPI.1).
    LoaderEntry,
    /// A unified kernel image, a type #2 entry (UAPI.1, UAPI.5).
    Unified,
    /// GRUB's configuration.
    Grub,
    /// Only the kernel itself.
    Kernel,
}

impl Source {
    /// In a few words, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::LoaderEntry => "boot loader entry",
            Self::Unified => "unified kernel image",
            Self::Grub => "GRUB menu entry",
            Self::Kernel => "kernel",
        }
    }
}

/// Something on the disk that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names it among the entries of the disk.
    pub id: String,
    /// For people.
    pub title: Option<String>,
    /// Usually the kernel's version.
    pub version: Option<String>,
    /// How it was found.
    pub source: Source,
    /// Where: partition and path, for people.
    pub place: String,
    /// Path of the kernel, or of the unified kernel image.
    pub kernel: String,
    /// Paths of the initrds in order.
    pub initrd: Vec<String>,
    /// The kernel command line.
    pub command_line: String,
    /// The volume that the paths are on.
    volume: usize,
}

/// What a disk boots.
#[derive(Debug)]
pub struct Discovery {
    /// The entries in the order of the boot menu. There is at least one.
    pub entries: Vec<Entry>,
    /// Which of them is started when nobody chooses.
    pub default: usize,
    /// What was passed over, and why.
    pub notes: Vec<String>,
    architecture: Architecture,
    volumes: Vec<Volume>,
}

/// Nothing on the disk can be booted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "nothing to boot for {architecture}: no loader entries or unified kernel images on a boot partition, no GRUB configuration in /boot/grub or /boot/grub2, no kernel in /boot{}",
    list(notes)
)]
pub struct NothingToBoot {
    /// The machine.
    pub architecture: Architecture,
    /// What was looked at, and what was wrong with it.
    pub notes: Vec<String>,
}

fn list(notes: &[String]) -> String {
    let mut text = String::new();
    for note in notes.iter().take(MAX_NOTES) {
        text.push_str("\n  ");
        text.push_str(note);
    }
    match notes.len().saturating_sub(MAX_NOTES) {
        0 => text,
        more => format!("{text}\n  and {more} more"),
    }
}

/// Finds what `disk` boots on a machine of this architecture.
///
/// # Errors
/// There is nothing; the message says where it looked.
pub fn discover(
    disk: Arc<dyn ReadAt>,
    architecture: Architecture,
) -> Result<Discovery, NothingToBoot> {
    let mut notes = Vec::new();
    let mut places = partitions::find(&*disk, architecture, &mut notes);
    places.truncate(MAX_PARTITIONS);
    // Boot partitions before others; the sort keeps the table's order.
    places.sort_by_key(|p| p.purpose);
    let mut volumes = Vec::new();
    for place in &places {
        match Volume::open(&disk, place) {
            Ok(volume) => volumes.push(volume),
            Err(error) => notes.push(format!("{}: {error}", place.name)),
        }
    }
    let mut found = Found {
        architecture,
        entries: Vec::new(),
        default: 0,
        notes,
    };
    loader::on_boot_partitions(&mut volumes, &mut found);
    if found.entries.is_empty() {
        grub::find(&mut volumes, &mut found);
    }
    if found.entries.is_empty() {
        loader::elsewhere(&mut volumes, &mut found);
    }
    if found.entries.is_empty() {
        kernels::find(&volumes, &mut found);
    }
    let Found {
        entries,
        default,
        mut notes,
        ..
    } = found;
    if entries.is_empty() {
        for volume in &volumes {
            let name = &volume.partition.name;
            notes.push(format!("{name}: a {} without any of these", volume.kind()));
        }
        return Err(NothingToBoot {
            architecture,
            notes,
        });
    }
    Ok(Discovery {
        default: default.min(entries.len() - 1),
        entries,
        notes,
        architecture,
        volumes,
    })
}

/// What the searches add to.
struct Found {
    architecture: Architecture,
    entries: Vec<Entry>,
    default: usize,
    notes: Vec<String>,
}

impl Discovery {
    /// The entry with this id.
    pub fn find(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// The entry that is started when nobody chooses.
    pub fn default_entry(&self) -> Option<&Entry> {
        self.entries.get(self.default)
    }

    /// Reads an entry's kernel and initrds.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(&mut self, entry: &Entry) -> Result<Payload, LoadError> {
        payload::load(&mut self.volumes, entry, self.architecture)
    }
}

/// The path `name` in the directory `directory` of a volume.
fn join(directory: &str, name: &str) -> String {
    let directory = directory.trim_end_matches('/');
    format!("{directory}/{}", name.trim_start_matches('/'))
}

#[cfg(test)]
mod test_disk;
