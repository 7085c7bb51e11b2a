//! qcow2 files, over backing files if the user allows them.
//!
//! A qcow2 can name a file of the host that it lies over, and that name is its
//! maker's. It is followed only to files that the user has named with
//! `--backing`; those are read and never written.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bootwright_vmm::block::{Backend, Qcow2Disk, RawDisk};

/// The first bytes of a qcow2 (QEMU's docs/interop/qcow2, "Header").
const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The longest chain of files over files.
const LONGEST: usize = 16;

/// Whether the file is a qcow2.
pub(crate) fn is_qcow2(path: &Path) -> anyhow::Result<bool> {
    let context = || format!("cannot read {}", path.display());
    let mut magic = Vec::new();
    let file = File::open(path).with_context(context)?;
    file.take(MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .with_context(context)?;
    Ok(magic == MAGIC)
}

/// Opens a qcow2; `allowed` are the files that may lie below it.
pub(crate) fn open(path: &Path, read_only: bool, allowed: &[PathBuf]) -> anyhow::Result<Qcow2Disk> {
    open_chain(path, read_only, allowed, 1)
}

fn open_chain(
    path: &Path,
    read_only: bool,
    allowed: &[PathBuf],
    length: usize,
) -> anyhow::Result<Qcow2Disk> {
    if length > LONGEST {
        bail!("{}: a chain of more than {LONGEST} files", path.display());
    }
    let backing = match Qcow2Disk::backing_name(path)? {
        Some(name) => Some(open_backing(path, &name, allowed, length)?),
        None => None,
    };
    Ok(Qcow2Disk::open(path, read_only, backing)?)
}

/// Opens what `name` in the header of `path` means, if that is allowed.
fn open_backing(
    path: &Path,
    name: &str,
    allowed: &[PathBuf],
    length: usize,
) -> anyhow::Result<Arc<dyn Backend>> {
    // A relative name is one beside the file that has it.
    let folder = path.parent().unwrap_or(Path::new("."));
    let found = fs::canonicalize(folder.join(name));
    let Some(file) = found.ok().filter(|found| allowed.contains(found)) else {
        bail!(
            "{}: a qcow2 over the backing file \"{name}\", which is not opened unless --backing \
             {name} allows it; or make one file of both with `qemu-img convert`",
            path.display()
        );
    };
    Ok(match is_qcow2(&file)? {
        true => Arc::new(open_chain(&file, true, allowed, length + 1)?),
        false => Arc::new(RawDisk::open(&file, true)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    /// A qcow2 over a qcow2 over a raw file, made by `qemu-img`.
    fn chain(dir: &Path) {
        let mut bytes = vec![1; 1 << 20];
        bytes[512] = 7;
        fs::write(dir.join("base.raw"), bytes).unwrap();
        for (file, base, format) in [
            ("middle.qcow2", "base.raw", "raw"),
            ("top.qcow2", "middle.qcow2", "qcow2"),
        ] {
            let status = Command::new("qemu-img")
                .args([
                    "create", "-q", "-f", "qcow2", "-b", base, "-F", format, file,
                ])
                .current_dir(dir)
                .status()
                .unwrap();
            assert!(status.success());
        }
    }

    #[test]
    fn backing_files_are_opened_only_where_the_user_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        chain(&dir);
        let top = dir.join("top.qcow2");
        let all = ["middle.qcow2", "base.raw"].map(|name| dir.join(name));
        for (allowed, refused) in [
            (&all[..0], "--backing middle.qcow2 allows"),
            (&all[..1], "--backing base.raw allows"),
            (&all[1..], "--backing middle.qcow2 allows"),
        ] {
            let error = open(&top, true, allowed).unwrap_err().to_string();
            assert!(error.contains(refused), "{error}");
        }
        let disk = open(&top, false, &all).unwrap();
        let mut bytes = [0; 2];
        bootwright_vmm::block::read_at(&disk, 511, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 7]);
        bootwright_vmm::block::write_at(&disk, 0, &[9; 512]).unwrap();
        disk.flush().unwrap();
        assert_eq!(fs::read(&all[1]).unwrap()[0], 1);
    }
}
