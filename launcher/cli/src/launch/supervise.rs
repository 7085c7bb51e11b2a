//! Waiting for a machine's end, and for the pod's.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bootwright_machine::Machine;

use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::run::attach::show;
use crate::run::launch::Launched;
use crate::vms::events::{Command, Event};
use crate::vms::exit::End;
use crate::vms::place::Place;

/// How often the power button is pressed again: a guest that has not come up
/// yet does not hear it.
const AGAIN: Duration = Duration::from_secs(10);

/// How long a machine may take to end after its guest was ended.
const FAREWELL: Duration = Duration::from_secs(15);

/// What happens on the way.
enum Happening {
    Event(Event),
    /// The machine's process is gone.
    Gone,
    /// The pod is to end.
    Signal,
}

/// Starts the guest, shows its console, and waits until it ends. How it ended,
/// and what there is to say about that which [`End`] does not.
pub(super) fn supervise(
    machine: &Machine,
    mut launched: Launched,
    place: &Place,
    interrupt: &Interrupt,
    messages: &Messages,
) -> anyhow::Result<(End, Option<String>)> {
    let (sender, happenings) = mpsc::channel();
    let signals = sender.clone();
    interrupt
        .each(move || signals.send(Happening::Signal).is_ok())
        .context("cannot catch signals")?;
    let console = place.runtime.join("console.sock");
    let shown = match machine.devices.log_console {
        true => {
            let stream = UnixStream::connect(&console)
                .with_context(|| format!("cannot connect to {}", console.display()))?;
            Some(show(stream)?)
        }
        false => None,
    };
    let mut receiver = launched.receiver;
    thread::Builder::new()
        .name("events".into())
        .spawn(move || {
            while let Ok(Some(event)) = receiver.next() {
                if sender.send(Happening::Event(event)).is_err() {
                    return;
                }
            }
            let _ = sender.send(Happening::Gone);
        })?;
    launched.sender.send(&Command::Start)?;
    let grace = Duration::from_secs(machine.grace_seconds);
    let mut farewell = Farewell::new(grace);
    let mut lost = None;
    let ended = loop {
        let now = Instant::now();
        let happening = match farewell.wait(now) {
            Some(time) => happenings.recv_timeout(time),
            None => happenings
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        };
        match happening {
            Ok(Happening::Signal) => {
                if farewell.begin(Instant::now()) {
                    messages.note("the pod is to end: the power button is pressed");
                }
            }
            Ok(Happening::Event(Event::Ready)) => messages.note("the guest has booted"),
            Ok(Happening::Event(Event::Warning(text))) => messages.warn(&text),
            Ok(Happening::Event(Event::NetworkLost(text))) => {
                messages.warn(&text);
                // Nobody can reach it any more; another one may be started.
                if farewell.begin(Instant::now()) {
                    messages.note("the power button is pressed");
                    lost = Some(text);
                }
            }
            Ok(Happening::Event(Event::Ended(end))) => break Ok(end),
            Ok(Happening::Event(Event::Failed(text))) => break Err(anyhow::anyhow!(text)),
            Ok(Happening::Event(Event::Prepared | Event::Started)) => {}
            Ok(Happening::Gone) | Err(RecvTimeoutError::Disconnected) => {
                let how = launched.process.gone();
                break Ok(End::Crash(format!("the guest's process {how}")));
            }
            Err(RecvTimeoutError::Timeout) => match farewell.due(Instant::now()) {
                Due::Nothing => {}
                Due::Button => drop(launched.sender.send(&Command::PowerButton)),
                Due::Kill => drop(launched.sender.send(&Command::Kill)),
                Due::GiveUp => drop(launched.process.kill()),
            },
        }
    };
    if let Some(shown) = shown {
        // All that the guest has written is on its way; the end of it follows.
        let _ = shown.join();
    }
    let _ = launched.process.wait();
    let ended = ended?;
    if let Some(text) = lost {
        return Ok((End::Crash(text), None));
    }
    match ended {
        End::Killed if farewell.is_over() => {
            let seconds = machine.grace_seconds;
            let text =
                format!("the guest did not turn itself off within {seconds} s and was ended");
            Ok((End::TimeUp, Some(text)))
        }
        end => Ok((end, None)),
    }
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Press the power button.
    Button,
    /// End the guest.
    Kill,
    /// End the process that runs it.
    GiveUp,
}

/// The end of a machine whose pod is to end.
#[derive(Debug)]
struct Farewell {
    grace: Duration,
    /// When it began.
    since: Option<Instant>,
    /// When the button was last pressed.
    pressed: Option<Instant>,
    killed: Option<Instant>,
    /// Nothing more can be done.
    given_up: bool,
}

impl Farewell {
    fn new(grace: Duration) -> Self {
        Self {
            grace,
            since: None,
            pressed: None,
            killed: None,
            given_up: false,
        }
    }

    /// The pod is to end; whether that is news.
    fn begin(&mut self, now: Instant) -> bool {
        let news = self.since.is_none();
        self.since.get_or_insert(now);
        news
    }

    /// Whether the grace period is over and the guest was ended.
    fn is_over(&self) -> bool {
        self.killed.is_some()
    }

    /// When something is due next.
    fn next(&self, now: Instant) -> Option<Instant> {
        let since = self.since.filter(|_| !self.given_up)?;
        Some(match (self.killed, self.pressed) {
            (Some(killed), _) => killed + FAREWELL,
            (None, None) => now,
            (None, Some(pressed)) => (pressed + AGAIN).min(since + self.grace),
        })
    }

    /// How long until something is due.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let next = self.next(now)?;
        Some(next.saturating_duration_since(now))
    }

    fn due(&mut self, now: Instant) -> Due {
        let Some(since) = self.since else {
            return Due::Nothing;
        };
        if let Some(killed) = self.killed {
            if self.given_up || now.saturating_duration_since(killed) < FAREWELL {
                return Due::Nothing;
            }
            self.given_up = true;
            return Due::GiveUp;
        }
        if now.saturating_duration_since(since) >= self.grace {
            self.killed = Some(now);
            return Due::Kill;
        }
        match self.pressed {
            Some(pressed) if now.saturating_duration_since(pressed) < AGAIN => Due::Nothing,
            _ => {
                self.pressed = Some(now);
                Due::Button
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, by the second.
    fn course(grace: u64, seconds: u64) -> Vec<(u64, Due)> {
        let start = Instant::now();
        let mut farewell = Farewell::new(Duration::from_secs(grace));
        assert_eq!(farewell.due(start), Due::Nothing);
        assert_eq!(farewell.wait(start), None);
        assert!(farewell.begin(start));
        assert!(!farewell.begin(start + Duration::from_secs(1)));
        let mut happened = Vec::new();
        let mut now = start;
        while let Some(wait) = farewell.wait(now) {
            now += wait;
            let second = (now - start).as_secs();
            if second > seconds {
                break;
            }
            happened.push((second, farewell.due(now)));
        }
        happened
    }

    #[test]
    fn the_button_is_pressed_again_and_again_until_the_time_is_up() {
        use Due::{Button, GiveUp, Kill};
        let expect = [
            (0, Button),
            (10, Button),
            (20, Button),
            (25, Kill),
            (40, GiveUp),
        ];
        assert_eq!(course(25, 1000), expect);
        assert_eq!(course(0, 1), [(0, Kill)]);
    }
}
