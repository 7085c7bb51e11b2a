//! `bootwright verify`: is a disk what an image makes?

mod recorded;

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use bootwright_disk::compare::{self, Comparison};
use bootwright_disk::reader::{PlanReader, ReadAt, data_len};
use bootwright_disk::sink::Format;
use bootwright_rootfs::assemble;
use bootwright_rootfs::place;
use serde::Serialize;

use crate::args::{ByteSize, VerifyArgs};
use crate::disk::{self, Disk, Found};
use crate::image::{Context, ImageReport, Loaded};
use crate::interrupt::Interrupt;
use crate::progress::{Messages, printable};
use crate::report::Timings;

/// Most differences that are looked at for naming them: each takes a walk
/// through the file system.
const MAX_NAMED: usize = 40;

/// What was found, for `--json`.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether every byte is the same.
    same: bool,
    disk: disk::Report,
    image: ImageReport,
    /// Size of the disk.
    size: u64,
    /// Size of the disk that the image makes.
    expected_size: u64,
    /// Bytes in blocks that differ.
    different_bytes: u64,
    /// The first places that differ, in their order.
    differences: Vec<Place>,
    /// What may be the reason.
    hints: Vec<String>,
    timings_ms: Timings,
}

/// A place where the disks differ.
#[derive(Debug, Serialize)]
struct Place {
    /// The first byte of the disk that differs there.
    offset: u64,
    /// Number of the partition; null outside of all.
    partition: Option<usize>,
    /// Name of the partition.
    partition_name: Option<String>,
    /// What is there: a file by its path, or a structure by its name.
    what: String,
}

/// Runs the command; says whether the disk is the same.
pub(crate) fn run(args: &VerifyArgs, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let messages = Messages::new(args.output.quiet);
    let mut timings = Timings::start();
    let context = Context {
        args: &args.image_args,
        messages: &messages,
        interrupt,
    };
    let disk = match disk::find(&args.disk, context, &mut timings)? {
        Found::Disk(disk) => disk,
        Found::Image(_) => bail!(
            "{} is an image; name a disk first, then its image",
            args.disk
        ),
    };
    let mut loaded = match disk::find(&args.image, context, &mut timings)? {
        Found::Image(loaded) => loaded,
        Found::Disk(disk) => bail!(
            "{} is {disk}; name the image that it is made of",
            args.image
        ),
    };
    let mut plan = args.plan.clone();
    if let Some(time) = recorded::apply(&disk.report.options, &mut plan)? {
        loaded.time = time;
    }
    let size = disk.reader.size();
    let expected = super::build::plan_of_size(&mut loaded, &plan, &|natural| {
        // A format that has other sizes made it larger.
        let mut sizes = Format::ALL
            .iter()
            .map(|f| natural.next_multiple_of(f.size_unit()));
        sizes.find(|&rounded| rounded == size).unwrap_or(natural)
    })?;
    timings.end("plan");
    let comparison = compare(&disk, &expected, &messages, interrupt)?;
    timings.end("compare");
    let differences = name(&comparison, &expected, &loaded)?;
    let expected_size = expected.plan.size();
    let same = size == expected_size && comparison.bytes == 0;
    let report = Report {
        same,
        hints: match same {
            true => Vec::new(),
            false => hints(&disk, &expected, &loaded, args),
        },
        disk: disk.report.clone(),
        image: loaded.report.clone(),
        size,
        expected_size,
        different_bytes: comparison.bytes,
        differences,
        timings_ms: timings,
    };
    if args.output.json {
        super::print_json(&report)?;
    } else if !args.output.quiet {
        io::stdout().write_all(printable(&text(&report)).as_bytes())?;
    }
    Ok(same)
}

fn compare(
    disk: &Disk,
    expected: &assemble::Disk,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<Comparison> {
    let reader = PlanReader::new(expected.plan.clone());
    let task = messages.task("compare", data_len(&reader)?);
    let same = |at: u64| match &disk.plan {
        Some(plan) => compare::same_pack(plan, &expected.plan, at),
        None => 0,
    };
    let options = compare::Options {
        max: MAX_NAMED,
        same: &same,
        progress: &|bytes| task.advance(bytes),
        cancel: interrupt.flag(),
    };
    let found = compare::compare(&*disk.reader, &reader, options).context("cannot compare")?;
    task.finish();
    Ok(found)
}

/// Says what is where the disks differ, each place once.
fn name(
    comparison: &Comparison,
    expected: &assemble::Disk,
    loaded: &Loaded,
) -> anyhow::Result<Vec<Place>> {
    let reader = PlanReader::new(expected.plan.clone());
    let mut places: Vec<Place> = Vec::new();
    for difference in &comparison.differences {
        let offset = difference.first;
        let found = place::name(expected, &loaded.tree, &reader, offset)?;
        let partition = found.partition.and_then(|n| expected.partitions.get(n - 1));
        let place = Place {
            offset,
            partition: found.partition,
            partition_name: partition.map(|p| p.partition.name.clone()),
            what: found.what,
        };
        // Another part of the same file.
        let owner = |place: &Place| {
            let what = place.what.as_str();
            let owner = what.split_once(", byte ").map_or(what, |(owner, _)| owner);
            owner.to_owned()
        };
        if places
            .last()
            .is_none_or(|last| owner(last) != owner(&place))
        {
            places.push(place);
        }
    }
    Ok(places)
}

/// What may be the reason for the differences.
fn hints(
    disk: &Disk,
    expected: &assemble::Disk,
    loaded: &Loaded,
    args: &VerifyArgs,
) -> Vec<String> {
    let mut hints = Vec::new();
    let source = disk.report.source.as_ref();
    let identity = source.and_then(|source| source.identity.as_deref());
    if let Some(identity) = identity.filter(|&id| id != loaded.report.identity) {
        hints.push(format!(
            "the disk says that it was made from {identity}; {} is {}",
            args.image, loaded.report.identity
        ));
    }
    let guid = disk::Contents::of(&*disk.reader).guid;
    match guid {
        None => hints.push("the disk has no partition table".to_owned()),
        Some(guid) if guid != expected.guid.to_string() => hints.push(
            "the disk has another identifier than one made of this image with these options"
                .to_owned(),
        ),
        Some(_) => {}
    }
    hints
}

fn text(report: &Report) -> String {
    let (disk, image) = (&report.disk.name, &report.image.reference);
    if report.same {
        return format!("{disk} is what {image} makes\n");
    }
    let mut text = format!("{disk} differs from what {image} makes\n");
    if report.size != report.expected_size {
        let (size, expected) = (report.size, report.expected_size);
        text += &format!("  it has {size} bytes instead of {expected}\n");
    }
    for place in &report.differences {
        let at = match (place.partition, &place.partition_name) {
            (Some(number), Some(name)) => format!("partition {number} ({name}): "),
            _ => String::new(),
        };
        text += &format!("  {at}{} (byte {} of the disk)\n", place.what, place.offset);
    }
    if report.different_bytes > 0 {
        let bytes = ByteSize(report.different_bytes);
        text += &format!("  {bytes} in all\n");
    }
    for hint in &report.hints {
        text += &format!("  {hint}\n");
    }
    text
}
