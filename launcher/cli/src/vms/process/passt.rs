//! passt: the process that turns a guest's frames into the host's sockets.
//!
//! It is given one end of a connected socket as its standard input, and ends
//! when the other end is closed. If it ends before, that is told.

use std::ffi::OsString;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};

use super::Teller;
use super::confinement::Confinement;
use crate::args;
use crate::vms::accel::find_program;
use crate::vms::events::Event;
use crate::vms::last_words::last_lines;
use crate::vms::network::{Forward, Protocol};
use crate::vms::spec::Spec;

/// Becomes passt, `command`, in a container that has no namespaces to give.
pub(crate) fn become_passt(command: &[OsString]) -> ExitCode {
    // It touches its large tables here and there: with huge pages, which many
    // systems give to all, they would be twice as large. Without this, it runs.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let error = match (bootwright_vmm::sandbox::pretend_namespaces(), command) {
        (Ok(()), [program, arguments @ ..]) => {
            Command::new(program).args(arguments).exec().to_string()
        }
        (Ok(()), []) => "there is no program to become".to_owned(),
        (Err(error), _) => error.to_string(),
    };
    eprintln!("bootwright: {error}");
    ExitCode::from(crate::vms::exit::NOT_STARTED)
}

/// How long passt may take to say that it cannot start.
const SETTLE: Duration = Duration::from_millis(30);

/// How long a passt may have ended before its guest has.
const FAREWELL: Duration = Duration::from_secs(1);

/// The ports that lead to a guest whose interface lists none. Each costs a
/// socket, of which the kernel takes about 5 KiB; all would be 370 MiB.
const TCP_PORTS: u16 = 11_264;
const UDP_PORTS: u16 = 1024;

/// A passt process; it is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Passt {
    /// Nothing once it is to end.
    child: Arc<Mutex<Option<Child>>>,
    log: PathBuf,
}

/// What passt says where it may not make namespaces: in a container, in a
/// chroot, or on a host that allows them to root alone.
const NO_NAMESPACES: &str = "Couldn't create user namespace";

/// Starts passt for the guest of `spec` at the other end of `socket`. Where
/// there are no namespaces for it to confine itself in, it does without.
pub(super) fn start(socket: OwnedFd, spec: &Spec, mtu: u16, log: &Path) -> anyhow::Result<Passt> {
    let program = find_program("passt").context(
        "--network user needs passt, which is not installed (Debian, Ubuntu, Fedora: passt); \
         --network none does without",
    )?;
    let again = socket.try_clone()?;
    let first = begin(&program, socket, spec, mtu, log, spec.contained)?;
    let (status, said) = match first {
        Begun::Up(passt) => return Ok(passt),
        Begun::Ended(_, said) if said.contains(NO_NAMESPACES) && !spec.contained => {
            match begin(&program, again, spec, mtu, log, true)? {
                Begun::Up(passt) => return Ok(passt),
                Begun::Ended(status, said) => (status, said),
            }
        }
        Begun::Ended(status, said) => (status, said),
    };
    bail!(
        "passt could not start ({status}): {}",
        crate::progress::printable(&said)
    );
}

/// What became of a passt that was started.
enum Begun {
    Up(Passt),
    /// It ended, and said why.
    Ended(ExitStatus, String),
}

fn begin(
    program: &Path,
    socket: OwnedFd,
    spec: &Spec,
    mtu: u16,
    log: &Path,
    contained: bool,
) -> anyhow::Result<Begun> {
    let errors = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = match contained {
        // Through this program, which passt is to believe.
        true => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(args::PASST).arg(program);
            // Without it, root becomes nobody, for which it has no capability.
            let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
            command.args(["--runas", &format!("{user}:{group}")]);
            command
        }
        false => Command::new(program),
    };
    command
        .args(["--foreground", "--quiet", "--stderr", "--fd", "0"])
        .args(["--mtu", &mtu.to_string()])
        .stdin(socket)
        .stdout(Stdio::null())
        .stderr(errors);
    let forwards = spec.all_forwards();
    for (protocol, option) in [
        (Protocol::Tcp, "--tcp-ports"),
        (Protocol::Udp, "--udp-ports"),
    ] {
        for ports in ports(&forwards, spec.all_ports.contains(&protocol), protocol) {
            command.args([option, &ports]);
        }
    }
    let mut child = command.spawn().context("cannot run passt")?;
    thread::sleep(SETTLE);
    let Some(status) = child.try_wait()? else {
        return Ok(Begun::Up(Passt {
            child: Arc::new(Mutex::new(Some(child))),
            log: log.to_owned(),
        }));
    };
    Ok(Begun::Ended(status, said(log)))
}

/// What passt has said last, in one line.
fn said(log: &Path) -> String {
    let mut lines = last_lines(log);
    lines.retain(|line| !line.contains("to syslog"));
    lines.join("; ")
}

/// What passt is told of the ports of one protocol that it forwards.
fn ports(forwards: &[Forward], all: bool, protocol: Protocol) -> Vec<String> {
    if all {
        let last = *unlisted(protocol, getrlimit(Resource::Nofile).maximum).end();
        // Not as a range: of one, each port must be free, and other containers
        // of the pod may have theirs (its manual, `-t`).
        return vec![format!("~{}-{}", last.saturating_add(1), u16::MAX)];
    }
    let of = forwards.iter().filter(|f| f.protocol == protocol);
    let mut ports: Vec<String> = of
        .map(|forward| {
            let address = forward.address.map(|a| format!("{a}/")).unwrap_or_default();
            format!("{address}{}:{}", forward.host, forward.guest)
        })
        .collect();
    if ports.is_empty() {
        ports.push("none".to_owned());
    }
    ports
}

/// The ports that lead to a guest without a list of them, where at most
/// `files` files can be open (none is no limit). A quarter of those is for
/// connections.
fn unlisted(protocol: Protocol, files: Option<u64>) -> RangeInclusive<u16> {
    let most = match protocol {
        Protocol::Tcp => TCP_PORTS,
        Protocol::Udp => UDP_PORTS,
    };
    let wanted = u64::from(TCP_PORTS) + u64::from(UDP_PORTS);
    let fits = files.map_or(wanted, |files| files / 4 * 3).min(wanted);
    let last = u64::from(most) * fits / wanted;
    1..=u16::try_from(last).unwrap_or(most).max(1)
}

impl Passt {
    /// Tells when passt ends and the guest does not.
    pub(super) fn watch(&self, teller: &Teller, confinement: &Confinement) -> anyhow::Result<()> {
        let id = locked(&self.child).as_ref().map(Child::id);
        let id = id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let process = pidfd_open(id.context("passt is gone")?, PidfdFlags::empty())?;
        let (child, log) = (Arc::clone(&self.child), self.log.clone());
        let (teller, confinement) = (teller.clone(), confinement.clone());
        let watch = move || {
            confinement.enter();
            while poll(&mut [PollFd::new(&process, PollFlags::IN)], None).is_err() {}
            // A guest that ends takes passt with it.
            thread::sleep(FAREWELL);
            let Some(child) = &mut *locked(&child) else {
                return;
            };
            let how = match child.try_wait() {
                Ok(Some(status)) => status.to_string(),
                Ok(None) => return,
                Err(error) => error.to_string(),
            };
            let what = match said(&log).as_str() {
                "" => how,
                said => format!("{how}: {said}"),
            };
            teller.tell(&Event::NetworkLost(format!(
                "passt has ended, and with it the guest's network ({what})"
            )));
        };
        thread::Builder::new().name("passt".into()).spawn(watch)?;
        Ok(())
    }
}

fn locked(child: &Mutex<Option<Child>>) -> MutexGuard<'_, Option<Child>> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Passt {
    fn drop(&mut self) {
        if let Some(mut child) = locked(&self.child).take() {
            // It ends by itself when its socket is closed; this makes sure.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn unlisted_ports_fit_into_the_files_that_may_be_open() {
        for (files, tcp, udp) in [
            (None, 11_264, 1024),
            (Some(1 << 20), 11_264, 1024),
            (Some(20_000), 11_264, 1024),
            (Some(4096), 2816, 256),
            (Some(1024), 704, 64),
            (Some(0), 1, 1),
        ] {
            let last = |protocol| *unlisted(protocol, files).end();
            assert_eq!((last(Protocol::Tcp), last(Protocol::Udp)), (tcp, udp));
        }
    }
}
