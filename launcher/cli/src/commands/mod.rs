//! The commands, one module each.

pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod console;
pub(crate) mod convert;
mod customize;
pub(crate) mod inspect;
pub(crate) mod node;
pub(crate) mod push;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod ssh;
pub(crate) mod verify;
pub(crate) mod vms;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::CommandFactory as _;
use serde::Serialize;

use crate::args::Cli;

/// `bootwright completion SHELL`.
pub(crate) fn completion(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bootwright", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Prints a result on standard output.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Reads a file of the host of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(context)?;
    if bytes.len() as u64 > limit {
        bail!("{} is larger than {limit} bytes", path.display());
    }
    Ok(bytes)
}

/// Whether an argument names a disk file and not an image: references never
/// name plain files.
pub(crate) fn is_disk(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() || m.file_type().is_block_device())
}

/// Whether an error is that the reader of our output went away, which is the
/// reader's business and needs no message.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
