//! The user's terminal as a machine's console.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::launch::Launched;
use super::terminal::Raw;
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::vms::events::{Command, Event};
use crate::vms::exit::End;

/// Ctrl-], which leaves telnet, too.
const ESCAPE: u8 = 0x1d;

/// How often a thread that waits for keys looks whether it is needed.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// How often the machine's end, signals and the time are looked at.
const TICK: Duration = Duration::from_millis(100);

/// What happens on the way.
enum Happening {
    Event(Event),
    /// The process is gone.
    Gone,
    /// The user pressed the escape key.
    Escape,
}

/// Starts the guest, shows its console until it ends, and says why it ended.
pub(crate) fn foreground(
    mut launched: Launched,
    console: &Path,
    timeout: Option<Duration>,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<End> {
    let stream = UnixStream::connect(console)
        .with_context(|| format!("cannot connect to {}", console.display()))?;
    let (sender, happenings) = mpsc::channel();
    let raw = Raw::enter().context("cannot change the terminal's mode")?;
    if raw.is_some() {
        messages.note("console: Ctrl-] presses the power button, once more ends the machine");
    }
    let shown = show(stream.try_clone()?)?;
    let keys = Keys::read(stream, raw.is_some(), sender.clone())?;
    let mut receiver = launched.receiver;
    thread::spawn(move || {
        while let Ok(Some(event)) = receiver.next() {
            if sender.send(Happening::Event(event)).is_err() {
                return;
            }
        }
        let _ = sender.send(Happening::Gone);
    });
    launched.sender.send(&Command::Start)?;
    let since = Instant::now();
    let mut watch = Watch {
        stops: 0,
        time_up: false,
        interrupted: false,
    };
    let ended = loop {
        let happening = match happenings.recv_timeout(TICK) {
            Ok(happening) => happening,
            Err(mpsc::RecvTimeoutError::Disconnected) => Happening::Gone,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if interrupt.raised() && !watch.interrupted {
                    watch.interrupted = true;
                    watch.stop(&mut launched.sender, messages);
                }
                if timeout.is_some_and(|limit| since.elapsed() > limit) && !watch.time_up {
                    watch.time_up = true;
                    let _ = launched.sender.send(&Command::Kill);
                }
                continue;
            }
        };
        match happening {
            Happening::Escape => watch.stop(&mut launched.sender, messages),
            Happening::Event(Event::Warning(text) | Event::NetworkLost(text)) => {
                messages.warn(&text);
            }
            Happening::Event(Event::Ended(end)) => break Ok(end),
            Happening::Event(Event::Failed(text)) => break Err(anyhow::anyhow!(text)),
            Happening::Event(Event::Prepared | Event::Started | Event::Ready) => {}
            Happening::Gone => {
                let how = launched.process.gone();
                break Ok(End::Crash(format!("the guest's process {how}")));
            }
        }
    };
    keys.stop();
    // All that the guest has written is on its way; the end of it follows.
    let _ = shown.join();
    drop(raw);
    let _ = launched.process.wait();
    match ended? {
        End::Killed if watch.time_up => Ok(End::TimeUp),
        end => Ok(end),
    }
}

/// Shows the console of a machine that somebody else has started, until the
/// user presses the escape key or the machine ends.
pub(crate) fn look(
    console: &Path,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let stream = UnixStream::connect(console)
        .with_context(|| format!("cannot connect to {}", console.display()))?;
    let (sender, happenings) = mpsc::channel();
    let raw = Raw::enter().context("cannot change the terminal's mode")?;
    if raw.is_some() {
        messages.note("console: Ctrl-] leaves it");
    }
    let shown = show(stream.try_clone()?)?;
    let keys = Keys::read(stream.try_clone()?, raw.is_some(), sender)?;
    while !shown.is_finished() && !interrupt.raised() {
        if let Ok(Happening::Escape) = happenings.try_recv() {
            break;
        }
        thread::sleep(TICK);
    }
    keys.stop();
    let _ = stream.shutdown(Shutdown::Both);
    let _ = shown.join();
    drop(raw);
    Ok(())
}

/// What the user has done to end the machine.
struct Watch {
    stops: u32,
    time_up: bool,
    interrupted: bool,
}

impl Watch {
    /// The power button the first time, then the end.
    fn stop(&mut self, sender: &mut crate::vms::events::Sender, messages: &Messages) {
        self.stops += 1;
        // If the process is gone, that is noticed anyway.
        if self.stops == 1 {
            messages.note("power button pressed; Ctrl-] ends the machine at once");
            let _ = sender.send(&Command::PowerButton);
        } else {
            let _ = sender.send(&Command::Kill);
        }
    }
}

/// Shows what comes from the console until its end.
pub(crate) fn show(mut stream: UnixStream) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("show".into()).spawn(move || {
        let mut stdout = io::stdout();
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            // Whoever looked may have gone; the guest goes on.
            let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
        }
    })
}

/// What is typed, on its way to the console.
struct Keys {
    enough: Arc<AtomicBool>,
    stream: UnixStream,
}

impl Keys {
    fn read(
        mut stream: UnixStream,
        terminal: bool,
        escape: mpsc::Sender<Happening>,
    ) -> io::Result<Self> {
        let enough = Arc::new(AtomicBool::new(false));
        let keys = Self {
            enough: Arc::clone(&enough),
            stream: stream.try_clone()?,
        };
        thread::Builder::new().name("keys".into()).spawn(move || {
            let stdin = io::stdin();
            let mut buffer = [0; 4096];
            while !enough.load(Ordering::Relaxed) {
                let mut waiting = [PollFd::new(&stdin, PollFlags::IN)];
                match poll(&mut waiting, Some(&LOOK_UP)) {
                    Ok(0) | Err(Errno::INTR) => continue,
                    Ok(_) => {}
                    Err(_) => return,
                }
                // Past the buffer of `Stdin`, so that poll sees all there is.
                let Ok(count @ 1..) = rustix::io::read(stdin.as_fd(), &mut buffer) else {
                    return;
                };
                let typed = buffer.get(..count).unwrap_or_default();
                for part in typed.split_inclusive(|b| terminal && *b == ESCAPE) {
                    let (keys, escaped) = match part.split_last() {
                        Some((&ESCAPE, keys)) if terminal => (keys, true),
                        _ => (part, false),
                    };
                    if stream.write_all(keys).is_err() {
                        return;
                    }
                    if escaped {
                        let _ = escape.send(Happening::Escape);
                    }
                }
            }
        })?;
        Ok(keys)
    }

    fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}
