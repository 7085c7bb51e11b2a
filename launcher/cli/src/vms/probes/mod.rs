//! Commands that a guest runs for its pod's probes, without an agent in it.
//!
//! In: the command of a probe. Out: credentials by which systemd in the guest
//! has units that run it ([`units`]), and what it has come to, asked of a
//! machine that runs ([`ask`]). Our own monitor's guests answer on their socket
//! device; QEMU's on a virtio port, which the machine's process makes look the
//! same ([`port`]).

pub(crate) mod ask;
pub(crate) mod port;
pub(crate) mod units;

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bootwright_machine::{Exec, Probes};
use clap::ValueEnum;

use super::place::Place;

/// The most that a guest answers, in bytes: what the units let through, and
/// the status.
const LONGEST: usize = units::OUTPUT + 64;

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The liveness probe
    Liveness,
    /// The readiness probe
    Readiness,
}

impl Kind {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// Its port of the guest's socket device.
    fn vsock_port(self) -> u32 {
        match self {
            Self::Liveness => 9101,
            Self::Readiness => 9102,
        }
    }

    /// The name of its virtio port.
    pub(crate) fn port_name(self) -> String {
        format!("dev.bootwright.{}", self.name())
    }

    /// The socket at which the machine's process hears of it.
    pub(crate) fn socket(self, place: &Place) -> PathBuf {
        place.runtime.join(format!("{}.sock", self.name()))
    }

    /// Its command, if it has one.
    fn of(self, probes: &Probes) -> Option<&Exec> {
        match self {
            Self::Liveness => probes.liveness.as_ref(),
            Self::Readiness => probes.readiness.as_ref(),
        }
    }
}

/// The probes that have a command.
pub(crate) fn with_commands(probes: &Probes) -> impl Iterator<Item = (Kind, &Exec)> {
    let kinds = [Kind::Liveness, Kind::Readiness].into_iter();
    kinds.filter_map(|kind| Some((kind, kind.of(probes)?)))
}

/// A stream that is read until a moment, and no longer, however much comes.
#[derive(Debug)]
struct Until {
    stream: UnixStream,
    end: Instant,
}

impl Until {
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream
            .read(buffer)
            .map_err(|error| match error.kind() {
                // recv(2): a time limit that is over looks like that.
                ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
                _ => error,
            })
    }
}
