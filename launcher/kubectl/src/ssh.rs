//! `ssh` and `scp`: OpenSSH's programs, connected through the machine's pod.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::args::{ConnectionArgs, LoginArgs, ScpArgs, SshArgs};
use crate::cluster::Cluster;
use crate::pod::{self, Running};
use crate::relay;
use crate::target::{Target, UserTarget};

/// `ssh`.
pub(crate) async fn ssh(
    cluster: &Cluster,
    connection: &ConnectionArgs,
    args: &SshArgs,
) -> Result<()> {
    let target = &args.target.target;
    let running = pod::running(cluster, target).await?;
    let mut command = client("ssh", &running, connection, target, &args.login)?;
    if let Some(user) = user(&args.target, &args.login) {
        command.arg("-l").arg(user);
    }
    command.arg("--").arg(host(target, &running));
    command.args(&args.command).args(&args.words);
    replaced(command)
}

/// `scp`.
pub(crate) async fn scp(
    cluster: &Cluster,
    connection: &ConnectionArgs,
    args: &ScpArgs,
) -> Result<()> {
    let mut machine: Option<UserTarget> = None;
    let mut paths = Vec::new();
    for text in args.from.iter().chain([&args.to]) {
        let Some((target, path)) = remote(text)? else {
            paths.push((None, here(text)));
            continue;
        };
        let other = |known: &UserTarget| known.target != target.target;
        if machine.as_ref().is_some_and(other) {
            bail!("scp copies between this host and one machine");
        }
        paths.push((user(&target, &args.login), path.to_owned()));
        machine = Some(target);
    }
    let machine = machine.context("neither is in a machine: write NAME:PATH for one that is")?;
    let running = pod::running(cluster, &machine.target).await?;
    let mut command = client("scp", &running, connection, &machine.target, &args.login)?;
    if args.recursive {
        command.arg("-r");
    }
    if args.preserve {
        command.arg("-p");
    }
    command.arg("--");
    let host = host(&machine.target, &running);
    let (from, to) = (args.from.len(), paths.len());
    let is_remote = |index: usize| match index {
        index if index < from => remote(args.from.get(index).map_or("", String::as_str)),
        _ => remote(&args.to),
    };
    for (index, (user, path)) in paths.into_iter().enumerate().take(to) {
        command.arg(match (is_remote(index)?, user) {
            (None, _) => path,
            (Some(_), None) => format!("{host}:{path}"),
            (Some(_), Some(user)) => format!("{user}@{host}:{path}"),
        });
    }
    replaced(command)
}

/// A path of this host's, such that scp does not take it for one of another.
fn here(text: &str) -> String {
    match text.starts_with('/') || text.starts_with("./") || text.starts_with("../") {
        true => text.to_owned(),
        false => format!("./{text}"),
    }
}

/// A machine and a path in it, unless it is a path of this host.
fn remote(text: &str) -> Result<Option<(UserTarget, &str)>> {
    match text.split_once(':') {
        Some((target, path)) if !text.starts_with('/') && !text.starts_with('.') => {
            let target = target.parse().map_err(anyhow::Error::msg);
            let target = target.with_context(|| {
                format!("{text:?} is no NAME:PATH; a path of this host begins with / or ./")
            })?;
            Ok(Some((target, path)))
        }
        _ => Ok(None),
    }
}

fn user(target: &UserTarget, login: &LoginArgs) -> Option<String> {
    target.user.clone().or_else(|| login.username.clone())
}

/// What OpenSSH calls the machine, for its configuration: virtctl's form.
fn host(target: &Target, running: &Running) -> String {
    format!("vm.{}.{}", target.name, running.namespace)
}

/// One of OpenSSH's programs with the way to the machine.
fn client(
    program: &str,
    running: &Running,
    connection: &ConnectionArgs,
    target: &Target,
    login: &LoginArgs,
) -> Result<Command> {
    let mut command = Command::new(program);
    let known = match &login.known_hosts {
        Some(path) => path.clone(),
        None => known_hosts()?,
    };
    let known = known
        .to_str()
        .context("--known-hosts: its path is no text")?;
    let mut option = |text: OsString| {
        command.arg("-o").arg(text);
    };
    option(proxy_command(running, connection, target, login.port)?.into());
    // A machine that starts again is another one, if its image makes its keys
    // when it first boots.
    option(format!("HostKeyAlias={}.{}", host(target, running), running.uid).into());
    option(format!("UserKnownHostsFile={}", one_file(known)).into());
    option("StrictHostKeyChecking=accept-new".into());
    if let Some(key) = &login.identity_file {
        command.arg("-i").arg(key);
    }
    for option in &login.options {
        command.args(option.split_whitespace());
    }
    Ok(command)
}

/// A file where OpenSSH takes several, with spaces between them, and replaces
/// what follows a percent sign (ssh_config(5), UserKnownHostsFile).
fn one_file(path: &str) -> String {
    let path = path.replace('\\', r"\\").replace('"', r#"\""#);
    format!("\"{}\"", path.replace('%', "%%"))
}

/// Beside OpenSSH's own. It makes the folder only if that is where the user
/// database says.
fn known_hosts() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute());
    let home =
        home.context("HOME does not say where the keys of guests are kept: give --known-hosts")?;
    let dir = home.join(".ssh");
    // OpenSSH says what is wrong with it.
    let _ = DirBuilder::new().mode(0o700).create(&dir);
    Ok(dir.join("bootwright_known_hosts"))
}

/// What OpenSSH runs to be connected: this program, with the same cluster.
fn proxy_command(
    running: &Running,
    connection: &ConnectionArgs,
    target: &Target,
    port: Option<u16>,
) -> Result<String> {
    let program = std::env::current_exe().context("this program has no name")?;
    let program = program.to_str().context("this program's path is no text")?;
    let mut words = vec![program.to_owned()];
    let mut connection = connection.clone();
    connection.namespace = Some(running.namespace.clone());
    words.extend(connection.words());
    words.extend(["ssh-proxy".to_owned(), target.name.clone()]);
    words.extend(port.map(|port| format!("--port={port}")));
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    Ok(format!("ProxyCommand={}", words.join(" ")))
}

/// A word for a shell; ssh replaces what follows a percent sign (ssh_config(5),
/// ProxyCommand).
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''").replace('%', "%%"))
}

/// Becomes the program.
fn replaced(mut command: Command) -> Result<()> {
    let program = command.get_program().to_owned();
    Err(command.exec()).with_context(|| {
        format!(
            "cannot run {} (Debian, Ubuntu: openssh-client)",
            program.display()
        )
    })
}

/// `ssh-proxy`: what OpenSSH runs to be connected.
pub(crate) async fn proxy(
    cluster: &Cluster,
    target: &Target,
    port: Option<u16>,
) -> Result<ExitCode> {
    let running = pod::running(cluster, target).await?;
    let options: Vec<_> = (port.iter()).map(|port| format!("--port={port}")).collect();
    let mut process = running.exec(cluster, "ssh-proxy", &options).await?;
    let to = process.stdin().context("no way to the pod")?;
    let from = process.stdout().context("no way from the pod")?;
    let said = tokio::spawn(relay::complaint(process.stderr()));
    let interrupted = relay::interrupted()?;
    let sent = relay::send(relay::input()?, to);
    let sent = async {
        let sent = sent.await;
        // The other direction goes on to its own end.
        match sent {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let status = tokio::select! {
        status = pod::follow(&mut process, from) => status?,
        error = sent => return Err(error.into()),
        () = interrupted => return Ok(ExitCode::FAILURE),
    };
    match status {
        0 => Ok(ExitCode::SUCCESS),
        _ => bail!("{}: {}", running.name, said.await.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn words_reach_the_proxy_as_they_are() {
        assert_eq!(quoted("it's 100%"), r"'it'\''s 100%%'");
        assert_eq!(one_file(r#"/a b/"100%\"#), r#""/a b/\"100%%\\""#);
    }

    #[test]
    fn machines_and_paths_are_told_apart() {
        for (text, found) in [
            ("root@web:/etc", Some((Some("root"), "web", "/etc"))),
            ("vm/web:", Some((None, "web", ""))),
            ("./a:b", None),
            ("/a:b", None),
            ("file", None),
        ] {
            let parsed = remote(text).unwrap();
            let parsed = parsed
                .as_ref()
                .map(|(target, path)| (target.user.as_deref(), target.target.name.as_str(), *path));
            assert_eq!(parsed, found, "{text}");
        }
        let error = format!("{:#}", remote("A b:c").unwrap_err());
        assert!(error.contains("begins with / or ./"), "{error}");
        assert_eq!(here("-rf"), "./-rf");
    }
}
