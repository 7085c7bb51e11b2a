//! The image booted by `bootwright run`, as an ordinary user.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::proc;

/// What the machine is called.
const NAME: &str = "demo";

/// How long the application may take to answer when the guest has booted.
const ANSWER: Duration = Duration::from_secs(120);

/// How long one attempt to reach it may take.
const ATTEMPT: Duration = Duration::from_secs(20);

/// A machine that `bootwright run` has booted. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The folder with the program, the image, the store and the machines.
    dir: PathBuf,
    port: u16,
    report: serde_json::Value,
}

impl Machine {
    /// Boots the image `oci:image:debian` in `dir` with the program there.
    pub(crate) fn boot(dir: &Path, limit: Duration) -> Result<Self> {
        fs::create_dir_all(dir.join("run"))?;
        if rustix::process::geteuid().is_root() {
            let uid = Some(proc::UNPRIVILEGED);
            std::os::unix::fs::chown(dir.join("run"), uid, uid)?;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut machine = Self {
            dir: dir.to_owned(),
            port,
            report: serde_json::Value::Null,
        };
        let mut run = machine.bootwright("run");
        run.args(["oci:image:debian", "--store", "store"]);
        run.args(["--name", NAME, "--hostname", NAME, "--memory", "1G"]);
        run.args(["--publish", &format!("127.0.0.1:{port}:80")]);
        run.args(["--detach", "--wait", "--json"]);
        run.args(["--timeout", &format!("{}s", limit.as_secs())]);
        let said = proc::read(run).map_err(|error| machine.explain(error))?;
        machine.report = serde_json::from_str(&said).context("run --json")?;
        Ok(machine)
    }

    /// When the guest had booted, after its start.
    pub(crate) fn ready(&self) -> Duration {
        let millis = self.report["booted"]["ready_ms"].as_f64().unwrap_or(0.0);
        Duration::from_secs_f64(millis / 1e3)
    }

    /// `kvm` or `tcg`.
    pub(crate) fn accel(&self) -> Result<String> {
        let said = proc::read(self.command("ps", &["--json"]))?;
        let machines: serde_json::Value = serde_json::from_str(&said).context("ps --json")?;
        let accel = machines[0]["accel"].as_str();
        Ok(accel.context("ps does not list the machine")?.to_owned())
    }

    /// What the application answers to `GET /`.
    pub(crate) fn http_get(&self) -> Result<String> {
        let since = Instant::now();
        loop {
            match self.try_http_get() {
                Ok(body) => return Ok(body),
                Err(error) if since.elapsed() > ANSWER => return Err(self.explain(error)),
                Err(_) => proc::sleep(Duration::from_millis(500))?,
            }
        }
    }

    fn try_http_get(&self) -> Result<String> {
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let mut stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.trim().to_owned()),
            _ => bail!("no answer to be glad of: {:?}", answer.lines().next()),
        }
    }

    /// What a command in the guest prints.
    pub(crate) fn ssh(&self, command: &str) -> Result<String> {
        proc::read(self.command("ssh", &[NAME, "--", command]))
    }

    /// Turns the guest off by its power button.
    pub(crate) fn stop(self, limit: Duration) -> Result<Duration> {
        let since = Instant::now();
        let time = format!("{}s", limit.as_secs());
        let said = proc::read(self.command("stop", &[NAME, "--time", &time, "--json"]))?;
        let ended: serde_json::Value = serde_json::from_str(&said).context("stop --json")?;
        if ended["ended"] != "power_off" {
            bail!(self.explain(anyhow::anyhow!("the guest did not turn itself off")));
        }
        Ok(since.elapsed())
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let log = self.dir.join("state/bootwright/vms").join(NAME);
        error.context(proc::tail(&log.join("console.log"), 40))
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.bootwright(name);
        command.args(arguments);
        command
    }

    fn bootwright(&self, name: &str) -> Command {
        let mut command = proc::unprivileged(&self.dir.join("bootwright"));
        command
            .arg(name)
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("XDG_STATE_HOME", self.dir.join("state"))
            .env("XDG_RUNTIME_DIR", self.dir.join("run"));
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Not through `proc`: this must also happen after an interrupt.
        let _ = self.command("rm", &["--force", NAME]).output();
    }
}
