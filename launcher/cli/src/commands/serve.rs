//! `bootwright serve`: a disk over NBD, written nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, bail};
use bootwright_delivery::metadata::BootInfo;
use bootwright_disk::nbd::{self, Export, NbdError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;
use serde::Serialize;

use crate::args::{ByteSize, ServeArgs};
use crate::disk;
use crate::image::{Context, ImageReport};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::Timings;

/// Connections at once: each has a thread and a few MiB.
const MAX_CONNECTIONS: usize = 64;

/// How long a signal may go unnoticed if it does not end the wait by itself.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};

/// What the disk is called among a server's exports.
const NAME: &str = "disk";

/// What is served, for `--json`: printed when clients can connect.
#[derive(Debug, Serialize)]
struct Report<'a> {
    uri: String,
    /// Size of the disk in bytes.
    size: u64,
    /// What the disk is made of; null for a finished disk.
    image: Option<&'a ImageReport>,
    /// The finished disk; null for an image.
    disk: Option<&'a disk::Report>,
    /// Where kernel and initramfs are on the disk, in the words of a disk
    /// image's metadata; null where that is not known.
    boot: Option<&'a BootInfo>,
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let messages = Messages::new(args.output.quiet);
    let socket = Socket::bind(&args.nbd)?;
    let context = Context {
        args: &args.image,
        messages: &messages,
        interrupt,
    };
    let mut timings = Timings::start();
    let served = disk::ready(&args.target, &args.plan, 1, context, &mut timings)?;
    served.warnings.iter().for_each(|w| messages.warn(w));
    let uri = uri(&args.nbd);
    if args.output.json {
        super::print_json(&Report {
            uri,
            size: served.reader.size(),
            image: served.image.as_ref(),
            disk: served.disk.as_ref(),
            boot: served.boot.as_ref(),
        })?;
    } else {
        let size = ByteSize(served.reader.size());
        messages.note(&format!("serving {} ({size}) at {uri}", args.target));
    }
    let export = Export {
        name: NAME,
        description: &args.target,
        disk: &*served.reader,
        writer: None,
        warn: &|text| messages.warn(text),
    };
    accept(&socket.listener, &export, &messages, interrupt)
}

/// The URI of an export (the NBD project's doc/uri.md).
fn uri(socket: &Path) -> String {
    let mut uri = String::from("nbd+unix:///?socket=");
    let path = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                uri.push(char::from(*byte));
            }
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// Takes connections until a signal comes, then ends them all.
fn accept(
    listener: &UnixListener,
    export: &Export<'_>,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let connections = Connections::default();
    thread::scope(|scope| {
        let result = (|| {
            let mut number = 0u64;
            while !interrupt.raised() {
                let Some(stream) = next(listener)? else {
                    continue;
                };
                number += 1;
                if connections.lock().len() >= MAX_CONNECTIONS {
                    messages.warn(&format!(
                        "a connection is refused: there are {MAX_CONNECTIONS} already"
                    ));
                    continue;
                }
                connections.lock().insert(number, stream.try_clone()?);
                let connections = &connections;
                let work = move || {
                    talk(&stream, export, messages, interrupt);
                    connections.lock().remove(&number);
                };
                thread::Builder::new().spawn_scoped(scope, work)?;
            }
            Ok(())
        })();
        // What the threads wait for ends; the scope waits for the threads.
        for stream in connections.lock().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        result
    })
}

/// The next connection; `None` when it is time to look for a signal.
fn next(listener: &UnixListener) -> anyhow::Result<Option<UnixStream>> {
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    match poll(&mut waiting, Some(&LOOK_UP)) {
        Ok(0) | Err(Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(e) => return Err(io::Error::from(e)).context("cannot wait for connections"),
    }
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false)?;
            Ok(Some(stream))
        }
        // It left before we came, or there is no descriptor for it now.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) if is_passing(&e) => {
            thread::sleep(std::time::Duration::from_millis(100));
            Ok(None)
        }
        Err(e) => Err(e).context("cannot take a connection"),
    }
}

/// Whether the next attempt may do better.
fn is_passing(error: &io::Error) -> bool {
    [Errno::CONNABORTED, Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Connections(Mutex<BTreeMap<u64, UnixStream>>);

impl Connections {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one client. What it does wrong is a warning and ends nothing else.
fn talk(stream: &UnixStream, export: &Export<'_>, messages: &Messages, interrupt: &Interrupt) {
    match nbd::serve(BufReader::new(stream), stream, export) {
        Ok(()) => {}
        // Many clients just hang up.
        Err(NbdError::Io(_)) => {}
        Err(_) if interrupt.raised() => {}
        Err(error) => messages.warn(&format!("a connection ended: {error}")),
    }
}

/// A socket with a name, which goes when this is dropped.
#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to tell it from another that took its place.
    id: (u64, u64),
}

impl Socket {
    /// Listens at `path`, with mode 0600. The socket of a server that is gone
    /// is replaced.
    fn bind(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if let Ok(there) = fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                bail!("{shown} exists and is no socket; name another path");
            }
            match UnixStream::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)
                        .with_context(|| format!("cannot remove the old socket {shown}"))?;
                }
                _ => bail!("{shown} is the socket of a server that is running"),
            }
        }
        // From the start, not after a moment in which anybody can connect.
        let before = umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.with_context(|| format!("cannot listen at {shown}"))?;
        let metadata = fs::symlink_metadata(path)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
            id: (metadata.dev(), metadata.ino()),
        };
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.id);
        if ours {
            // Nobody is left to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}
