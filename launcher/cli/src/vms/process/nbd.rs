//! Disks served to QEMU.

use std::fs;
use std::io::BufReader;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use bootwright_disk::nbd::{self, Export, WriteAt};
use bootwright_vmm::block::Backend;

use crate::vms::block::Disk;

/// Serves `disk` at `socket` for as long as the process lives.
pub(super) fn serve(socket: &Path, disk: &Arc<dyn Backend>) -> anyhow::Result<()> {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
    let disk = Arc::new(Disk(Arc::clone(disk)));
    thread::Builder::new().name("nbd".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let disk = Arc::clone(&disk);
            let work = move || talk(&stream, &disk);
            if let Err(error) = thread::Builder::new().name("nbd-client".into()).spawn(work) {
                eprintln!("nbd: {error}");
            }
        }
    })?;
    Ok(())
}

fn talk(stream: &UnixStream, disk: &Disk) {
    let writable = !disk.0.limits().read_only;
    let export = Export {
        name: "disk",
        description: "",
        disk,
        writer: writable.then_some(disk as &dyn WriteAt),
        warn: &|text| eprintln!("nbd: {text}"),
    };
    // That QEMU hangs up is how it ends.
    if let Err(error) = nbd::serve(BufReader::new(stream), stream, &export)
        && !matches!(error, nbd::NbdError::Io(_))
    {
        eprintln!("nbd: {error}");
    }
}
