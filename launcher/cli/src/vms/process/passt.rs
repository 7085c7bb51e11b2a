//! passt: the process that turns a guest's frames into the host's sockets.
//!
//! It is given one end of a connected socket as its standard input, and ends
//! when the other end is closed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::args;
use crate::vms::accel::find_program;
use crate::vms::network::{Forward, Protocol};
use crate::vms::spec::Spec;

/// Becomes passt, `command`, in a container that has no namespaces to give.
pub(crate) fn become_passt(command: &[OsString]) -> ExitCode {
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

/// A passt process.
#[derive(Debug)]
pub(super) struct Passt(Child);

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
        return Ok(Begun::Up(Passt(child)));
    };
    let said = fs::read_to_string(log).unwrap_or_default();
    let lines = said.lines().filter(|l| !l.contains("to syslog"));
    Ok(Begun::Ended(status, lines.collect::<Vec<_>>().join("; ")))
}

/// What passt is told of the ports of one protocol that it forwards.
fn ports(forwards: &[Forward], all: bool, protocol: Protocol) -> Vec<String> {
    if all {
        // All but those from which programs are given one (its manual, `-t`).
        return vec!["all".to_owned()];
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

impl Drop for Passt {
    fn drop(&mut self) {
        // It ends by itself when its socket is closed; this makes sure.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
