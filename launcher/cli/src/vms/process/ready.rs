//! The guest's word that it has booted: its service manager writes `READY=1`
//! to a port of the host (systemd's sd_notify(3), and `vmm.notify_socket` in
//! systemd.system-credentials(7)), which a unix socket stands for.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::Teller;
use super::control::Control;
use crate::vms::events::Event;

/// The port of the host that the guest writes to.
pub(super) const PORT: u32 = 9100;

/// The longest message, in bytes.
const MAX_MESSAGE: u64 = 64 << 10;

/// How long a message may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// The credential that tells the guest where to write to: the host is 2.
pub(super) fn credential() -> String {
    let value = format!("vsock-stream:2:{PORT}");
    crate::vms::credentials::credential("vmm.notify_socket", value.as_bytes())
}

/// What is to happen when the guest says so.
pub(super) fn teller(control: &Arc<Control>, teller: &Teller) -> impl Fn() + Send + 'static {
    let (control, teller) = (Arc::clone(control), teller.clone());
    move || {
        control.set_ready();
        teller.tell(&Event::Ready);
    }
}

/// A socket that a guest is led to.
pub(super) fn listener(socket: &Path) -> anyhow::Result<UnixListener> {
    let _ = fs::remove_file(socket);
    UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))
}

/// Calls `ready` when the guest says at `listener` that it has booted.
pub(super) fn listen(
    listener: UnixListener,
    ready: impl Fn() + Send + 'static,
) -> anyhow::Result<()> {
    thread::Builder::new().name("ready".into()).spawn(move || {
        // One after the other: what the guest holds up is only this.
        for stream in listener.incoming().flatten() {
            if says_ready(&stream).unwrap_or(false) {
                ready();
            }
        }
    })?;
    Ok(())
}

/// Name of the port on which a guest without a socket device says so.
pub(super) const PORT_NAME: &str = "dev.bootwright.ready";

/// The unit by which it does (systemd.system-credentials(7),
/// `systemd.extra-unit`, from systemd 256 on).
const UNIT: &str = "\
[Unit]
Description=Tell the host that this machine has booted
DefaultDependencies=no
After=multi-user.target
ConditionPathExists=/dev/virtio-ports/dev.bootwright.ready

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo READY=1 >/dev/virtio-ports/dev.bootwright.ready'
";

/// The credentials that have a guest without a socket device say so.
pub(super) fn port_credentials() -> [String; 2] {
    let credential =
        |name, text: &str| super::super::credentials::credential(name, text.as_bytes());
    [
        credential("systemd.extra-unit.bootwright-ready.service", UNIT),
        credential(
            "systemd.unit-dropin.multi-user.target~bootwright",
            "[Unit]\nWants=bootwright-ready.service\n",
        ),
    ]
}

/// Calls `ready` each time that the guest says so on its port, the other end
/// of `stream`, until the machine ends.
pub(super) fn follow(stream: UnixStream, ready: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new().name("ready".into()).spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            // A guest that writes no line ends is not heard, and costs no more
            // than this.
            match stream
                .by_ref()
                .take(MAX_MESSAGE)
                .read_until(b'\n', &mut line)
            {
                Ok(0) | Err(_) => return,
                Ok(_) if line == b"READY=1\n" => ready(),
                Ok(_) => {}
            }
        }
    })?;
    Ok(())
}

/// Whether a message, which a connection has only one of, says so.
fn says_ready(stream: &UnixStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut message = Vec::new();
    stream.take(MAX_MESSAGE).read_to_end(&mut message)?;
    Ok(message
        .split(|b| *b == b'\n')
        .any(|line| line == b"READY=1"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_the_word_itself_counts() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (sender, ready) = mpsc::channel();
        listen(listener(&socket).unwrap(), move || sender.send(()).unwrap()).unwrap();
        let say = |text: &[u8]| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(text).unwrap();
        };
        say(b"STATUS=booting\nNOT_READY=1\n");
        say(&vec![b'x'; 100_000]);
        assert!(ready.try_recv().is_err());
        say(b"X_SYSTEMD_HOSTNAME=a\nREADY=1\nSTATUS=Ready.\n");
        ready.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(ready.try_recv().is_err());
    }
    #[test]
    fn a_port_is_heard_line_by_line_until_it_closes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, ready) = mpsc::channel();
        follow(ours, move || sender.send(()).unwrap()).unwrap();
        let mut guest = theirs;
        guest.write_all(b"STATUS=x\nNOT_READY=1\n").unwrap();
        guest.write_all(&vec![b'x'; 100_000]).unwrap();
        guest.write_all(b"\nREADY=1\n").unwrap();
        ready.recv_timeout(Duration::from_secs(20)).unwrap();
        drop(guest);
        // The thread has ended, and said nothing more.
        assert!(ready.recv_timeout(Duration::from_secs(20)).is_err());
    }
}
