//! Starting a machine's process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{self, Child, ExitStatus};

use anyhow::{Context as _, bail};

use crate::progress::Messages;
use crate::vms::events::{self, Command, Event};
use crate::vms::last_words;
use crate::vms::place::{Lock, Place};

/// A machine's process, ready to start the guest.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The process.
    pub process: Process,
    /// To tell it something.
    pub sender: events::Sender,
    /// What it tells.
    pub receiver: events::Receiver,
}

/// A machine's process, and where its last words are.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
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
    let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
    let child = process::Command::new(&program)
        .args(["machine", name])
        .env("RUST_MIN_STACK", STACK.to_string())
        .stdin(OwnedFd::from(theirs))
        .stdout(lock.into_file())
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let mut launched = Launched {
        process: Process { child, log },
        sender: events::Sender::new(ours.try_clone()?),
        receiver: events::Receiver::new(ours),
    };
    loop {
        match launched.receiver.next()? {
            Some(Event::Prepared) => return Ok(launched),
            Some(Event::Warning(text) | Event::NetworkLost(text)) => messages.warn(&text),
            Some(Event::Failed(text)) => bail!("{text}"),
            Some(Event::Started | Event::Ready | Event::Ended(_)) => {}
            None => bail!("the machine's process {}", launched.process.gone()),
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
                None => bail!("the machine's process {}", self.process.gone()),
            }
        }
    }
}

impl Process {
    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// How it ended without having said why over its socket, in words that
    /// follow a name for it.
    pub(crate) fn gone(&mut self) -> String {
        match self.wait() {
            Ok(status) => self.told(status),
            Err(error) => format!("is lost: {error}"),
        }
    }

    /// The same of a process that has ended with `status`.
    pub(crate) fn told(&self, status: ExitStatus) -> String {
        last_words::told(&format!("has ended: {status}"), &self.log)
    }
}
