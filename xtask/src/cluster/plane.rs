//! etcd and the API server: started, asked whether they are ready, ended.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use xshell::{Shell, cmd};

use super::access;
use crate::proc;

/// How long programs may take until they are ready, or have ended.
const PATIENCE: Duration = Duration::from_secs(120);

/// An address that nobody has (RFC 5737), for what is never connected to.
const NOBODY: &str = "192.0.2.1";

/// The programs, in the order in which they start.
const PROGRAMS: [&str; 2] = ["etcd", "kube-apiserver"];

/// A control plane in a folder.
#[derive(Debug)]
pub(super) struct Plane {
    dir: PathBuf,
}

/// Ends a control plane when it is dropped, also after an error.
#[derive(Debug)]
pub(super) struct Ended<'a>(Option<&'a Plane>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(plane) = self.0 {
            let _ = plane.down();
        }
    }
}

impl Ended<'_> {
    /// Lets it run.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Plane {
    /// The one whose files are in this folder.
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The file with which clients find it, as its administrator.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// What ends it at the end of a scope.
    pub(super) fn guard(&self) -> Ended<'_> {
        Ended(Some(self))
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.join(format!("{program}.log"))
    }

    fn pid_file(&self, program: &str) -> PathBuf {
        self.dir.join(format!("{program}.pid"))
    }

    /// Starts it, and waits until it is ready. One that runs is ended first.
    pub(super) fn up(&self, binary: &Path) -> Result<()> {
        self.down()?;
        fs::create_dir_all(&self.dir)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))?;
        let ended = self.guard();
        let [client, peer, server] = [free_port()?, free_port()?, free_port()?];
        let etcd = format!("http://127.0.0.1:{client}");
        let store = self.start(binary, "etcd", &self.etcd(&etcd, peer))?;
        let token = access::token()?;
        let tokens = format!("{token},admin,admin,\"system:masters\"\n");
        access::secret(&self.dir.join("tokens"), &tokens)?;
        let sh = Shell::new()?;
        let key = self.dir.join("service-account.key");
        proc::read(cmd!(sh, "openssl genrsa -out {key} 2048"))?;
        let api = self.start(binary, "kube-apiserver", &self.api_server(&etcd, server))?;
        access::secret(&self.kubeconfig(), &self.config(server, &token))?;
        self.wait(binary, [store, api])?;
        ended.leave();
        Ok(())
    }

    fn etcd(&self, url: &str, peer: u16) -> Vec<String> {
        let peer = format!("http://127.0.0.1:{peer}");
        let data = self.dir.join("etcd");
        vec![
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ]
    }

    fn api_server(&self, etcd: &str, port: u16) -> Vec<String> {
        let at = |name: &str| self.dir.join(name).display().to_string();
        vec![
            format!("--etcd-servers={etcd}"),
            format!("--cert-dir={}", at("certificates")),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            format!("--advertise-address={NOBODY}"),
            "--endpoint-reconciler-type=none".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", at("service-account.key")),
            format!(
                "--service-account-signing-key-file={}",
                at("service-account.key")
            ),
            format!("--token-auth-file={}", at("tokens")),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged".into(),
        ]
    }

    fn config(&self, port: u16, token: &str) -> String {
        let client = access::Client {
            server: &format!("https://127.0.0.1:{port}"),
            authority: &self.dir.join("certificates/apiserver.crt"),
            user: "admin",
            token,
        };
        client.to_string()
    }

    /// Starts a program that outlives xtask.
    fn start(&self, binary: &Path, program: &str, arguments: &[String]) -> Result<Child> {
        let log = File::create(self.log(program))?;
        let mut command = Command::new(binary);
        command.arg(program).args(arguments).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        fs::write(self.pid_file(program), child.id().to_string())?;
        Ok(child)
    }

    /// Waits until it answers. Children are asked and not `/proc`, where a
    /// program has no arguments for a moment after it was started.
    fn wait(&self, binary: &Path, mut children: [Child; 2]) -> Result<()> {
        let start = Instant::now();
        loop {
            for (program, child) in PROGRAMS.into_iter().zip(&mut children) {
                if child.try_wait()?.is_some() {
                    bail!("{program} ended. {}", proc::tail(&self.log(program), 20));
                }
            }
            let mut ready = Command::new(binary);
            ready.args(["kubectl", "get", "--raw=/readyz", "--request-timeout=5s"]);
            ready.env("KUBECONFIG", self.kubeconfig());
            if proc::read(ready).is_ok_and(|text| text == "ok") {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("not ready. {}", proc::tail(&self.log("kube-apiserver"), 20));
            }
            proc::sleep(Duration::from_millis(200))?;
        }
    }

    /// The process of a program, if it runs and is that program.
    fn running(&self, program: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_file(program)).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        let words = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        // Another process may have got the number since.
        let mut words = words.split(|byte| *byte == 0);
        (words.nth(1) == Some(program.as_bytes())).then_some(pid)
    }

    /// Ends the programs, the last first, and removes the folder.
    pub(super) fn down(&self) -> Result<()> {
        for program in PROGRAMS.into_iter().rev() {
            let Some(pid) = self.running(program) else {
                continue;
            };
            kill_process(pid, Signal::TERM)?;
            let start = Instant::now();
            while self.running(program).is_some() && test_kill_process(pid).is_ok() {
                if start.elapsed() > PATIENCE {
                    let _ = kill_process(pid, Signal::KILL);
                    bail!("{program} did not end and was killed; run this again");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A port of loopback that nobody listens at.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
