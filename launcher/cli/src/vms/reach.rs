//! Reaching a guest's ssh server.
//!
//! systemd 256 and newer listens for ssh at a port of the guest's socket
//! device; that takes no network. Other guests are reached through the port of
//! the host that leads to theirs.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::place::Place;
use super::spec::Ssh;

/// The port of ssh, on the socket device as anywhere (systemd-ssh-generator(8)).
pub(crate) const PORT: u16 = 22;

/// How long one attempt to reach the guest may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The longest answer to a greeting: "OK" and a number.
const LONGEST: usize = 32;

/// A connection to a guest's ssh server.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Over its socket device.
    Vsock(UnixStream),
    /// Over its network.
    Tcp(TcpStream),
}

impl Connection {
    /// Connects in the first way that works.
    pub(crate) fn open(place: &Place, ssh: &Ssh) -> anyhow::Result<Self> {
        Self::open_either(place, Some(ssh.port))
    }

    /// The same, where perhaps no port of the host leads there.
    pub(crate) fn open_either(place: &Place, port: Option<u16>) -> anyhow::Result<Self> {
        let socket = place.vsock();
        if socket.exists() {
            match vsock(&socket) {
                Ok(stream) => return Ok(Self::Vsock(stream)),
                Err(_) if port.is_some() => {}
                Err(error) => bail!(
                    "nobody listens for ssh on the guest's socket device ({error}), which takes \
                     systemd 256 or newer and sshd, and the interface's ports do not include {PORT}"
                ),
            }
        }
        Self::to_port(port, PORT)
    }

    /// Connects to a port of the host that leads to one of the guest.
    pub(crate) fn to_port(port: Option<u16>, guest: u16) -> anyhow::Result<Self> {
        let port = port.with_context(|| {
            format!("port {guest} of the guest is not among the ports of its interface")
        })?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, ATTEMPT)
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok(Self::Tcp(stream))
    }

    /// Reads the greeting of an ssh server (RFC 4253, 4.2). passt takes the
    /// connection before the guest does, so that it is taken says nothing.
    pub(crate) fn hello(self) -> anyhow::Result<()> {
        let mut greeting = [0; 4];
        match self {
            Self::Vsock(mut stream) => {
                stream.set_read_timeout(Some(ATTEMPT))?;
                stream.write_all(b"SSH-2.0-bootwright\r\n")?;
                stream.read_exact(&mut greeting)?;
            }
            Self::Tcp(mut stream) => {
                stream.set_read_timeout(Some(ATTEMPT))?;
                stream.write_all(b"SSH-2.0-bootwright\r\n")?;
                stream.read_exact(&mut greeting)?;
            }
        }
        match &greeting {
            b"SSH-" => Ok(()),
            _ => bail!("no ssh server"),
        }
    }

    /// Copies standard input to it and what comes from it to standard output,
    /// until it ends.
    pub(crate) fn serve(self) -> anyhow::Result<()> {
        match self {
            Self::Vsock(stream) => relay(stream, Shutdown::Write),
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                // What a socket is of does not matter to what is read of it.
                relay(UnixStream::from(OwnedFd::from(stream)), Shutdown::Write)
            }
        }
    }
}

/// Copies standard input to a socket, which is shut down like that at its end,
/// and what comes from it to standard output, until it ends.
pub(crate) fn relay(mut stream: UnixStream, end: Shutdown) -> anyhow::Result<()> {
    let mut to = stream.try_clone()?;
    thread::spawn(move || {
        let _ = copy(&mut io::stdin().lock(), &mut to);
        let _ = to.shutdown(end);
    });
    Ok(copy(&mut stream, &mut io::stdout().lock())?)
}

/// Like [`io::copy`], but nothing waits in a buffer.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(buffer.get(..count).unwrap_or_default())?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Connects to the guest's port through the socket of its device, which takes
/// `CONNECT` and a port, and answers `OK`, or closes if nobody listens there.
fn vsock(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the line is the server's.
    let mut byte = [0];
    while byte != *b"\n" && answer.len() < LONGEST {
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    if !answer.starts_with(b"OK ") {
        let _ = stream.shutdown(Shutdown::Both);
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// What OpenSSH runs to be connected, if the machine has a socket device: this
/// program, which finds the way at that moment.
pub(crate) fn proxy(place: &Place) -> Option<OsString> {
    if !place.vsock().exists() {
        return None;
    }
    let program = std::env::current_exe().ok()?;
    let mut option = OsString::from("ProxyCommand=");
    // ssh replaces what follows a percent sign, and has a shell `exec` the rest.
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"));
    option.push(quoted(program.to_str()?));
    option.push(" ssh-proxy ");
    option.push(quoted(place.name().to_str()?));
    Some(option)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn place(dir: &Path) -> Place {
        Place {
            state: dir.join("it"),
            runtime: dir.to_owned(),
        }
    }

    /// Answers a greeting on the device's socket, then says what a server does.
    fn device(dir: &Path, answer: &'static str) {
        let listener = UnixListener::bind(place(dir).vsock()).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "CONNECT 22\n");
            stream.write_all(answer.as_bytes()).unwrap();
            if answer.contains("SSH") {
                // The greeting of the other side.
                let _ = stream.read(&mut [0; 64]);
            }
        });
    }

    #[test]
    fn the_socket_device_is_used_if_somebody_listens_there_else_the_port() {
        for (answer, vsock) in [
            ("OK 1024\nSSH-2.0-x\r\n", true),
            ("", false),
            ("NO\n", false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            device(dir.path(), answer);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let connection = Connection::open(&place(dir.path()), &Ssh { port }).unwrap();
            match connection {
                Connection::Vsock(_) => {
                    assert!(vsock, "{answer:?}");
                    connection.hello().unwrap();
                }
                Connection::Tcp(_) => assert!(!vsock, "{answer:?}"),
            }
        }
    }

    #[test]
    fn the_proxy_is_named_so_that_a_shell_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(proxy(&place(dir.path())), None);
        std::fs::write(place(dir.path()).vsock(), "").unwrap();
        let option = proxy(&place(dir.path())).unwrap();
        let option = option.to_str().unwrap();
        assert!(option.starts_with("ProxyCommand='/"), "{option}");
        assert!(option.ends_with("' ssh-proxy 'it'"), "{option}");
    }
}
