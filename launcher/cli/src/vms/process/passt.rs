//! passt: the process that turns a guest's frames into the host's sockets.
//!
//! It is given one end of a connected socket as its standard input, and ends
//! when the other end is closed.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::vms::accel::find_program;
use crate::vms::network::{Forward, Protocol};

/// How long passt may take to say that it cannot start.
const SETTLE: Duration = Duration::from_millis(30);

/// A passt process.
#[derive(Debug)]
pub(super) struct Passt(Child);

/// Starts passt for the guest at the other end of `socket`.
pub(super) fn start(
    socket: OwnedFd,
    forwards: &[Forward],
    mtu: u16,
    log: &Path,
) -> anyhow::Result<Passt> {
    let program = find_program("passt").context(
        "--network user needs passt, which is not installed (Debian, Ubuntu, Fedora: passt); \
         --network none does without",
    )?;
    let errors = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command
        .args(["--foreground", "--quiet", "--stderr", "--fd", "0"])
        .args(["--mtu", &mtu.to_string()])
        .stdin(socket)
        .stdout(Stdio::null())
        .stderr(errors);
    for (protocol, option) in [
        (Protocol::Tcp, "--tcp-ports"),
        (Protocol::Udp, "--udp-ports"),
    ] {
        let ports = forwards.iter().filter(|f| f.protocol == protocol);
        let mut any = false;
        for forward in ports {
            any = true;
            let address = forward.address.map(|a| format!("{a}/")).unwrap_or_default();
            let ports = format!("{address}{}:{}", forward.host, forward.guest);
            command.args([option, &ports]);
        }
        if !any {
            command.args([option, "none"]);
        }
    }
    let mut child = command.spawn().context("cannot run passt")?;
    thread::sleep(SETTLE);
    if let Some(status) = child.try_wait()? {
        let said = fs::read_to_string(log).unwrap_or_default();
        let lines = said.lines().filter(|l| !l.contains("to syslog"));
        let said = lines.collect::<Vec<_>>().join("; ");
        bail!(
            "passt could not start ({status}): {}",
            crate::progress::printable(&said)
        );
    }
    Ok(Passt(child))
}

impl Drop for Passt {
    fn drop(&mut self) {
        // It ends by itself when its socket is closed; this makes sure.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
