//! `bootwright inspect`: what an image would become, or what a disk holds.

use std::io::{self, Write as _};
use std::sync::Arc;

use bootwright_delivery::metadata::BootInfo;
use bootwright_disk::reader::{self, ReadAt};
use bootwright_image::Platform;
use bootwright_rootfs::boot::{Architecture, discover};
use serde::Serialize;

use crate::args::{InspectArgs, default_plan};
use crate::disk::{self, Contents, Disk, EspFile, Form};
use crate::image::{Context, ImageReport, Loaded};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::{self, BootReport, Entry, Lines, Partition, PlanReport, Timings};

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
    /// Null for a disk that came as an image.
    path: Option<String>,
    format: &'static str,
    /// What it came as, and where it comes from.
    origin: disk::Report,
    /// Size of the disk as the machine sees it.
    size: u64,
    /// Bytes of it that are not known to be zeros.
    data: u64,
    /// The disk's GUID.
    guid: Option<String>,
    partitions: Vec<Partition>,
    entries: Vec<Entry>,
    /// The kernel that the disk was made with; null if it does not say.
    made_for: Option<MadeFor>,
    /// What `run` starts, without firmware; null if `problem` says why not.
    boots: Option<Found>,
    problem: Option<String>,
    /// Files of the EFI system partition.
    esp: Vec<EspFile>,
    warnings: Vec<String>,
}

/// What a disk image says of its boot.
#[derive(Debug, Serialize)]
struct MadeFor {
    kernel_version: String,
    command_line: String,
    /// Length of the kernel in bytes, if it is on the disk as it is.
    kernel_size: Option<u64>,
    /// Length of the initramfs in bytes, likewise.
    initrd_size: Option<u64>,
}

impl From<&BootInfo> for MadeFor {
    fn from(boot: &BootInfo) -> Self {
        Self {
            kernel_version: boot.kernel_version.clone(),
            command_line: boot.command_line.clone(),
            kernel_size: boot.kernel.as_ref().map(|file| file.size),
            initrd_size: boot.initrd.as_ref().map(|file| file.size),
        }
    }
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

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let messages = Messages::new(args.output.quiet);
    let mut timings = Timings::start();
    let context = Context {
        args: &args.image,
        messages: &messages,
        interrupt,
    };
    match disk::peek(&args.target, context, &mut timings)? {
        disk::Found::Image(loaded) => image(*loaded, args, timings),
        disk::Found::Disk(disk) => inspect_disk(&disk, args),
    }
}

fn image(mut loaded: Loaded, args: &InspectArgs, mut timings: Timings) -> anyhow::Result<()> {
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

fn inspect_disk(disk: &Disk, args: &InspectArgs) -> anyhow::Result<()> {
    let (boots, problem) = match boots(
        Arc::clone(&disk.reader),
        disk.report.platform.as_deref(),
        args,
    )? {
        Ok(found) => (Some(found), None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    let Contents {
        guid,
        partitions,
        entries,
        esp,
        warnings,
    } = Contents::of(&*disk.reader);
    let origin = disk.report.clone();
    let report = DiskInspection {
        path: (origin.form == Form::File).then(|| origin.name.clone()),
        format: origin.format,
        origin,
        size: disk.reader.size(),
        data: reader::data_len(&*disk.reader)?,
        guid,
        partitions,
        entries,
        made_for: disk.boot.as_ref().map(MadeFor::from),
        boots,
        problem,
        esp,
        warnings,
    };
    if args.output.json {
        return super::print_json(&report);
    }
    let mut lines = Lines::default();
    lines.origin(&report.origin);
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
    if let Some(made) = &report.made_for {
        lines.add("Made for", &made.kernel_version);
        lines.indented(1, "command line", &made.command_line);
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
    disk: Arc<dyn ReadAt>,
    platform: Option<&str>,
    args: &InspectArgs,
) -> anyhow::Result<Result<Found, discover::NothingToBoot>> {
    let platform = match (args.image.platform()?, platform) {
        (Some(platform), _) => platform,
        (None, Some(text)) => text.parse()?,
        (None, None) => Platform::host(),
    };
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
