//! Starting a machine's process.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{self, Child};

use anyhow::{Context as _, bail};

use crate::progress::Messages;
use crate::vms::events::{self, Command, Event};
use crate::vms::place::{Lock, Place};

/// A machine's process, ready to start the guest.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The process.
    pub child: Child,
    /// To tell it something.
    pub sender: events::Sender,
    /// What it tells.
    pub receiver: events::Receiver,
}

/// How much address space the stack of a machine's thread has, in bytes: too
/// little for a huge page, of which a thread would use one page in a hundred.
const STACK: usize = 1 << 20;

/// Starts the process for the machine in `place`, whose lock it takes over,
/// and waits until it is prepared.
pub(crate) fn launch(
    name: &str,
    place: &Place,
    lock: Lock,
    messages: &Messages,
) -> anyhow::Result<Launched> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let log = place.state.join("vm.log");
    let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
    let child = process::Command::new(&program)
        .args(["machine", name])
        .env("RUST_MIN_STACK", STACK.to_string())
        .stdin(OwnedFd::from(theirs))
        .stdout(lock.into_file())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let mut launched = Launched {
        child,
        sender: events::Sender::new(ours.try_clone()?),
        receiver: events::Receiver::new(ours),
    };
    loop {
        match launched.receiver.next()? {
            Some(Event::Prepared) => return Ok(launched),
            Some(Event::Warning(text) | Event::NetworkLost(text)) => messages.warn(&text),
            Some(Event::Failed(text)) => bail!("{text}"),
            Some(Event::Started | Event::Ready | Event::Ended(_)) => {}
            None => bail!("the machine's process {}", launched.gone()),
        }
    }
}

/// Starts a machine that goes on when this command has ended.
pub(crate) fn detached(
    name: &str,
    place: &Place,
    lock: Lock,
    messages: &Messages,
) -> anyhow::Result<Launched> {
    let mut launched = launch(name, place, lock, messages)?;
    launched.start()?;
    launched.sender.send(&Command::Detach)?;
    Ok(launched)
}

impl Launched {
    /// Starts the guest and waits until it runs.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.sender.send(&Command::Start)?;
        loop {
            match self.receiver.next()? {
                Some(Event::Started) => return Ok(()),
                Some(Event::Failed(text)) => bail!("{text}"),
                Some(Event::Ended(end)) => {
                    let how = end.message();
                    bail!(
                        "{}",
                        how.unwrap_or_else(|| "the guest has ended".to_owned())
                    )
                }
                Some(
                    Event::Warning(_) | Event::NetworkLost(_) | Event::Prepared | Event::Ready,
                ) => {}
                None => bail!("the machine's process {}", self.gone()),
            }
        }
    }

    /// How the process ended.
    pub(crate) fn gone(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => format!("has ended: {status}"),
            Err(error) => format!("is lost: {error}"),
        }
    }
}
