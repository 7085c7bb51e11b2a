//! Confining the threads of a machine's process that are no device's.
//!
//! Each does so before it hears anything of the guest or of a client. What they
//! have in common is a list of system calls that cannot start programs, and the
//! machine's own folders as the only files; the main thread, which finds the
//! kernel again after a reset, has the files for that, too.

use std::path::{Path, PathBuf};
use std::process;

use bootwright_vmm::sandbox::{self, Files, SandboxError};

use crate::vms::block::Opened;
use crate::vms::exit::NOT_STARTED;
use crate::vms::place::Place;
use crate::vms::spec::{Accel, Spec};

/// How threads are confined; if they are.
#[derive(Debug, Clone)]
pub(super) struct Confinement(Option<Files>);

impl Confinement {
    /// That of the machine's process. With QEMU it is none of ours to confine:
    /// the guest is in QEMU's process.
    pub(super) fn of(spec: &Spec, place: &Place) -> Self {
        let parent = |path: &Path| path.parent().map(PathBuf::from);
        let folders = [&place.state, &place.runtime];
        let files = Files {
            read: Vec::new(),
            write: vec![
                place.state.clone(),
                place.runtime.clone(),
                place.gate_path(),
            ],
            // The folders go with the machine.
            emptied: folders.into_iter().filter_map(|f| parent(f)).collect(),
        };
        Self((spec.sandbox && spec.accel == Accel::Kvm).then_some(files))
    }

    /// None at all.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Confines a helper thread. One that cannot be must not go on, and neither
    /// can the machine without it.
    pub(super) fn enter(&self) {
        let Some(files) = &self.0 else { return };
        if let Err(error) = sandbox::control_thread(files) {
            eprintln!("bootwright: {error}");
            process::exit(NOT_STARTED.into());
        }
    }

    /// Confines the main thread, and those that it starts from now on.
    pub(super) fn enter_main(
        &self,
        spec: &Spec,
        disks: &[Opened],
        kernel_cache: Option<PathBuf>,
    ) -> Result<(), SandboxError> {
        let Some(files) = &self.0 else { return Ok(()) };
        let mut files = files.clone();
        let folders = disks.iter().flat_map(|disk| &disk.folders);
        files.read.extend(folders.cloned());
        let boot = &spec.boot;
        files.read.extend(boot.kernel.iter().cloned());
        files.read.extend(boot.initrd.iter().cloned());
        if let Some(planned) = &boot.planned {
            let pieces = std::iter::once(&planned.kernel).chain(&planned.initrd);
            files.read.extend(pieces.map(|piece| piece.path.clone()));
        }
        files.write.extend(kernel_cache);
        sandbox::control_thread(&files)
    }
}
