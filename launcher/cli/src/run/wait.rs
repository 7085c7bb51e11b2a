//! Waiting until a guest has booted.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::commands::ssh::client;
use crate::interrupt::Interrupt;
use crate::vms::events::{Event, Receiver};
use crate::vms::place::Place;
use crate::vms::spec::Ssh;

/// How long one attempt to reach the guest may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long to leave the guest alone between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// When a guest had come how far, in milliseconds since it was started.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Booted {
    /// Its ssh server says hello.
    pub ssh_ms: f64,
    /// Its service manager has nothing more to start.
    pub ready_ms: f64,
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
    while hello(ssh.port).is_err() {
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

/// Reads the greeting of an ssh server (RFC 4253, 4.2). passt takes the
/// connection before the guest does, so that it is taken says nothing.
fn hello(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.write_all(b"SSH-2.0-bootwright\r\n")?;
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting)?;
    match &greeting {
        b"SSH-" => Ok(()),
        _ => bail!("no ssh server"),
    }
}

/// Whether the guest's service manager has started everything. Where it is
/// none that can be asked, that somebody may log in must do.
fn settled(place: &Place, ssh: &Ssh) -> anyhow::Result<bool> {
    let mut command = client(place, ssh, "ssh", "-p");
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
