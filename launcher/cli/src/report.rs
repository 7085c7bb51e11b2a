//! What commands tell about images and disks, as JSON and as text.
//!
//! Field names are part of the command's interface: they are added to, never
//! renamed. Sizes are in bytes, times in milliseconds.

use std::collections::BTreeMap;
use std::time::Instant;

use bootwright_disk::{Content, Plan, SourceKind};
use bootwright_rootfs::assemble::Disk;
use bootwright_rootfs::boot::{self, Boot};
use serde::Serialize;

use crate::args::ByteSize;
use crate::disk::{self, Form};
use crate::progress::printable;

/// How long the stages of a command took, in milliseconds.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Timings {
    stages: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    last: Option<Instant>,
}

impl Timings {
    /// Starts the clock. The first stage ends with the first [`Self::end`].
    pub(crate) fn start() -> Self {
        Self {
            stages: BTreeMap::new(),
            last: Some(Instant::now()),
        }
    }

    /// Ends a stage; what follows belongs to the next.
    pub(crate) fn end(&mut self, stage: &'static str) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.stages
                .insert(stage, now.duration_since(last).as_secs_f64() * 1e3);
        }
    }
}

/// A partition.
#[derive(Debug, Serialize)]
pub(crate) struct Partition {
    /// Name in the partition table.
    pub label: String,
    /// Partition type GUID.
    pub r#type: String,
    /// What the type is for, where it is known.
    pub purpose: Option<String>,
    /// The partition's own GUID.
    pub guid: String,
    /// First byte on the disk.
    pub start: u64,
    /// Length.
    pub size: u64,
    /// `vfat`, `ext4`, … where it was recognised.
    pub file_system: Option<String>,
    /// UUID of the file system.
    pub uuid: Option<String>,
}

/// The kernel that boots.
#[derive(Debug, Serialize)]
pub(crate) struct Kernel {
    /// `uname -r`.
    pub version: String,
    /// Path in the image.
    pub path: String,
    /// Path of the initramfs in the image.
    pub initrd: Option<String>,
}

/// A boot loader entry or unified kernel image.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    /// File name without ending.
    pub id: String,
    /// What the menu shows.
    pub title: Option<String>,
    /// Version of the kernel.
    pub version: Option<String>,
    /// Kernel or unified kernel image, as a path on its partition.
    pub kernel: Option<String>,
    /// Kernel command line.
    pub options: Option<String>,
}

impl From<&boot::bls::Entry> for Entry {
    fn from(entry: &boot::bls::Entry) -> Self {
        Self {
            id: entry.id.clone(),
            title: entry.title.clone(),
            version: entry.version.clone(),
            kernel: entry.linux.clone().or_else(|| entry.efi.clone()),
            options: entry.options.clone(),
        }
    }
}

/// How a disk boots.
#[derive(Debug, Serialize)]
pub(crate) struct BootReport {
    /// `uki`, `bls` or `none`.
    pub mode: &'static str,
    /// What firmware starts; null if it cannot boot the disk.
    pub loader: Option<String>,
    /// The kernel.
    pub kernel: Kernel,
    /// Kernel command line.
    pub command_line: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// The menu.
    pub entries: Vec<Entry>,
}

impl From<&Boot> for BootReport {
    fn from(boot: &Boot) -> Self {
        Self {
            mode: match boot.mode {
                boot::Mode::Auto => "auto",
                boot::Mode::Uki => "uki",
                boot::Mode::Bls => "bls",
                boot::Mode::None => "none",
            },
            loader: boot.loader.clone(),
            kernel: Kernel {
                version: boot.kernel.version.clone(),
                path: boot.kernel.path.clone(),
                initrd: boot.kernel.initrd.as_ref().map(|i| i.path.clone()),
            },
            command_line: boot.command_line.clone(),
            os: boot.os_release.pretty_name().to_owned(),
            entries: boot.entries.iter().map(Entry::from).collect(),
        }
    }
}

/// Figures of a plan.
#[derive(Debug, Serialize)]
pub(crate) struct PlanReport {
    /// Size of the disk.
    pub size: u64,
    /// Number of extents.
    pub extents: usize,
    /// Bytes made by formatting: partition tables, file system metadata.
    pub literal_bytes: u64,
    /// Bytes that are ranges of layer packs.
    pub pack_bytes: u64,
    /// Bytes that are ranges of files of the host.
    pub file_bytes: u64,
}

impl From<&Plan> for PlanReport {
    fn from(plan: &Plan) -> Self {
        let mut report = Self {
            size: plan.size(),
            extents: plan.extents().len(),
            literal_bytes: 0,
            pack_bytes: 0,
            file_bytes: 0,
        };
        for extent in plan.extents() {
            let source = match &extent.content {
                Content::Literal(_) => None,
                Content::Source { id, .. } => plan.sources().get(id.0 as usize),
            };
            match source.map(|s| &s.kind) {
                None => report.literal_bytes += extent.len,
                Some(SourceKind::Pack { .. }) => report.pack_bytes += extent.len,
                Some(SourceKind::HostFile { .. }) => report.file_bytes += extent.len,
            }
        }
        report
    }
}

/// The partitions of a planned disk.
pub(crate) fn partitions(disk: &Disk) -> Vec<Partition> {
    disk.partitions
        .iter()
        .map(|summary| Partition {
            file_system: Some(summary.file_system.to_owned()),
            uuid: Some(summary.uuid.clone()),
            ..Partition::from(&summary.partition)
        })
        .collect()
}

impl From<&bootwright_disk::gpt::Partition> for Partition {
    fn from(p: &bootwright_disk::gpt::Partition) -> Self {
        Self {
            label: p.name.clone(),
            r#type: p.type_guid.to_string(),
            purpose: bootwright_disk::gpt::types::describe(p.type_guid),
            guid: p.guid.to_string(),
            start: p.start,
            size: p.len,
            file_system: None,
            uuid: None,
        }
    }
}

/// Lines of `name: value` with the values in one column; text from images is
/// made harmless.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<(usize, String, String)>);

impl Lines {
    /// A line `name: value`.
    pub(crate) fn add(&mut self, name: &str, value: impl ToString) {
        self.indented(0, name, value);
    }

    /// A line below the one before, `depth` levels in.
    pub(crate) fn indented(&mut self, depth: usize, name: &str, value: impl ToString) {
        self.0.push((depth, name.to_owned(), value.to_string()));
    }

    /// A line with a size.
    pub(crate) fn size(&mut self, name: &str, bytes: u64) {
        self.add(name, format!("{} ({bytes} bytes)", ByteSize(bytes)));
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        let width = |(depth, name, _): &(usize, String, String)| 2 * depth + name.chars().count();
        let column = self.0.iter().map(width).max().unwrap_or(0);
        self.0
            .iter()
            .map(|line| {
                let (depth, name, value) = line;
                let pad = column - width(line) + 2;
                let text = format!(
                    "{:indent$}{name}:{:pad$}{value}",
                    "",
                    "",
                    indent = 2 * depth
                );
                format!("{}\n", printable(&text).trim_end())
            })
            .collect()
    }

    /// What a finished disk came as, and where it comes from.
    pub(crate) fn origin(&mut self, disk: &disk::Report) {
        self.add("Disk", &disk.name);
        if disk.form != Form::File {
            self.indented(1, "form", disk.form);
        }
        let fields = [
            ("digest", &disk.digest),
            ("platform", &disk.platform),
            ("created", &disk.created),
            ("made by", &disk.tool),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                self.indented(1, name, value);
            }
        }
        if let Some(source) = &disk.source {
            let reference = source.reference.as_deref();
            self.indented(1, "made from", reference.unwrap_or("unknown"));
            let fields = [("digest", &source.digest), ("identity", &source.identity)];
            for (name, value) in fields {
                if let Some(value) = value {
                    self.indented(2, name, value);
                }
            }
        }
        for (name, value) in &disk.options {
            self.indented(1, &format!("option {name}"), value);
        }
    }

    /// The menu and the kernel.
    pub(crate) fn boot(&mut self, boot: &BootReport) {
        self.add("OS", &boot.os);
        self.add("Kernel", &boot.kernel.version);
        self.indented(1, "image", &boot.kernel.path);
        self.indented(1, "initrd", boot.kernel.initrd.as_deref().unwrap_or("none"));
        self.indented(1, "command line", &boot.command_line);
        self.add("Boot", boot.mode);
        let loader = boot.loader.as_deref();
        self.indented(
            1,
            "loader",
            loader.unwrap_or("none; firmware cannot boot this disk"),
        );
        self.entries(&boot.entries);
    }

    /// Boot entries.
    pub(crate) fn entries(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.indented(1, "entry", &entry.id);
        }
    }

    /// A partition table.
    pub(crate) fn partitions(&mut self, partitions: &[Partition]) {
        for (n, p) in partitions.iter().enumerate() {
            self.add(&format!("Partition {}", n + 1), &p.label);
            self.indented(1, "type", p.purpose.as_deref().unwrap_or(&p.r#type));
            self.indented(1, "at", format!("{} + {}", p.start, ByteSize(p.size)));
            if let Some(name) = &p.file_system {
                self.indented(1, name, p.uuid.as_deref().unwrap_or(""));
            }
        }
    }
}
