//! The KVM lab: hardware virtualisation where there is none.
//!
//! QEMU emulates a machine whose processor has SVM. In it, a Debian kernel
//! loads kvm-amd, and the release binary runs guests through the real KVM.
//! The outer machine is called L1, the guests in it L2.

mod assets;
pub(crate) mod cpio;
mod disk;
mod foreign;
mod guests;
mod initramfs;
mod machine;
mod pod;
mod runner;
mod scenarios;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};

pub(crate) use assets::{examples, prepare};
pub(crate) use machine::Machine;
pub(crate) use runner::STILL;

/// What to do in the lab.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only scenarios whose name contains this
    #[arg(long, value_name = "WORDS", conflicts_with = "command")]
    scenario: Option<String>,
    /// Have the image, the disks and the pods in /disk for the command
    #[arg(long)]
    disk: bool,
    /// Have QEMU there for the command (`qemu -L /lab/files` and `qemu-img`), and
    /// `stopwatch`, which says how long a guest takes and what memory beside its own
    #[arg(long)]
    qemu: bool,
    /// Run this static binary instead of building the release
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// A command for the shell of L1; without one, all scenarios run.
    /// Kernels are in /lab, programs in /lab/bin
    #[arg(last = true)]
    command: Vec<String>,
}

/// Runs a command in the lab, or scenarios.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut lab = assets::prepare(options.binary.as_deref())?;
    if options.command.is_empty() {
        return runner::run(&lab, options.scenario.as_deref().unwrap_or_default());
    }
    if options.qemu {
        lab.programs.extend(examples(&["stopwatch"])?);
        lab.add_qemu();
    }
    let machine = Machine {
        disks: match options.disk {
            true => disk::make(&lab, true)?,
            false => Vec::new(),
        },
        ..Machine::default()
    };
    let status = machine.run(&lab, &options.command.join(" "), |output| {
        let mut stdout = std::io::stdout();
        stdout.write_all(output)?;
        Ok(stdout.flush()?)
    })?;
    match status {
        0 => Ok(()),
        status => bail!("the command ended with status {status}"),
    }
}

/// All scenarios, as a part of the tests.
pub(crate) fn test() -> Result<()> {
    runner::run(&assets::prepare(None)?, "")
}
