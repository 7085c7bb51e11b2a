//! A whole Kubernetes node, with namespaces of its own.
//!
//! In: the programs. Out: a cluster of one node with a registry beside it, in
//! network, process, mount and control group namespaces that nothing leads out
//! of. Its control groups are the list of its processes: `down` kills what is
//! in them, and with the last process go the mounts and links.

mod cgroups;
mod files;
mod inside;

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Pid;

use super::{binary, pause, tools::Tools};
use crate::proc;
use cgroups::Groups;
use files::{Files, NAME, REGISTRY};

/// How long it may take until the node is ready.
const PATIENCE: Duration = Duration::from_secs(240);

/// Makes the shell join the groups that are its arguments up to a `--`, then
/// sees them as the tops, and goes on into a group below each of the rest.
const JOIN: &str = r#"
set -e
for group; do shift; [ "$group" = -- ] && break; echo 0 > "$group/cgroup.procs"; done
exec unshare --cgroup -- sh -ec '
for group; do shift; [ "$group" = -- ] && break; echo 0 > "$group/init/cgroup.procs"; done
exec "$@"' join "$@"
"#;

/// A node in a folder.
#[derive(Debug)]
pub(super) struct Node {
    files: Files,
}

/// Ends a node when it is dropped, also after an error.
#[derive(Debug)]
pub(super) struct Ended<'a>(Option<&'a Node>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.map(Node::down) {
            eprintln!("{}", proc::explained(&error));
        }
    }
}

impl Node {
    /// The one whose files are in this folder.
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { files: Files(dir) }
    }

    /// What ends it at the end of a scope.
    pub(super) fn guard(&self) -> Ended<'_> {
        Ended(Some(self))
    }

    /// The node's folder.
    pub(super) fn dir(&self) -> &Path {
        &self.files.0
    }

    /// Starts it, and waits until it is ready. One that runs is ended first.
    pub(super) fn up(&self) -> Result<()> {
        let dir = self.dir();
        if !rustix::process::geteuid().is_root() {
            bail!("a node mounts and makes namespaces: run this as root");
        }
        if files::is_hidden(dir) {
            let hidden = files::HIDDEN.join(", ");
            bail!(
                "{} is in one of {hidden}, which a node has its own of: \
                 set CARGO_TARGET_DIR to another folder",
                dir.display()
            );
        }
        let (binary, tools) = (binary::build()?, Tools::build()?);
        let pause = pause::archive()?;
        self.down()?;
        fs::create_dir_all(dir)?;
        let mut ended = self.guard();
        self.files.write(&tools)?;
        self.programs(&binary, &tools)?;
        let groups = Groups::of(dir)?;
        groups.make()?;
        let mut first = self.start(&groups)?;
        self.wait(
            &mut first,
            "API server",
            &["kubectl", "get", "--raw=/readyz"],
        )?;
        self.wait(&mut first, "containerd", &["ctr", "version"])?;
        self.read(&["ctr", "images", "import", &pause.display().to_string()])?;
        let ready = "--for=condition=Ready";
        let node = format!("node/{NAME}");
        self.wait(&mut first, "node", &["kubectl", "wait", ready, &node])?;
        // Ready or not, pods are kept off until a controller lifts the taint.
        let taints = "jsonpath={.spec.taints}";
        let untainted = ["kubectl", "get", &node, "--output", taints];
        self.wait_for(&mut first, "node", &untainted, str::is_empty)?;
        // Made by a controller, and every pod needs it.
        let account = ["kubectl", "get", "serviceaccount", "default"];
        self.wait(&mut first, "service account", &account)?;
        ended.0 = None;
        Ok(())
    }

    /// Ends it, and removes all that there is of it.
    pub(super) fn down(&self) -> Result<()> {
        Groups::of(self.dir())?.clear()?;
        match fs::remove_dir_all(self.dir()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.dir().display()))
            }
            _ => Ok(()),
        }
    }

    /// Puts kubectl and ctr where programs that run within the node find them.
    fn programs(&self, binary: &Path, tools: &Tools) -> Result<()> {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let bin = self.dir().join("bin");
        let kubectl = format!("#!/bin/sh\nexec {} kubectl \"$@\"\n", binary.display());
        fs::write(bin.join("kubectl"), kubectl)?;
        fs::set_permissions(bin.join("kubectl"), fs::Permissions::from_mode(0o755))?;
        Ok(symlink(tools.containerd.join("ctr"), bin.join("ctr"))?)
    }

    /// Starts the first process, which outlives xtask.
    fn start(&self, groups: &Groups) -> Result<Child> {
        let log = File::create(self.dir().join("log/node.log"))?;
        let mut command = Command::new("sh");
        command.args(["-c", JOIN, "join"]);
        command
            .args(groups.old.iter().chain(&groups.unified))
            .arg("--");
        command.args(&groups.unified).arg("--");
        command.args([
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--propagation=private",
        ]);
        command.args(["--fork", "--kill-child", "--"]);
        command
            .arg(std::env::current_exe()?)
            .args(["cluster", "inside"]);
        command.arg(self.dir()).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.spawn().context("cannot start the node")
    }

    /// Runs as the first process of the node.
    pub(super) fn inside(&self) -> Result<()> {
        inside::run(&self.files, &binary::path(), &Tools::find())
    }

    /// Asks again and again, until the answer is a success.
    fn wait(&self, first: &mut Child, what: &str, words: &[&str]) -> Result<()> {
        self.wait_for(first, what, words, |_| true)
    }

    /// The same, until the answer is a good one.
    fn wait_for(
        &self,
        first: &mut Child,
        what: &str,
        words: &[&str],
        is_good: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let error = match self.read(words) {
                Ok(answer) if is_good(&answer) => return Ok(()),
                Ok(answer) => anyhow::anyhow!("it says {answer}"),
                Err(error) => error,
            };
            if first.try_wait()?.is_some() {
                bail!("{}", proc::tail(&self.dir().join("log/node.log"), 20));
            }
            if start.elapsed() > PATIENCE {
                let logs = self.dir().join("log");
                return Err(error).with_context(|| {
                    format!(
                        "{what} is not ready; what the programs say: {}",
                        logs.display()
                    )
                });
            }
            proc::sleep(Duration::from_millis(200))?;
        }
    }

    fn read(&self, words: &[&str]) -> Result<String> {
        proc::read(self.command(words)?)
    }

    /// A command that runs within the node, in this folder.
    pub(super) fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Command> {
        let Some(first) = self.first()? else {
            bail!("there is no node: run `cargo xtask cluster up --node` first");
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", first.as_raw_nonzero()));
        command.args(["--net", "--mount", "--pid"]);
        let folder = std::env::current_dir()?;
        command.arg(format!("--wdns={}", folder.display()));
        command.arg("--").args(words);
        command.env("KUBECONFIG", self.files.kubeconfig("admin"));
        command.env("CONTAINERD_NAMESPACE", "k8s.io");
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.dir().join("bin");
        command.env("PATH", format!("{}:{path}", bin.display()));
        Ok(command)
    }

    /// The first process of the node: of those in its groups, the one that is
    /// number 1 to the others (proc(5), `NSpid` of the status).
    fn first(&self) -> Result<Option<Pid>> {
        let is_first = |pid: &Pid| {
            let path = format!("/proc/{}/status", pid.as_raw_nonzero());
            let status = fs::read_to_string(path).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let mut ids = ids.unwrap_or_default().split_whitespace().rev();
            // Containers have a first process, too: one level further in.
            ids.next() == Some("1") && ids.count() == own_depth()
        };
        let processes = Groups::of(self.dir())?.processes();
        Ok(processes.into_iter().find(is_first))
    }

    /// Copies an image, as skopeo names it, to the node's registry; says what
    /// pods call it.
    pub(super) fn push(&self, image: &str, name: &str) -> Result<String> {
        let digest = tempfile::NamedTempFile::new()?;
        let path = digest.path().display().to_string();
        let to = format!("docker://{REGISTRY}/{name}");
        proc::read(self.command(&[
            "skopeo",
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            "--preserve-digests",
            "--all",
            "--digestfile",
            &path,
            image,
            &to,
        ])?)?;
        let digest = fs::read_to_string(digest)?;
        let name = name.split(':').next().unwrap_or(name);
        Ok(format!("{REGISTRY}/{name}@{}", digest.trim()))
    }
}

/// How many process namespaces this process is in.
fn own_depth() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.unwrap_or_default().split_whitespace().count()
}
