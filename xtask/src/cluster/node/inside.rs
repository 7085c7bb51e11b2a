//! The first process of a node: it makes the node's view of the machine, starts
//! the node's programs, and starts those again that end.
//!
//! It is process 1 of its namespace: with it end all others, and with the last
//! of them the namespaces, their mounts and links.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, WaitOptions, wait};
use xshell::{Shell, cmd};

use super::super::tools::Tools;
use super::cgroups::{self, Hierarchy};
use super::files::{ADDRESS, API_PORT, Files, HIDDEN, NAME, SERVICES};
use crate::proc;

/// How long after its start a program is started again at the earliest.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked what has ended.
const PERIOD: Duration = Duration::from_millis(100);

/// What is bound below the folders that the node has its own of.
const BOUND: [(&str, &str); 3] = [
    ("kubelet", "/var/lib/kubelet"),
    ("pods", "/var/log/pods"),
    ("hosts", "/etc/hosts"),
];

/// A program that is kept running.
struct Program {
    name: &'static str,
    command: Command,
    /// When it was last started.
    started: Option<Instant>,
}

/// Runs the node whose folder this is, until it is killed.
pub(super) fn run(files: &Files, binary: &Path, tools: &Tools) -> Result<()> {
    mounts(files)?;
    network()?;
    let mut programs = programs(files, binary, tools);
    let mut running = HashMap::new();
    loop {
        while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
            // What is no program of ours was left to us by one.
            running.remove(&pid);
        }
        for (index, program) in programs.iter_mut().enumerate() {
            let due = program.started.is_none_or(|time| time.elapsed() > PAUSE);
            let runs = running.values().any(|other| *other == index);
            if due && !runs && !files.0.join("held").join(program.name).exists() {
                running.insert(program.start(files)?, index);
            }
        }
        std::thread::sleep(PERIOD);
    }
}

impl Program {
    fn start(&mut self, files: &Files) -> Result<Pid> {
        self.started = Some(Instant::now());
        let path = files.0.join("log").join(format!("{}.log", self.name));
        let log = File::options().create(true).append(true).open(path)?;
        let child = (self.command.stdin(Stdio::null()).process_group(0))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        Ok(Pid::from_child(&child))
    }
}

/// The node's own view: processes, network, control groups, and folders in
/// which its programs would leave something.
fn mounts(files: &Files) -> Result<()> {
    let sh = Shell::new()?;
    let hierarchies = cgroups::hierarchies()?;
    let links = links(Path::new("/sys/fs/cgroup"));
    // What the kubelet mounts is to be seen by containerd's children, but not
    // by the machine.
    proc::read(cmd!(sh, "mount --make-rshared /"))?;
    proc::read(cmd!(sh, "mount -t proc proc /proc"))?;
    proc::read(cmd!(sh, "mount -t sysfs sysfs /sys"))?;
    control_groups(&sh, &hierarchies, &links)?;
    for hidden in HIDDEN {
        proc::read(cmd!(sh, "mount -t tmpfs -o mode=755 tmpfs {hidden}"))?;
    }
    for (name, at) in BOUND {
        let from = files.0.join(name);
        if from.is_dir() {
            fs::create_dir_all(at)?;
        }
        proc::read(cmd!(sh, "mount --bind {from} {at}"))?;
    }
    Ok(())
}

/// Symbolic links in a folder, and where they lead.
fn links(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let link = |path: PathBuf| Some((fs::read_link(&path).ok()?, path));
    entries.filter_map(|entry| link(entry.path())).collect()
}

/// Mounts the hierarchies again: this namespace sees the node's own groups as
/// their tops.
fn control_groups(
    sh: &Shell,
    hierarchies: &[Hierarchy],
    links: &[(PathBuf, PathBuf)],
) -> Result<()> {
    let top = "/sys/fs/cgroup";
    if !hierarchies.iter().any(|h| h.mount == Path::new(top)) {
        proc::read(cmd!(sh, "mount -t tmpfs -o mode=755 tmpfs {top}"))?;
    }
    for hierarchy in hierarchies {
        let (at, options) = (&hierarchy.mount, &hierarchy.options);
        fs::create_dir_all(at)?;
        if !hierarchy.unified {
            proc::read(cmd!(sh, "mount -t cgroup -o {options} cgroup {at}"))?;
            continue;
        }
        proc::read(cmd!(sh, "mount -t cgroup2 cgroup2 {at}"))?;
        let controllers = fs::read_to_string(at.join("cgroup.controllers"))?;
        for controller in controllers.split_whitespace() {
            fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("cannot hand on {controller}"))?;
        }
    }
    for (target, link) in links {
        std::os::unix::fs::symlink(target, link)?;
    }
    Ok(())
}

/// A network that leads nowhere, in which the node has an address.
fn network() -> Result<()> {
    let sh = Shell::new()?;
    proc::read(cmd!(sh, "ip link set lo up"))?;
    proc::read(cmd!(sh, "ip link add node0 type bridge"))?;
    proc::read(cmd!(sh, "ip address add {ADDRESS}/24 dev node0"))?;
    proc::read(cmd!(sh, "ip link set node0 up"))?;
    // The rules for services are behind a route: any will do.
    proc::read(cmd!(sh, "ip route add {SERVICES} dev node0"))?;
    Ok(())
}

fn programs(files: &Files, binary: &Path, tools: &Tools) -> Vec<Program> {
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        tools.containerd.display()
    );
    let program = |name, program: &Path, arguments: Vec<String>| {
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", &path).current_dir("/");
        Program {
            name,
            command,
            started: None,
        }
    };
    let of_kubernetes = |name: &'static str, arguments: Vec<String>| {
        let arguments = [vec![name.to_owned()], arguments].concat();
        program(name, binary, arguments)
    };
    let serve = vec!["serve".into(), files.at("registry.yaml")];
    let config = |name: &str| vec![format!("--config={}", files.at(name))];
    vec![
        program("registry", Path::new("docker-registry"), serve),
        of_kubernetes("etcd", etcd(files)),
        of_kubernetes("kube-apiserver", api_server(files)),
        program(
            "containerd",
            &tools.containerd.join("containerd"),
            config("containerd.toml"),
        ),
        of_kubernetes("kube-controller-manager", controller_manager(files)),
        of_kubernetes("kube-scheduler", scheduler(files)),
        of_kubernetes("kubelet", kubelet(files)),
        of_kubernetes("kube-proxy", config("kube-proxy.yaml")),
    ]
}

fn etcd(files: &Files) -> Vec<String> {
    vec![
        format!("--data-dir={}", files.at("etcd")),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn api_server(files: &Files) -> Vec<String> {
    let key = files.at("service-account.key");
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--cert-dir={}", files.at("certificates")),
        format!("--secure-port={API_PORT}"),
        format!("--advertise-address={ADDRESS}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key}"),
        format!("--token-auth-file={}", files.at("tokens")),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged".into(),
        format!(
            "--kubelet-client-certificate={}",
            files.at("kubelet-client.crt")
        ),
        format!("--kubelet-client-key={}", files.at("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
    ]
}

fn controller_manager(files: &Files) -> Vec<String> {
    let config = files.kubeconfig("system:kube-controller-manager");
    vec![
        format!("--kubeconfig={}", config.display()),
        format!(
            "--service-account-private-key-file={}",
            files.at("service-account.key")
        ),
        format!("--root-ca-file={}", files.at("certificates/apiserver.crt")),
        "--use-service-account-credentials".into(),
        // It would make that of the machine.
        format!("--flex-volume-plugin-dir={}", files.at("plugins")),
        "--leader-elect=false".into(),
    ]
}

fn scheduler(files: &Files) -> Vec<String> {
    let config = files.kubeconfig("system:kube-scheduler");
    vec![
        format!("--kubeconfig={}", config.display()),
        "--leader-elect=false".into(),
    ]
}

fn kubelet(files: &Files) -> Vec<String> {
    let config = files.kubeconfig("system:node:node-1");
    vec![
        format!("--config={}", files.at("kubelet.yaml")),
        format!("--kubeconfig={}", config.display()),
        format!("--cert-dir={}", files.at("kubelet-certificates")),
        format!("--hostname-override={NAME}"),
        format!("--node-ip={ADDRESS}"),
    ]
}
