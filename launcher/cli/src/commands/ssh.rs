//! `ssh` and `cp`: OpenSSH's programs with the machine's key and the way to it.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::vms::{find, find_running};
use crate::args::{CpArgs, SshArgs};
use crate::vms::place::Place;
use crate::vms::reach::{self, Connection};
use crate::vms::spec::{Spec, Ssh};

/// `bootwright ssh`.
pub(crate) fn ssh(args: &SshArgs) -> anyhow::Result<()> {
    let (user, name) = match args.name.split_once('@') {
        Some((user, name)) => (user, name),
        None => ("root", args.name.as_str()),
    };
    let place = find_running(name)?;
    let ssh = access(name, &place)?;
    let mut command = client(&place, &ssh, "ssh", "-p");
    command.arg(format!("{user}@127.0.0.1"));
    if !args.command.is_empty() {
        command.arg("--").args(&args.command);
    }
    replaced(command)
}

/// `bootwright cp`.
pub(crate) fn cp(args: &CpArgs) -> anyhow::Result<()> {
    let mut machine = None;
    let mut paths = Vec::new();
    for text in args.from.iter().chain([&args.to]) {
        let Some((name, path)) = remote(text) else {
            // scp must not take it for one of another host.
            let here = Path::new(text);
            paths.push(match here.is_absolute() || text.starts_with("./") {
                true => text.clone(),
                false => format!("./{text}"),
            });
            continue;
        };
        let (user, name) = name.split_once('@').unwrap_or(("root", name));
        if machine.as_deref().is_some_and(|known| known != name) {
            bail!("cp copies between this host and one machine");
        }
        machine = Some(name.to_owned());
        paths.push(format!("{user}@127.0.0.1:{path}"));
    }
    let name = machine.context("neither is in a machine: write NAME:PATH for one that is")?;
    let place = find_running(&name)?;
    let ssh = access(&name, &place)?;
    let mut command = client(&place, &ssh, "scp", "-P");
    if args.recursive {
        command.arg("-r");
    }
    command.arg("--").args(paths);
    replaced(command)
}

/// `NAME:PATH`, unless it is a path of this host with a colon in it.
fn remote(text: &str) -> Option<(&str, &str)> {
    let (name, path) = text.split_once(':')?;
    (!name.contains('/') && find(name.split_once('@').map_or(name, |(_, n)| n)).is_ok())
        .then_some((name, path))
}

/// How the machine's ssh server is reached.
fn access(name: &str, place: &Place) -> anyhow::Result<Ssh> {
    Spec::load(&place.state)?.ssh.with_context(|| {
        format!("the machine {name} was run without a way in for ssh; give run --ssh, -d or --name")
    })
}

/// One of OpenSSH's programs, with the machine's key and nobody else's.
pub(crate) fn client(place: &Place, ssh: &Ssh, program: &str, port: &str) -> Command {
    let mut command = Command::new(program);
    let known = format!(
        "UserKnownHostsFile={}",
        place.state.join("known_hosts").display()
    );
    command
        .args(["-F", "none", "-i"])
        .arg(place.state.join("ssh_key"))
        .args([port, &ssh.port.to_string()])
        .args(["-o", &known])
        // The first answer is remembered; another port is another machine.
        .args(["-o", "StrictHostKeyChecking=accept-new"])
        .args(["-o", "HostKeyAlias=machine"])
        .args(["-o", "IdentitiesOnly=yes"])
        .args(["-o", "LogLevel=ERROR"]);
    if let Some(proxy) = reach::proxy(place) {
        command.arg("-o").arg(proxy);
    }
    command
}

/// `bootwright ssh-proxy`: what OpenSSH runs to be connected to the guest, and
/// the end in the pod of `kubectl bootwright ssh`.
pub(crate) fn proxy(name: &str, port: Option<u16>) -> anyhow::Result<()> {
    let place = find_running(name)?;
    let spec = Spec::load(&place.state)?;
    let connection = match port {
        Some(port) => Connection::to_port(spec.host_port(port), port)?,
        None => {
            let own = spec.ssh.map(|ssh| ssh.port);
            let port = own.or_else(|| spec.host_port(reach::PORT));
            Connection::open_either(&place, port)?
        }
    };
    connection.serve()
}

/// Becomes the program.
fn replaced(mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let error = command.exec();
    Err(error).with_context(|| {
        format!(
            "cannot run {} (Debian, Ubuntu: openssh-client)",
            program.display()
        )
    })
}
