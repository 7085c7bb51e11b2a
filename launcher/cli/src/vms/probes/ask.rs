//! Has the guest of a running machine run the command of a probe.
//!
//! In: a machine's folders, and which probe. Out: what the command printed, or
//! in one sentence why the probe fails. The guest may answer what it likes, or
//! not at all: no more than [`LONGEST`] is read, for no longer than the
//! probe's timeout.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Kind, LONGEST, Until};
use crate::progress::printable;
use crate::vms::place::Place;
use crate::vms::spec::{Accel, Spec};

/// The longest line that says that the guest has been reached.
const GREETING: usize = 32;

/// Has the guest run the command; returns what it printed last.
///
/// # Errors
/// If it fails, does not end in time, or cannot be run.
pub(crate) fn ask(place: &Place, kind: Kind) -> anyhow::Result<String> {
    let since = Instant::now();
    let spec = Spec::load(&place.state)?;
    let name = kind.name();
    let exec = kind
        .of(&spec.probes)
        .with_context(|| format!("this machine has no command for {name}"))?;
    let way = match spec.accel {
        Accel::Kvm => Way {
            socket: place.vsock(),
            greeting: Some(format!("CONNECT {}\n", kind.vsock_port())),
        },
        Accel::Tcg => Way {
            socket: kind.socket(place),
            greeting: None,
        },
    };
    let limit = Duration::from_secs(exec.timeout_seconds.into());
    let answer = way.answer(since + limit, limit)?;
    let (output, status) = parsed(&answer)?;
    let output = printable(output.trim());
    match (status, output.as_str()) {
        (0, _) => Ok(output),
        (_, "") => bail!("the command ended in the guest with status {status}"),
        _ => bail!("the command ended in the guest with status {status}: {output}"),
    }
}

/// How the guest is reached.
#[derive(Debug)]
struct Way {
    /// The socket that leads to it.
    socket: PathBuf,
    /// What is said there first.
    greeting: Option<String>,
}

impl Way {
    /// What the guest answers until `end`, which is after `limit`.
    fn answer(&self, end: Instant, limit: Duration) -> anyhow::Result<Vec<u8>> {
        let limit = limit.as_secs();
        let nobody = || {
            anyhow!(
                "the guest does not take the question: it is still booting, hangs, or has no \
                 systemd 256 or newer to run the command"
            )
        };
        let mut stream = match connect(&self.socket) {
            Ok(stream) => Until { stream, end },
            // A full backlog: the guest has taken none for a while.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(nobody()),
            Err(error) => return Err(anyhow!(error).context("the machine does not run")),
        };
        if let Some(greeting) = &self.greeting {
            // A new socket has room for it.
            let sent = stream.stream.write_all(greeting.as_bytes());
            sent.map_err(|_| nobody())?;
        }
        // Byte by byte: what follows the line is the answer.
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" && line.len() < GREETING {
            match stream.read(&mut byte) {
                Ok(1..) => line.extend(byte),
                _ => return Err(nobody()),
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(nobody());
        }
        let mut answer = Vec::new();
        let most = LONGEST as u64 + 1;
        match (&mut stream).take(most).read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                bail!("the command did not end in the guest within {limit} s")
            }
            Err(error) => return Err(anyhow!(error).context("the guest has ended the connection")),
        }
        if answer.len() > LONGEST {
            bail!("the guest answers with more than {LONGEST} bytes, which no exit status has");
        }
        Ok(answer)
    }
}

/// Connects without ever waiting for it.
fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &address)?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// What a command printed, and its status, which is the last line.
fn parsed(answer: &[u8]) -> anyhow::Result<(String, u8)> {
    let text = String::from_utf8_lossy(answer);
    let text = text.trim_end();
    if text.is_empty() {
        bail!(
            "the guest has answered nothing: the command was ended, or there is no /bin/sh or \
             tail in the guest to run it with"
        );
    }
    let (output, status) = text.rsplit_once('\n').unwrap_or(("", text));
    let digits = status.bytes().all(|b| b.is_ascii_digit());
    match status.parse().ok().filter(|_| digits) {
        Some(status) => Ok((output.to_owned(), status)),
        None => {
            let shown: String = printable(status).chars().take(80).collect();
            bail!("the guest answers with {shown:?}, which is no exit status")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// What comes of a guest that does this with its connection within a
    /// second, and how long that takes.
    fn of(guest: impl FnOnce(UnixStream) + Send + 'static) -> (Result<String, String>, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut greeting = [0; 13];
            stream.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"CONNECT 9101\n");
            guest(stream);
        });
        let way = Way {
            socket,
            greeting: Some("CONNECT 9101\n".to_owned()),
        };
        let since = Instant::now();
        let limit = Duration::from_secs(1);
        let answer = way.answer(since + limit, limit);
        let result = answer.and_then(|answer| {
            let (output, status) = parsed(&answer)?;
            Ok(format!("{status} {output}"))
        });
        (result.map_err(|e| format!("{e:#}")), since.elapsed())
    }

    fn says(text: &'static str) -> Result<String, String> {
        of(move |mut stream| stream.write_all(text.as_bytes()).unwrap()).0
    }

    #[test]
    fn a_status_and_what_was_printed_before_it_are_an_answer() {
        assert_eq!(says("OK 1\n\n0\n"), Ok("0 ".to_owned()));
        assert_eq!(says("OK 1\n0"), Ok("0 ".to_owned()));
        assert_eq!(says("OK 1\na\nb\n\n3\n"), Ok("3 a\nb\n".to_owned()));
        // Twice is once, with more before it.
        assert_eq!(says("OK 1\n\n0\n\n7\n"), Ok("7 \n0\n".to_owned()));
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        for (text, words) in [
            ("", "does not take the question"),
            ("OK 1", "does not take the question"),
            (
                "a line that is no greeting at all\n",
                "does not take the question",
            ),
            ("OK 1\n", "answered nothing"),
            ("OK 1\n\n\n", "answered nothing"),
            ("OK 1\nhello\n", "\"hello\", which is no exit status"),
            ("OK 1\n256\n", "\"256\", which is no exit status"),
            ("OK 1\n+0\n", "\"+0\", which is no exit status"),
            ("OK 1\n-1\n", "\"-1\", which is no exit status"),
        ] {
            let error = says(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        let garbage = |mut stream: UnixStream| stream.write_all(b"OK 1\n\xff\x1b[2J\0").unwrap();
        let error = of(garbage).0.unwrap_err();
        assert!(error.contains("which is no exit status"), "{error}");
        assert!(!error.contains('\x1b'), "{error:?}");
    }

    #[test]
    fn nobody_waits_longer_than_the_timeout() {
        let silent = |mut stream: UnixStream| drop(stream.read(&mut [0]));
        let (result, time) = of(silent);
        assert!(result.unwrap_err().contains("does not take the question"));
        assert!(time < Duration::from_secs(5), "{time:?}");
        let slow = |mut stream: UnixStream| {
            stream.write_all(b"OK 1\nhalf").unwrap();
            let _ = stream.read(&mut [0]);
        };
        let (result, time) = of(slow);
        assert!(
            result
                .unwrap_err()
                .contains("did not end in the guest within 1 s")
        );
        assert!(time < Duration::from_secs(5), "{time:?}");
        // A byte now and then does not make it longer.
        let drips = |mut stream: UnixStream| {
            let _ = stream.write_all(b"OK 1\n");
            while stream.write_all(b"0").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        };
        let (result, time) = of(drips);
        assert!(
            result
                .unwrap_err()
                .contains("did not end in the guest within 1 s")
        );
        assert!(time < Duration::from_secs(5), "{time:?}");
    }

    #[test]
    fn a_flood_is_not_read() {
        let flood = |mut stream: UnixStream| {
            let _ = stream.write_all(b"OK 1\n");
            while stream.write_all(&[b'\n'; 4096]).is_ok() {}
        };
        let (result, time) = of(flood);
        assert!(result.unwrap_err().contains("more than"));
        assert!(time < Duration::from_secs(1), "{time:?}");
    }

    #[test]
    fn a_machine_that_takes_no_connections_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let way = |socket: &Path| Way {
            socket: socket.to_owned(),
            greeting: None,
        };
        let limit = Duration::from_secs(1);
        let ask = || {
            let answer = way(&socket).answer(Instant::now() + limit, limit);
            format!("{:#}", answer.unwrap_err())
        };
        assert!(ask().contains("the machine does not run"));
        let _listener = UnixListener::bind(&socket).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = connect(&socket) {
            waiting.push(stream);
        }
        assert!(!waiting.is_empty());
        assert!(ask().contains("does not take the question"));
    }
}
