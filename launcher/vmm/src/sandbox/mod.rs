//! Confinement: what a thread may still do once it works for a guest.
//!
//! A guest that takes over a thread of the machine monitor finds no files, no
//! capabilities, no way to gain any, and only the system calls that the thread
//! makes anyway. Each thread confines itself before it touches anything of the
//! guest's: processors and devices have lists of their own ([`vcpu_thread`],
//! [`device_thread`]), and the thread that makes and controls machines
//! ([`control_thread`]) can reach the files that it was given.
//!
//! What is refused ends the process, with a message that names the system
//! call: carrying on would be carrying on with an intruder.

mod files;
mod pretend;
mod privileges;
mod report;
mod seccomp;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::virtio::worker::OnStart;

/// The status with which a process ends after a forbidden system call: the
/// same as for a guest that crashed.
pub const EXIT_STATUS: u8 = 33;

pub use pretend::pretend_namespaces;

/// A thread that cannot be confined, and must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A privilege cannot be given up.
    #[error("cannot give up {what}: {error}")]
    Privilege {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// Access to files cannot be restricted.
    #[error("cannot restrict access to files (Landlock): {0}")]
    Files(String),
    /// System calls cannot be filtered.
    #[error("cannot filter system calls (seccomp): {0}")]
    Calls(String),
}

/// Files that a thread can still reach by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Read only; folders with all below them.
    pub read: Vec<PathBuf>,
    /// Read, written, made and removed; folders with all below them.
    pub write: Vec<PathBuf>,
    /// Folders in which empty folders can be removed.
    pub emptied: Vec<PathBuf>,
}

/// Confines the calling thread to what a virtual processor does: running the
/// guest, its ports and registers. No file can be opened.
///
/// # Errors
/// If the kernel refuses; the thread must end then.
pub fn vcpu_thread() -> Result<(), SandboxError> {
    enter(&seccomp::VCPU, &Files::default())
}

/// Confines the calling thread, and those that it starts, to what devices do
/// with the descriptors that they hold, and with `files` if they open some
/// only when the guest reads them.
///
/// # Errors
/// If the kernel refuses; the thread must end then.
pub fn device_thread(files: &Files) -> Result<(), SandboxError> {
    match *files == Files::default() {
        true => enter(&seccomp::DEVICE, files),
        false => enter(&seccomp::DEVICE_WITH_FILES, files),
    }
}

/// Confines the calling thread to what the memory device does: giving memory
/// back, and showing the guest more or less of it.
///
/// # Errors
/// If the kernel refuses; the thread must end then.
pub fn memory_thread() -> Result<(), SandboxError> {
    enter(&seccomp::MEMORY_DEVICE, &Files::default())
}

/// Confines the calling thread, and those that it starts, to what making,
/// resetting and controlling a machine takes, with `files` and /dev/kvm the only
/// ones that can be opened.
///
/// # Errors
/// If the kernel refuses; the thread must end then.
pub fn control_thread(files: &Files) -> Result<(), SandboxError> {
    let mut files = files.clone();
    files.write.push("/dev/kvm".into());
    enter(&seccomp::CONTROL, &files)
}

/// Turns off core dumps, in which a guest's memory could be found, and closes
/// descriptors that the process was started with, apart from the three that
/// are standard and those in `keep`.
///
/// To be called at the start, before any thread or descriptor of its own.
///
/// # Errors
/// If the kernel refuses.
pub fn process(keep: &[i32]) -> Result<(), SandboxError> {
    privileges::no_core_dumps()?;
    privileges::close_inherited(keep)
}

/// What devices take to have their threads confined, or not; `files` as for
/// [`device_thread`].
pub fn for_devices(on: bool, files: Files) -> OnStart {
    match on {
        true => Arc::new(move |_| device_thread(&files).map_err(io::Error::other)),
        false => Arc::new(|_| Ok(())),
    }
}

/// The same for the memory device.
pub fn for_memory(on: bool) -> OnStart {
    match on {
        true => Arc::new(|_| memory_thread().map_err(io::Error::other)),
        false => Arc::new(|_| Ok(())),
    }
}

fn enter(calls: &'static seccomp::List, files: &Files) -> Result<(), SandboxError> {
    report::install();
    privileges::drop_all()?;
    files::restrict(files)?;
    // Last, as none of the above is allowed after it.
    seccomp::enter(calls)
}

#[cfg(test)]
mod tests;
