//! Waiting until a guest has booted.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;

use crate::commands::ssh;
use crate::interrupt::Interrupt;
use crate::vms::client;
use crate::vms::events::{Event, Receiver};
use crate::vms::place::Place;
use crate::vms::reach::Connection;
use crate::vms::spec::Ssh;

/// How long to leave the guest alone between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// When a guest had come how far, in milliseconds since it was started.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Booted {
    /// Its ssh server says hello.
    pub ssh_ms: f64,
    /// Its service manager has nothing more to start.
    pub ready_ms: f64,
    /// When each stage was reached, since the command was started.
    pub stages_ms: BTreeMap<String, f64>,
}

impl Booted {
    /// Adds what the machine's process knows. The guest was started `started`
    /// after this command, and the process `launched` after it.
    pub(crate) fn add_stages(&mut self, place: &Place, launched: Duration, started: Duration) {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let state = client::request(place, "GET", "/v1/vm", None);
        let state = state.and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
        let stages = state.ok().and_then(|mut state| {
            let stages = state.get_mut("stages_ms").map(Value::take)?;
            serde_json::from_value::<BTreeMap<String, f64>>(stages).ok()
        });
        // Without them, what is known here is still worth saying.
        for (stage, time) in stages.unwrap_or_default() {
            self.stages_ms.insert(stage, millis(launched) + time);
        }
        self.stages_ms
            .insert("planned".to_owned(), millis(launched));
        self.stages_ms
            .insert("ssh".to_owned(), millis(started) + self.ssh_ms);
        let booted = millis(started) + self.ready_ms;
        self.stages_ms.entry("ready".to_owned()).or_insert(booted);
    }

    /// The stages, in the order in which they were reached.
    pub(crate) fn stages(&self) -> String {
        let mut stages: Vec<_> = self.stages_ms.iter().collect();
        stages.sort_by(|a, b| a.1.total_cmp(b.1));
        let stages = stages.into_iter().map(|(stage, time)| match *time {
            ms if ms < 1e3 => format!("{stage} {ms:.0} ms"),
            ms => format!("{stage} {:.1} s", ms / 1e3),
        });
        stages.collect::<Vec<_>>().join(", ").replace('_', " ")
    }
}

/// Waits until the guest has booted: its ssh server answers, and systemd has
/// started everything, if it is systemd. It says so by itself where there is a
/// socket device; elsewhere it is asked over ssh.
pub(crate) fn until_booted(
    place: &Place,
    ssh: &Ssh,
    since: Instant,
    limit: Option<Duration>,
    mut receiver: Receiver,
    interrupt: &Interrupt,
) -> anyhow::Result<Booted> {
    let (sender, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        while let Ok(Some(event)) = receiver.next::<Event>() {
            let over = match event {
                Event::Ready => {
                    let _ = sender.send(None);
                    continue;
                }
                Event::Ended(end) => end.message().unwrap_or_else(|| "it has ended".to_owned()),
                Event::Failed(text) => text,
                _ => continue,
            };
            let _ = sender.send(Some(over));
        }
        let _ = sender.send(Some("its process has ended".to_owned()));
    });
    // Whether the guest has said by itself that it has booted.
    let go_on = || -> anyhow::Result<bool> {
        match told.try_recv() {
            Ok(Some(over)) => bail!("the guest has not booted: {over}"),
            Ok(None) => return Ok(true),
            Err(_) => {}
        }
        if interrupt.raised() {
            bail!("interrupted");
        }
        if limit.is_some_and(|limit| since.elapsed() > limit) {
            return Err(TimeUp.into());
        }
        thread::sleep(PAUSE);
        Ok(false)
    };
    let millis = || since.elapsed().as_secs_f64() * 1e3;
    let mut booted = Booted::default();
    let mut said = false;
    while Connection::open(place, ssh)
        .and_then(Connection::hello)
        .is_err()
    {
        said |= go_on()?;
    }
    booted.ssh_ms = millis();
    while !said && !settled(place, ssh)? {
        said |= go_on()?;
    }
    booted.ready_ms = millis();
    Ok(booted)
}

/// The time of `--timeout` was up before the guest had booted.
#[derive(Debug)]
pub(crate) struct TimeUp;

impl fmt::Display for TimeUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest has not booted in the time given by --timeout")
    }
}

impl std::error::Error for TimeUp {}

/// Whether the guest's service manager has started everything. Where it is
/// none that can be asked, that somebody may log in must do.
fn settled(place: &Place, access: &Ssh) -> anyhow::Result<bool> {
    let mut command = ssh::client(place, access, "ssh", "-p");
    let ask = "command -v systemctl >/dev/null || exit 0; \
               systemctl is-system-running --wait >/dev/null; exit 0";
    let status = command
        .args([
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "root@127.0.0.1",
            ask,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run ssh (Debian, Ubuntu: openssh-client)")?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_in_their_order() {
        let stages = [
            ("ready", 2345.0),
            ("planned", 12.4),
            ("kernel_loaded", 30.0),
        ];
        let booted = Booted {
            stages_ms: stages.map(|(s, ms)| (s.to_owned(), ms)).into(),
            ..Booted::default()
        };
        assert_eq!(
            booted.stages(),
            "planned 12 ms, kernel loaded 30 ms, ready 2.3 s"
        );
    }
}
