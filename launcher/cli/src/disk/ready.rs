//! A disk that can be read, whatever it was named by.
//!
//! [`ready`] is for commands that take an image and a finished disk alike: of
//! an image the disk is planned, a finished disk is taken as it is. Either
//! way there are its bytes, the plan over packs and files if it is one, and
//! where on it the kernel lies.

use std::sync::Arc;

use bootwright_delivery::metadata::{self, BootInfo, FileOnDisk};
use bootwright_disk::Plan;
use bootwright_disk::reader::{PlanReader, ReadAt};
use bootwright_rootfs::assemble;
use bootwright_rootfs::tree::FileContent;

use super::{Contents, Disk, Found, Report, find};
use crate::args::PlanArgs;
use crate::commands::build;
use crate::image::{Context, ImageReport, Loaded};
use crate::report::{self, BootReport, Partition, Timings};

/// A disk that is ready to be read.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The disk's bytes.
    pub reader: Arc<dyn ReadAt>,
    /// The same as a plan over packs of the store and files of the host,
    /// where it is one.
    pub plan: Option<Arc<Plan>>,
    /// The kernel and what goes with it, where that is known; else
    /// [`discover`](bootwright_rootfs::boot::discover::discover) finds it.
    pub boot: Option<BootInfo>,
    /// What the disk is made of; `None` if it was finished.
    pub image: Option<ImageReport>,
    /// The finished disk; `None` if it was planned.
    pub disk: Option<Report>,
    /// How the disk that was planned boots.
    pub menu: Option<BootReport>,
    /// The partitions.
    pub partitions: Vec<Partition>,
    /// What the user should know.
    pub warnings: Vec<String>,
    // What the reader reads from stays while this lives.
    _held: Held,
}

#[derive(Debug)]
#[expect(dead_code, reason = "it is held, not read")]
enum Held {
    Image(Box<Loaded>),
    Disk(Box<Disk>),
}

/// Makes ready what `target` names. A disk that is planned has a size that is
/// a multiple of `unit`; a finished one takes no options for a plan.
pub(crate) fn ready(
    target: &str,
    args: &PlanArgs,
    unit: u64,
    context: Context<'_>,
    timings: &mut Timings,
) -> anyhow::Result<Ready> {
    match find(target, context, timings)? {
        Found::Image(mut loaded) => {
            let disk = build::plan(&mut loaded, args, unit)?;
            timings.end("plan");
            Ok(planned(loaded, disk))
        }
        Found::Disk(disk) => {
            disk.refuse(args)?;
            Ok(finished(disk))
        }
    }
}

fn planned(loaded: Box<Loaded>, disk: assemble::Disk) -> Ready {
    let warnings = loaded.tree.warnings().iter().chain(&disk.warnings);
    let warnings = warnings.cloned().collect();
    let boot = boot_info(&disk);
    let (menu, partitions) = (BootReport::from(&disk.boot), report::partitions(&disk));
    let plan = Arc::new(disk.plan);
    Ready {
        reader: Arc::new(PlanReader::new(Arc::clone(&plan))),
        plan: Some(plan),
        boot: Some(boot),
        image: Some(loaded.report.clone()),
        disk: None,
        menu: Some(menu),
        partitions,
        warnings,
        _held: Held::Image(loaded),
    }
}

fn finished(disk: Box<Disk>) -> Ready {
    let contents = Contents::of(&*disk.reader);
    Ready {
        reader: Arc::clone(&disk.reader),
        plan: disk.plan.clone(),
        boot: disk.boot.clone(),
        image: None,
        disk: Some(disk.report.clone()),
        menu: None,
        partitions: contents.partitions,
        // What it holds is its maker's business; `inspect` says what is odd.
        warnings: Vec::new(),
        _held: Held::Disk(disk),
    }
}

/// Where the kernel and the initramfs of a planned disk lie on it.
pub(crate) fn boot_info(disk: &assemble::Disk) -> BootInfo {
    let locate = |content: &FileContent| -> Option<FileOnDisk> {
        metadata::locate(&disk.plan, content.size, &content.extents)
    };
    let kernel = &disk.boot.kernel;
    BootInfo {
        kernel_version: kernel.version.clone(),
        command_line: disk.boot.command_line.clone(),
        kernel: locate(&kernel.linux),
        initrd: kernel.initrd.as_ref().and_then(|i| locate(&i.content)),
    }
}
