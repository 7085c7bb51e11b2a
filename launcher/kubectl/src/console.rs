//! `console`: the user's terminal as a machine's console.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::Receiver;

use crate::args::ConsoleArgs;
use crate::cluster::Cluster;
use crate::terminal::Raw;
use crate::{pod, relay};

/// Ctrl-], which leaves telnet, `bootwright console` and virtctl's, too.
const ESCAPE: u8 = 0x1d;

/// How a look at a console ends.
enum End {
    /// The user leaves.
    Left,
    /// There is no more to see, and this is the exit status.
    Over(u8),
}

/// `console`.
pub(crate) async fn console(cluster: &Cluster, args: &ConsoleArgs) -> Result<ExitCode> {
    let running = pod::running(cluster, &args.target).await?;
    let mut process = running.exec(cluster, "console-proxy", &[]).await?;
    let keys = process.stdin().context("no way to the console")?;
    let shown = process.stdout().context("no way from the console")?;
    let said = tokio::spawn(relay::complaint(process.stderr()));
    // Nothing may end this program while the terminal is in raw mode.
    let interrupted = relay::interrupted()?;
    let raw = Raw::enter().context("cannot change the terminal's mode")?;
    if raw.is_some() {
        eprintln!("console: Ctrl-] leaves it");
    }
    let typed = type_on(relay::input()?, keys, raw.is_some());
    let end = tokio::select! {
        // What is typed ends by the escape key only: a pipe's end is not the
        // end of what the machine has to say.
        typed = typed => typed.map(|()| End::Left).map_err(Into::into),
        status = pod::follow(&mut process, shown) => status.map(End::Over),
        () = interrupted => Ok(End::Left),
    };
    drop(raw);
    match end? {
        End::Left => {
            eprintln!();
            Ok(ExitCode::SUCCESS)
        }
        End::Over(0) => Ok(ExitCode::SUCCESS),
        End::Over(_) => bail!("{}: {}", running.name, said.await.unwrap_or_default()),
    }
}

/// Passes on what is typed until the escape key is.
async fn type_on(
    mut typed: Receiver<Vec<u8>>,
    mut to: impl AsyncWrite + Unpin,
    terminal: bool,
) -> std::io::Result<()> {
    while let Some(bytes) = typed.recv().await {
        let escape = bytes.iter().position(|byte| terminal && *byte == ESCAPE);
        let keys = bytes.get(..escape.unwrap_or(bytes.len()));
        to.write_all(keys.unwrap_or_default()).await?;
        to.flush().await?;
        if escape.is_some() {
            return Ok(());
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn keys_before_the_escape_key_are_passed_on() {
        for (terminal, expected) in [(true, &b"ls\nexit"[..]), (false, b"ls\nexit\x1dmore")] {
            let (sender, typed) = tokio::sync::mpsc::channel(4);
            sender.send(b"ls\n".to_vec()).await.unwrap();
            sender.send(b"exit\x1dmore".to_vec()).await.unwrap();
            drop(sender);
            let mut keys = Vec::new();
            let typing = type_on(typed, &mut keys, terminal);
            let moment = std::time::Duration::from_millis(100);
            let left = tokio::time::timeout(moment, typing).await.is_ok();
            assert_eq!(left, terminal);
            assert_eq!(keys, expected);
        }
    }
}
