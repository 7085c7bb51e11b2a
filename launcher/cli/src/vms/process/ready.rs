//! The guest's word that it has booted: its service manager writes `READY=1`
//! to a port of the host (systemd's sd_notify(3), and `vmm.notify_socket` in
//! systemd.system-credentials(7)), which a unix socket stands for.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

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

/// Calls `ready` when the guest says at `socket` that it has booted.
pub(super) fn listen(socket: &Path, ready: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
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
        listen(&socket, move || sender.send(()).unwrap()).unwrap();
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
}
