//! `bootwright inspect`: what an image would become, or what a disk holds.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use bootwright_disk::gpt::{self, PartitionReader};
use bootwright_disk::reader::{self, DiskCursor, DiskFile, ReadAt};
use bootwright_image::Platform;
use bootwright_rootfs::boot::{Architecture, bls, discover};
use bootwright_rootfs::{ext4, fat};
use serde::Serialize;

use crate::args::{InspectArgs, default_plan};
use crate::image::{self, ImageReport};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::{self, BootReport, Entry, Lines, Partition, PlanReport, Timings};

/// Largest loader entry read from a disk, in bytes.
const MAX_ENTRY: u64 = 1 << 20;

#[derive(Debug, Serialize)]
struct ImageInspection {
    #[serde(flatten)]
    image: ImageReport,
    /// Null if the image does not boot; `problem` says why.
    boot: Option<BootReport>,
    problem: Option<String>,
    /// Of the disk that `build` makes of it without options.
    partitions: Vec<Partition>,
    plan: Option<PlanReport>,
    warnings: Vec<String>,
    timings_ms: Timings,
}

#[derive(Debug, Serialize)]
struct DiskInspection {
    path: String,
    format: &'static str,
    /// Size of the disk as the machine sees it.
    size: u64,
    /// Bytes of it that are not known to be zeros.
    data: u64,
    /// The disk's GUID.
    guid: Option<String>,
    partitions: Vec<Partition>,
    entries: Vec<Entry>,
    /// What `run` starts, without firmware; null if `problem` says why not.
    boots: Option<Found>,
    problem: Option<String>,
    /// Files of the EFI system partition.
    esp: Vec<EspFile>,
    warnings: Vec<String>,
}

/// What discovery finds on a disk, see [`discover`].
#[derive(Debug, Serialize)]
struct Found {
    id: String,
    title: Option<String>,
    /// How and where it was found.
    source: &'static str,
    place: String,
    kernel: String,
    initrd: Vec<String>,
    command_line: String,
    /// Ids of all entries, in the order of the menu.
    menu: Vec<String>,
    /// What was passed over, and why.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct EspFile {
    path: String,
    size: u32,
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let path = Path::new(&args.target);
    if super::is_disk(path) {
        return disk(path, args);
    }
    image(args, interrupt)
}

fn image(args: &InspectArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let messages = Messages::new(args.output.quiet);
    let mut timings = Timings::start();
    let mut loaded = image::load(
        &args.target,
        &args.image,
        &messages,
        interrupt,
        &mut timings,
    )?;
    // What `build` does without options, so that the two cannot disagree.
    let planned = super::build::plan(&mut loaded, &default_plan()?, 1);
    timings.end("plan");
    let mut warnings = loaded.tree.warnings().to_vec();
    let (boot, problem, partitions, plan) = match planned {
        Ok(disk) => {
            warnings.extend(disk.warnings.iter().cloned());
            let partitions = report::partitions(&disk);
            let plan = PlanReport::from(&disk.plan);
            (
                Some(BootReport::from(&disk.boot)),
                None,
                partitions,
                Some(plan),
            )
        }
        Err(error) => (None, Some(format!("{error:#}")), Vec::new(), None),
    };
    let report = ImageInspection {
        image: loaded.report,
        boot,
        problem,
        partitions,
        plan,
        warnings,
        timings_ms: timings,
    };
    if args.output.json {
        return super::print_json(&report);
    }
    print(&image_text(&report))
}

fn print(lines: &Lines) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(lines.text().as_bytes())?)
}

fn image_text(report: &ImageInspection) -> Lines {
    let mut lines = Lines::default();
    let image = &report.image;
    lines.add("Image", &image.reference);
    if let Some(digest) = &image.digest {
        lines.add("Digest", digest);
    }
    lines.add("Platform", &image.platform);
    lines.add("Created", image.created.as_deref().unwrap_or("unknown"));
    for (n, layer) in image.layers.iter().enumerate() {
        lines.add(&format!("Layer {}", n + 1), &layer.digest);
        lines.indented(1, "diff id", &layer.diff_id);
        lines.indented(1, "media type", &layer.media_type);
        let size = crate::args::ByteSize;
        let (blob, pack) = (size(layer.size), size(layer.pack_size));
        lines.indented(
            1,
            "size",
            format!("{blob}, pack {pack}, {} entries", layer.entries),
        );
    }
    if let Some(boot) = &report.boot {
        lines.boot(boot);
    }
    if let Some(problem) = &report.problem {
        lines.add("Not bootable", problem);
    }
    lines.partitions(&report.partitions);
    if let Some(plan) = &report.plan {
        lines.size("Plan", plan.size);
        lines.indented(1, "extents", plan.extents);
        lines.indented(1, "literal bytes", plan.literal_bytes);
        lines.indented(1, "layer bytes", plan.pack_bytes);
        lines.indented(1, "file bytes", plan.file_bytes);
    }
    for warning in &report.warnings {
        lines.add("Warning", warning);
    }
    lines
}

fn disk(path: &Path, args: &InspectArgs) -> anyhow::Result<()> {
    let disk = Arc::new(reader::open_disk(path)?);
    let (boots, problem) = match boots(Arc::clone(&disk), args)? {
        Ok(found) => (Some(found), None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    let mut report = DiskInspection {
        path: path.display().to_string(),
        format: disk.format().name(),
        size: disk.size(),
        data: reader::data_len(&disk)?,
        guid: None,
        partitions: Vec::new(),
        entries: Vec::new(),
        boots,
        problem,
        esp: Vec::new(),
        warnings: Vec::new(),
    };
    match gpt::read(&mut DiskCursor::new(&disk)) {
        Ok(table) => {
            report.guid = Some(table.disk_guid.to_string());
            if table.copy == gpt::Copy::Backup {
                let text = "the primary partition table is damaged; this is the backup";
                report.warnings.push(text.into());
            }
            for partition in &table.partitions {
                inspect_partition(&disk, partition, &mut report);
            }
        }
        Err(error) => report.warnings.push(error.to_string()),
    }
    if args.output.json {
        return super::print_json(&report);
    }
    let mut lines = Lines::default();
    lines.add("Disk", &report.path);
    lines.add("Format", report.format);
    lines.size("Size", report.size);
    lines.size("Data", report.data);
    lines.partitions(&report.partitions);
    if !report.entries.is_empty() {
        lines.add("Boot entries", report.entries.len());
    }
    for entry in &report.entries {
        lines.indented(1, "entry", &entry.id);
        let fields = [
            ("title", &entry.title),
            ("kernel", &entry.kernel),
            ("command line", &entry.options),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                lines.indented(2, name, value);
            }
        }
    }
    if let Some(found) = &report.boots {
        lines.add("Boots", found.title.as_deref().unwrap_or(&found.id));
        lines.indented(1, found.source, &found.place);
        lines.indented(1, "kernel", &found.kernel);
        for initrd in &found.initrd {
            lines.indented(1, "initrd", initrd);
        }
        lines.indented(1, "command line", &found.command_line);
        for note in &found.notes {
            lines.indented(1, "passed over", note);
        }
    }
    if let Some(problem) = &report.problem {
        lines.add("Not bootable", problem);
    }
    if !report.esp.is_empty() {
        lines.add("Boot partition", format!("{} files", report.esp.len()));
    }
    for file in &report.esp {
        lines.indented(1, "file", format!("{} ({} bytes)", file.path, file.size));
    }
    for warning in &report.warnings {
        lines.add("Warning", warning);
    }
    print(&lines)
}

/// What `run` would start.
fn boots(
    disk: Arc<DiskFile>,
    args: &InspectArgs,
) -> anyhow::Result<Result<Found, discover::NothingToBoot>> {
    let platform = args.image.platform()?.unwrap_or_else(Platform::host);
    let architecture = Architecture::from_oci(platform.architecture())?;
    Ok(discover::discover(disk, architecture).map(|found| {
        let menu = found.entries.iter().map(|e| e.id.clone()).collect();
        let entry = found.default_entry().cloned();
        let text = |get: fn(&discover::Entry) -> &str| {
            entry.as_ref().map(get).unwrap_or_default().to_owned()
        };
        Found {
            id: text(|e| &e.id),
            title: entry.as_ref().and_then(|e| e.title.clone()),
            source: entry.as_ref().map(|e| e.source.name()).unwrap_or_default(),
            place: text(|e| &e.place),
            kernel: text(|e| &e.kernel),
            initrd: entry.as_ref().map(|e| e.initrd.clone()).unwrap_or_default(),
            command_line: text(|e| &e.command_line),
            menu,
            notes: found.notes,
        }
    }))
}

/// Recognises the file system and reads what it says about booting.
fn inspect_partition(disk: &DiskFile, partition: &gpt::Partition, report: &mut DiskInspection) {
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
    report: &mut DiskInspection,
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
