//! An NBD server (the NBD project's doc/proto.md) over any two
//! streams.
//!
//! [`serve`] speaks with one client: it haggles over options (fixed newstyle),
//! then answers requests about an [`Export`] until the client leaves. What
//! arrives is a stranger's: it is read in pieces of bounded size, and what
//! breaks the protocol ends the connection with an [`NbdError`]. Sockets,
//! threads and who may connect are the caller's business.

mod handshake;
mod reply;
mod transmission;
mod wire;
mod write;

use std::fmt;
use std::io::{self, Read, Write};

use crate::reader::ReadAt;

pub use write::{SECTOR, WriteAt};

/// The largest read that is answered, in bytes; clients learn it.
pub const MAX_READ: u32 = 32 << 20;

/// What is offered to clients.
pub struct Export<'a> {
    /// Its name; the empty name, which clients without one ask for, leads to
    /// it as well.
    pub name: &'a str,
    /// What it is, for people.
    pub description: &'a str,
    /// The disk.
    pub disk: &'a dyn ReadAt,
    /// The same disk for clients that write, in sectors of [`SECTOR`] bytes;
    /// none if it is read-only.
    pub writer: Option<&'a dyn WriteAt>,
    /// Told of what goes wrong with the disk; the client only learns that.
    pub warn: &'a (dyn Fn(&str) + Sync),
}

impl fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

/// Why a connection ended before the client said so.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The client breaks the protocol.
    #[error("the client breaks the protocol: {0}")]
    Protocol(&'static str),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The disk could not be read when the answer had begun.
    #[error("the disk could not be read in the middle of an answer")]
    Disk,
}

/// Talks with one client about `export` until it leaves. `input` wants to be
/// buffered; what goes to `output` is in whole messages.
///
/// # Errors
/// See [`NbdError`]. The connection is of no use then.
pub fn serve(
    mut input: impl Read,
    mut output: impl Write,
    export: &Export<'_>,
) -> Result<(), NbdError> {
    match handshake::haggle(&mut input, &mut output, export)? {
        Some(agreed) => transmission::answer(&mut input, &mut output, export, agreed),
        None => Ok(()),
    }
}

/// What client and server agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Agreed {
    /// Replies to reads come in chunks.
    structured: bool,
    /// The client may ask for the context `base:allocation`.
    allocation: bool,
}
