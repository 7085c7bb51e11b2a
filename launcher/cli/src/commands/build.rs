//! `bootwright build`: an image becomes a disk, and a finished disk a file.

use std::fs;
use std::path::Path;

use anyhow::bail;
use bootwright_disk::SourceReader;
use bootwright_disk::reader::{ReadAt as _, data_len};
use bootwright_disk::sink::{self, Format, Target};
use bootwright_rootfs::assemble::{self, Disk, Size};
use bootwright_rootfs::boot;
use serde::Serialize;

use crate::args::{BootArgs, BootMode, BuildArgs, ByteSize, Compression, DEFAULT_FREE, PlanArgs};
use crate::disk;
use crate::image::{Context, ImageReport, Loaded};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::{BootReport, Lines, Partition, PlanReport, Timings};

/// What sizes of disks are rounded up to in any case.
const MIB: u64 = 1 << 20;

/// Largest EFI binary taken from the host, in bytes.
const MAX_EFI: u64 = 16 << 20;

/// What was built, for `--json`.
#[derive(Debug, Serialize)]
struct Report {
    output: String,
    format: &'static str,
    /// Size of the disk as the machine sees it.
    size: u64,
    /// Length of the file.
    file_size: u64,
    /// What the disk was made from; null for a finished disk.
    image: Option<ImageReport>,
    /// The finished disk that was written; null for an image.
    disk: Option<disk::Report>,
    /// Null for a finished disk; `inspect` tells what it boots.
    boot: Option<BootReport>,
    partitions: Vec<Partition>,
    /// Null for a finished disk that is no plan.
    plan: Option<PlanReport>,
    warnings: Vec<String>,
    timings_ms: Timings,
}

/// Runs the command.
pub(crate) fn run(args: &BuildArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let messages = Messages::new(args.output_args.quiet);
    let mut timings = Timings::start();
    let format = format(args);
    let compression = compression(args, format)?;
    check_size(args, format)?;
    let target = Target::from_path(&args.output)?;
    if args.output_args.json && args.output == Path::new("-") {
        bail!("--json and -o - would both write to standard output; choose one");
    }
    if !args.force && fs::metadata(&args.output).is_ok_and(|m| m.is_file()) {
        // Said again by the sink, but there after all the work.
        bail!(
            "{} exists; give --force to replace it",
            args.output.display()
        );
    }

    let context = Context {
        args: &args.image_args,
        messages: &messages,
        interrupt,
    };
    let unit = format.size_unit();
    let ready = disk::ready(&args.image, &args.plan, unit, context, &mut timings)?;
    ready.warnings.iter().for_each(|w| messages.warn(w));
    let reader = &ready.reader;
    let task = messages.task(
        &format!("disk {}", args.output.display()),
        data_len(reader)?,
    );
    let written = sink::write(
        reader,
        target,
        format,
        &sink::Options {
            force: args.force,
            sync: !args.no_sync,
            compression,
            ..sink::Options::default()
        },
        &|bytes| task.advance(bytes),
        interrupt.flag(),
    )?;
    task.finish();
    timings.end("write");

    let report = Report {
        output: args.output.display().to_string(),
        format: format.name(),
        size: reader.size(),
        file_size: written.length,
        image: ready.image,
        disk: ready.disk,
        boot: ready.menu,
        partitions: ready.partitions,
        plan: ready.plan.as_deref().map(PlanReport::from),
        warnings: ready.warnings,
        timings_ms: timings,
    };
    if args.output_args.json {
        return super::print_json(&report);
    }
    let mut lines = Lines::default();
    lines.add("Disk", &report.output);
    lines.add("Format", report.format);
    lines.size("Size", report.size);
    if let Some(image) = &report.image {
        lines.add("Image", &image.reference);
        if let Some(digest) = &image.digest {
            lines.indented(1, "digest", digest);
        }
    }
    if let Some(disk) = &report.disk {
        lines.origin(disk);
    }
    if let Some(boot) = &report.boot {
        lines.boot(boot);
    }
    lines.partitions(&report.partitions);
    messages.note(lines.text().trim_end());
    Ok(())
}

/// Customises the tree and plans the disk, whose size is a multiple of `unit`.
pub(crate) fn plan(loaded: &mut Loaded, args: &PlanArgs, unit: u64) -> anyhow::Result<Disk> {
    plan_of_size(loaded, args, &|natural| natural.next_multiple_of(unit))
}

/// Customises the tree and plans the disk, whose size is what `size` makes of
/// the one that it would have.
pub(crate) fn plan_of_size(
    loaded: &mut Loaded,
    args: &PlanArgs,
    size: &dyn Fn(u64) -> u64,
) -> anyhow::Result<Disk> {
    let parsed = super::customize::parse(&args.customize, loaded)?;
    parsed.customization.apply(&mut loaded.tree)?;
    let reader = SourceReader::new(loaded.tree.sources().to_vec());
    let mut options = assemble::Options {
        architecture: loaded.architecture,
        identity: loaded.identity.clone(),
        time: loaded.time,
        size: match args.size {
            Some(ByteSize(bytes)) => Size::Disk(bytes),
            None => Size::Free(args.free.unwrap_or(DEFAULT_FREE).0),
        },
        esp_size: args.boot.esp_size.map(|size| size.0),
        mode: mode(&args.boot),
        kargs: args.boot.kargs.clone(),
        delete_kargs: args.boot.karg_deletes.clone(),
        stub: args.boot.stub.as_deref().map(given).transpose()?,
        loader: args.boot.loader.as_deref().map(given).transpose()?,
        variant: parsed.canonical,
    };
    let disk = assemble::assemble(&loaded.tree, &reader, &options)?;
    let natural = disk.plan.size();
    let wanted = size(natural);
    if wanted == natural {
        return Ok(disk);
    }
    // More room for the root file system, not a table that does not end where
    // the disk does.
    options.size = Size::Disk(wanted);
    Ok(assemble::assemble(&loaded.tree, &reader, &options)?)
}

fn mode(args: &BootArgs) -> boot::Mode {
    match args.boot {
        None | Some(BootMode::Auto) => boot::Mode::Auto,
        Some(BootMode::Uki) => boot::Mode::Uki,
        Some(BootMode::Bls) => boot::Mode::Bls,
        Some(BootMode::None) => boot::Mode::None,
    }
}

fn given(path: &Path) -> anyhow::Result<boot::Given> {
    let bytes = super::read_limited(path, MAX_EFI)?;
    Ok(boot::Given {
        path: path.display().to_string(),
        bytes: bytes.into(),
    })
}

/// The format asked for, or the one that the output's name suggests.
fn format(args: &BuildArgs) -> Format {
    let by_name = || Format::from_path(&args.output).unwrap_or(Format::Raw);
    args.format.unwrap_or_else(by_name)
}

/// How the contents are compressed, if the format can do what is asked for.
fn compression(args: &BuildArgs, format: Format) -> anyhow::Result<sink::Compression> {
    let known = format.compressions();
    let compression = match args.compress {
        None => return Ok(known.first().copied().unwrap_or_default()),
        Some(Compression::None) => sink::Compression::None,
        Some(Compression::Zlib) => sink::Compression::Zlib,
        Some(Compression::Zstd) => sink::Compression::Zstd,
    };
    if !known.contains(&compression) {
        let (asked, name) = (compression.name(), format.name());
        match known {
            [sink::Compression::None] => bail!(
                "--compress {asked}: {name} has no compression; \
                 leave it out, or use --format qcow2"
            ),
            [only] => bail!(
                "--compress {asked}: {name} is always compressed with {}; leave it out",
                only.name()
            ),
            _ => bail!("--compress {asked}: {name} has no such compression"),
        }
    }
    Ok(compression)
}

/// Refuses a size that the format cannot have, before the work instead of
/// after it.
fn check_size(args: &BuildArgs, format: Format) -> anyhow::Result<()> {
    let unit = format.size_unit();
    if let Some(ByteSize(size)) = args.plan.size
        && unit > MIB
        && !size.is_multiple_of(unit)
    {
        bail!(
            "--size: a disk for {} is a multiple of {}; the next is {}",
            format.name(),
            ByteSize(unit),
            ByteSize(size.next_multiple_of(unit))
        );
    }
    Ok(())
}
