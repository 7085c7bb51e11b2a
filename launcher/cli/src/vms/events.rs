//! What a machine's process and the command that started it tell each other:
//! a line of JSON each, over a socket. The end of the socket is the end of
//! the other side.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::exit::End;

/// The longest line.
const MAX_LINE: u64 = 64 << 10;

/// What the process tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// Something that the user should know.
    Warning(String),
    /// Its console can be connected to; the guest waits for
    /// [`Command::Start`].
    Prepared,
    /// The guest runs.
    Started,
    /// The guest says that it has booted.
    Ready,
    /// The guest has no network any more: why.
    NetworkLost(String),
    /// It has ended.
    Ended(End),
    /// It could not be started, or not go on.
    Failed(String),
}

/// What the process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Run the guest.
    Start,
    /// Press the power button.
    PowerButton,
    /// End the guest.
    Kill,
    /// Go on when the other side is gone.
    Detach,
}

/// One side's sending half.
#[derive(Debug)]
pub(crate) struct Sender(UnixStream);

impl Sender {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Tells the other side.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// One side's receiving half.
#[derive(Debug)]
pub(crate) struct Receiver(BufReader<UnixStream>);

impl Receiver {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// The next message; `None` when the other side is gone.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        let mut limited = io::Read::take(&mut self.0, MAX_LINE);
        match limited.read_until(b'\n', &mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(serde_json::from_slice(&line)?)),
            // A process that was killed resets the socket.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn messages_arrive_in_order_and_then_the_end() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut sender = Sender::new(a);
        let mut receiver = Receiver::new(b);
        let sent = [
            Event::Prepared,
            Event::Ended(End::Crash("a\nb".to_owned())),
            Event::Ended(End::Reset),
        ];
        for event in &sent {
            sender.send(event).unwrap();
        }
        drop(sender);
        for event in sent {
            assert_eq!(receiver.next::<Event>().unwrap(), Some(event));
        }
        assert_eq!(receiver.next::<Event>().unwrap(), None);
    }
}
