//! The host's side: unix sockets, in the form that Firecracker made common.
//!
//! Who wants to reach the guest connects to the socket at a path, writes
//! `CONNECT PORT` and a newline, and reads `OK PORT` when the guest has
//! accepted. A port of the host that the guest connects to is the socket at
//! that path with `_PORT` after it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The longest greeting: `CONNECT 4294967295` and a newline.
const LONGEST: usize = 32;

/// The socket that is listened on.
#[derive(Debug)]
pub(super) struct Host {
    path: PathBuf,
    listener: UnixListener,
}

impl Host {
    /// Listens at `path`, which nobody else may be listening at.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let error = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {what}: {error}", path.display()))
        };
        // The longest name that a port may need.
        SocketAddr::from_pathname(port_path(path, u32::MAX))
            .map_err(|e| error("too long a path for a socket", e))?;
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                // Left behind by one that was killed, unless someone answers.
                let refused = |e: io::Error| e.kind() == ErrorKind::ConnectionRefused;
                let left = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                    && UnixStream::connect(path).is_err_and(refused);
                if !left {
                    return Err(error("listening", e));
                }
                fs::remove_file(path).map_err(|e| error("removing what was left", e))?;
                UnixListener::bind(path)
            }
            result => result,
        }
        .map_err(|e| error("listening", e))?;
        let host = Self {
            path: path.to_owned(),
            listener,
        };
        // Who may connect is who may write to it.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .and_then(|()| host.listener.set_nonblocking(true))
            .map_err(|e| error("listening", e))?;
        Ok(host)
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next that wants to reach the guest, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(stream))
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// Connects to who serves `port` of the host.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let address = SocketAddrUnix::new(port_path(&self.path, port))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Succeeds or fails at once: EAGAIN is a listener with a full backlog.
        rustix::net::connect(&socket, &address)?;
        Ok(socket.into())
    }
}

/// The socket behind `port` of the host, where guests reach `path`.
pub fn port_path(path: &Path, port: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("_{port}"));
    name.into()
}

/// What has come of a greeting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeted {
    /// A part of it.
    Partly,
    /// The port of the guest that is wanted.
    Port(u32),
    /// Something else, or nothing.
    No,
}

/// A greeting that is being read.
#[derive(Debug, Default)]
pub(super) struct Greeting(Vec<u8>);

impl Greeting {
    /// Reads on, and nothing of what comes after it.
    pub(super) fn read(&mut self, mut stream: impl Read) -> Greeted {
        // Byte by byte: what follows the line is for the guest.
        let mut byte = [0];
        while self.0.len() < LONGEST {
            match stream.read(&mut byte) {
                Ok(0) => return Greeted::No,
                Ok(_) if byte == *b"\n" => {
                    return parse(&self.0).map_or(Greeted::No, Greeted::Port);
                }
                Ok(_) => self.0.extend(byte),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Greeted::Partly,
                    _ => return Greeted::No,
                },
            }
        }
        Greeted::No
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let (word, port) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let port = port.trim_ascii();
    let number = port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok()?;
    // u32::MAX is VMADDR_PORT_ANY and nobody's port.
    (word.eq_ignore_ascii_case("CONNECT") && number && port != u32::MAX).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_name_a_port() {
        for (line, port) in [
            (&b"CONNECT 22\n"[..], Some(22)),
            (b"connect 4294967294\n", Some(0xffff_fffe)),
            (b"CONNECT 22\r\n", Some(22)),
            (b"CONNECT 4294967295\n", None),
            (b"CONNECT 4294967296\n", None),
            (b"CONNECT +22\n", None),
            (b"CONNECT -1\n", None),
            (b"CONNECT\n", None),
            (b"CONNECT 22", None),
            (b"GET / HTTP/1.1\n", None),
            (b"CONNECT 0000000000000000000000000000022\n", None),
            (b"\xff\n", None),
            (b"\n", None),
        ] {
            let got = match Greeting::default().read(line) {
                Greeted::Port(port) => Some(port),
                _ => None,
            };
            assert_eq!(got, port, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn nothing_after_a_greeting_is_read() {
        let mut bytes = &b"CONNECT 1\nSSH-2.0"[..];
        assert_eq!(Greeting::default().read(&mut bytes), Greeted::Port(1));
        assert_eq!(bytes, b"SSH-2.0");
    }

    #[test]
    fn only_a_socket_that_nobody_listens_at_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        let first = Host::listen(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Host::listen(&path).unwrap_err().to_string();
        assert!(error.contains("vsock: listening: "), "{error}");
        // As if its process had been killed.
        let left = UnixListener::bind(dir.path().join("left")).unwrap();
        drop(left);
        Host::listen(&dir.path().join("left")).unwrap();
        // What is no socket stays.
        drop(first);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"precious").unwrap();
        Host::listen(&path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_leaves_no_room_for_ports_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir
            .path()
            .join("v".repeat(100 - dir.path().as_os_str().len()));
        let error = Host::listen(&path).unwrap_err().to_string();
        assert!(error.contains("too long a path"), "{error}");
    }
}
