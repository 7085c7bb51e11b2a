//! Whether this host can run guests on its processor, and if not, what is
//! missing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::spec::Accel;
use crate::args;

/// The program that emulates where nothing else is to be had.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// What is known of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// Flags of the processor.
    vmx: bool,
    svm: bool,
    /// The processor is a virtual one.
    guest: bool,
    /// What opening /dev/kvm said.
    device: Result<(), io::ErrorKind>,
    /// The group of /dev/kvm.
    group: Option<String>,
}

impl Facts {
    fn of_host() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = info.lines().find(|line| line.starts_with("flags"));
        let flag = |name| line.is_some_and(|l| l.split_whitespace().any(|word| word == name));
        let device = File::options().read(true).write(true).open("/dev/kvm");
        let group = fs::metadata("/dev/kvm").ok().and_then(|m| group(m.gid()));
        Self {
            vmx: flag("vmx"),
            svm: flag("svm"),
            guest: flag("hypervisor"),
            device: device.map(drop).map_err(|e| e.kind()),
            group,
        }
    }

    /// What is missing, and what can be done.
    fn problem(&self) -> Option<String> {
        if !self.vmx && !self.svm {
            let how = match self.guest {
                true => {
                    "this is a virtual machine itself, whose host has to enable nested \
                     virtualisation for it"
                }
                false => {
                    "if the processor has it (VT-x, AMD-V or SVM), turn it on in the firmware \
                     (BIOS)"
                }
            };
            return Some(format!(
                "the processor offers no hardware virtualisation (neither vmx nor svm in \
                 /proc/cpuinfo): {how}"
            ));
        }
        let module = if self.vmx { "kvm_intel" } else { "kvm_amd" };
        match self.device {
            Ok(()) => None,
            Err(io::ErrorKind::NotFound) => Some(format!(
                "there is no /dev/kvm: load the kernel module with `modprobe {module}`; if that \
                 fails, virtualisation is off in the firmware (BIOS)"
            )),
            Err(io::ErrorKind::PermissionDenied) => {
                let group = self.group.as_deref().unwrap_or("kvm");
                Some(format!(
                    "/dev/kvm is not for this user: add them to its group with \
                     `usermod --append --groups {group} $USER` and log in again"
                ))
            }
            Err(kind) => Some(format!("/dev/kvm cannot be opened: {kind}")),
        }
    }
}

/// The name of a group.
fn group(gid: u32) -> Option<String> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

/// Where a program is.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0)
}

/// What is to run the guest, and what the user should know about that.
pub(crate) fn choose(wanted: args::Accel) -> anyhow::Result<(Accel, Option<String>)> {
    let facts = Facts::of_host();
    decide(wanted, &facts, find_program(QEMU).is_some())
}

fn decide(
    wanted: args::Accel,
    facts: &Facts,
    qemu: bool,
) -> anyhow::Result<(Accel, Option<String>)> {
    match (wanted, facts.problem()) {
        // Where the device is there, the user may know better.
        (args::Accel::Kvm, Some(problem)) if facts.device.is_err() => bail!("{problem}"),
        (args::Accel::Kvm, problem) => Ok((Accel::Kvm, problem)),
        (args::Accel::Auto, None) => Ok((Accel::Kvm, None)),
        (args::Accel::Auto, Some(problem)) if qemu => Ok((
            Accel::Tcg,
            Some(format!(
                "{problem}. QEMU emulates a processor instead, which is many times slower"
            )),
        )),
        (args::Accel::Auto, Some(problem)) => bail!(
            "{problem}. To have a processor emulated, which is many times slower, install QEMU \
             (Debian, Ubuntu: qemu-system-x86; Fedora: qemu-system-x86-core)"
        ),
        (args::Accel::Tcg, _) if qemu => Ok((Accel::Tcg, None)),
        (args::Accel::Tcg, _) => bail!(
            "--accel tcg needs QEMU: there is no {QEMU} in PATH (Debian, Ubuntu: qemu-system-x86; \
             Fedora: qemu-system-x86-core)"
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn host(vmx: bool, guest: bool, device: Result<(), io::ErrorKind>) -> Facts {
        Facts {
            vmx,
            svm: false,
            guest,
            device,
            group: Some("virt".to_owned()),
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        use io::ErrorKind::{NotFound, PermissionDenied};
        for (facts, words) in [
            (host(true, false, Ok(())), None),
            (host(false, false, Err(NotFound)), Some("(BIOS)")),
            (host(false, true, Ok(())), Some("nested virtualisation")),
            (host(true, false, Err(NotFound)), Some("modprobe kvm_intel")),
            (
                host(true, true, Err(PermissionDenied)),
                Some("--groups virt"),
            ),
        ] {
            let problem = facts.problem();
            assert_eq!(problem.is_some(), words.is_some(), "{facts:?}");
            if let (Some(problem), Some(words)) = (problem, words) {
                assert!(problem.contains(words), "{problem}");
            }
        }
    }

    #[test]
    fn the_best_there_is_runs_the_guest() {
        use args::Accel::{Auto, Kvm, Tcg};
        let good = host(true, false, Ok(()));
        let soft = host(false, true, Ok(()));
        let none = host(false, true, Err(io::ErrorKind::NotFound));
        for (wanted, facts, qemu, expect) in [
            (Auto, &good, true, Some((Accel::Kvm, false))),
            (Auto, &soft, true, Some((Accel::Tcg, true))),
            (Auto, &none, true, Some((Accel::Tcg, true))),
            (Auto, &none, false, None),
            (Kvm, &soft, true, Some((Accel::Kvm, true))),
            (Kvm, &none, true, None),
            (Tcg, &good, true, Some((Accel::Tcg, false))),
            (Tcg, &good, false, None),
        ] {
            let found = decide(wanted, facts, qemu).ok();
            let found = found.map(|(accel, note)| (accel, note.is_some()));
            assert_eq!(found, expect, "{wanted:?} {facts:?} {qemu}");
        }
    }
}
