//! The disk that a machine boots from, of an image or of a finished disk.

use std::path::Path;

use anyhow::{Context as _, bail};
use bootwright_disk::reader::data_len;
use bootwright_disk::sink::{self, Format, Target};
use bootwright_rootfs::boot::Architecture;

use crate::args::{BootArgs, ByteSize, CustomizeArgs, PlanArgs, RootArgs};
use crate::commands;
use crate::disk::Disk;
use crate::image::{Context, Loaded};
use crate::progress::Messages;
use crate::vms::kernel::Piece;
use crate::vms::spec::{Base, Planned};
use crate::vms::stored_plan;

/// Free space on a disk that is made of an image: it takes no space of the
/// host until it is written.
const FREE: u64 = 8 << 30;

/// Plans the disk of an image and writes the plan into the folder `dir`.
pub(crate) fn of_image(
    loaded: &mut Loaded,
    args: &RootArgs,
    dir: &Path,
    messages: &Messages,
) -> anyhow::Result<(Base, Option<Planned>)> {
    if loaded.architecture != Architecture::X86_64 {
        bail!(
            "{} is for {}, and this program runs x86-64 only",
            loaded.report.reference,
            loaded.report.platform
        );
    }
    let disk = commands::build::plan(loaded, &plan_args(args), 1)?;
    let warnings = loaded.tree.warnings().iter().chain(&disk.warnings);
    warnings.for_each(|w| messages.warn(w));
    stored_plan::save(&disk.plan, dir)?;
    let sources = disk.plan.sources();
    let kernel = &disk.boot.kernel;
    let piece = |content, name| {
        Piece::of(content, sources, &dir.join(name))
            .with_context(|| format!("cannot read the image's {name}"))
    };
    let planned = Planned {
        kernel: piece(&kernel.linux, "kernel")?,
        initrd: kernel
            .initrd
            .as_ref()
            .map(|initrd| piece(&initrd.content, "initrd"))
            .transpose()?,
        command_line: disk.boot.command_line,
    };
    Ok((Base::Plan(dir.to_owned()), Some(planned)))
}

/// Writes the plan of a disk that came from a registry into the folder `dir`,
/// or, where it is none, the disk to `copy`.
pub(crate) fn of_disk(
    disk: &Disk,
    dir: &Path,
    copy: &Path,
    context: Context<'_>,
) -> anyhow::Result<(Base, Option<Planned>)> {
    let base = match &disk.plan {
        Some(plan) => {
            stored_plan::save(plan, dir)?;
            Base::Plan(dir.to_owned())
        }
        None => {
            self::copy(disk, copy, context)?;
            Base::Raw(copy.to_owned())
        }
    };
    let Some((boot, kernel)) = (disk.boot.as_ref()).and_then(|b| Some((b, b.kernel.as_ref()?)))
    else {
        return Ok((base, None));
    };
    let piece = |file, name| {
        Piece::on_disk(file, &*disk.reader, disk.plan.as_deref(), &dir.join(name))
            .with_context(|| format!("cannot read the {name} of {}", disk.report.name))
    };
    let planned = Planned {
        kernel: piece(kernel, "kernel")?,
        initrd: (boot.initrd.as_ref())
            .map(|initrd| piece(initrd, "initrd"))
            .transpose()?,
        command_line: boot.command_line.clone(),
    };
    Ok((base, Some(planned)))
}

/// Copies a disk, holes and all.
fn copy(disk: &Disk, path: &Path, context: Context<'_>) -> anyhow::Result<()> {
    let messages = context.messages;
    let task = messages.task("copy of the disk", data_len(&*disk.reader)?);
    sink::write(
        &*disk.reader,
        Target::Path(path.to_owned()),
        Format::Raw,
        &sink::Options {
            sync: false,
            ..sink::Options::default()
        },
        &|bytes| task.advance(bytes),
        context.interrupt.flag(),
    )?;
    task.finish();
    Ok(())
}

fn plan_args(args: &RootArgs) -> PlanArgs {
    PlanArgs {
        size: args.size,
        free: Some(args.free.unwrap_or(ByteSize(FREE))),
        boot: BootArgs {
            boot: None,
            kargs: Vec::new(),
            karg_deletes: Vec::new(),
            stub: None,
            loader: None,
            esp_size: None,
        },
        customize: CustomizeArgs {
            hostname: None,
            ssh_keys: Vec::new(),
            users: args.users.clone(),
            root_password_file: args.root_password_file.clone(),
            files: args.files.clone(),
        },
    }
}
