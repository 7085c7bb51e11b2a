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

/// Endings of names that disk files have, and images in registries hardly.
const DISK_ENDINGS: [&str; 8] = ["raw", "img", "qcow2", "vmdk", "vhd", "vpc", "vhdx", "iso"];

/// The disk file that an argument names, or none if it names an image:
/// references never name plain files.
///
/// # Errors
/// There is no such file, and it is no image that is meant.
pub(crate) fn disk_file(target: &str) -> anyhow::Result<Option<&Path>> {
    let path = Path::new(target);
    if let Ok(metadata) = path.metadata() {
        let is_disk = metadata.is_file() || metadata.file_type().is_block_device();
        return Ok(is_disk.then_some(path));
    }
    let ending = path.extension().and_then(|ending| ending.to_str());
    // A tag, a digest, a transport or a registry's port has a colon.
    let names_image = target.contains(':')
        || target.split_once('/').is_some_and(|(host, _)| {
            host == "localhost" || host.contains('.') && !host.trim_matches('.').is_empty()
        });
    if !names_image && ending.is_some_and(|ending| DISK_ENDINGS.contains(&ending)) {
        bail!("{target}: no such file");
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_not_there_is_no_image() {
        for name in [
            "nope.qcow2",
            "./nope.raw",
            "../a/nope.img",
            "/nope.vhdx",
            "a/b.iso",
        ] {
            let error = disk_file(name).unwrap_err();
            assert_eq!(error.to_string(), format!("{name}: no such file"));
        }
        for name in [
            "debian",
            "debian.raw:1",
            "quay.io/a/b.raw",
            "localhost/a.img",
            "oci:a.raw",
        ] {
            assert_eq!(disk_file(name).unwrap(), None, "{name}");
        }
        assert_eq!(disk_file("/tmp").unwrap(), None);
    }
}
