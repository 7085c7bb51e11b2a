//! This program's standard streams, and what comes and goes through a
//! cluster.
//!
//! Standard input is read by a thread: a read of it cannot be taken back, and
//! must not keep the program from ending.

use std::future::Future;
use std::io;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::oneshot;

use crate::output;

/// How much is read at once, in bytes.
const CHUNK: usize = 32 << 10;

/// How many chunks may wait.
const WAITING: usize = 16;

/// The most that is kept of what a program in a pod says on its standard
/// error, in bytes.
const MAX_ERROR: u64 = 16 << 10;

/// What comes from standard input, until its end.
pub(crate) fn input() -> io::Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    thread::Builder::new().name("input".into()).spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            // Past the buffer of `Stdin`, which others may have filled.
            let bytes = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(count @ 1..) => buffer.get(..count).unwrap_or_default().to_vec(),
                Err(Errno::INTR) => continue,
                Ok(0) | Err(_) => return,
            };
            if sender.blocking_send(bytes).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Writes what comes from standard input to `to`.
pub(crate) async fn pass(
    mut input: Receiver<Vec<u8>>,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    while let Some(bytes) = input.recv().await {
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
    Ok(())
}

/// The same, and closes it at the end.
pub(crate) async fn send(
    input: Receiver<Vec<u8>>,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    pass(input, &mut to).await?;
    to.shutdown().await
}

/// Waits until nobody can read any more what is written to standard output.
pub(crate) async fn unread() {
    let (sender, receiver) = oneshot::channel::<()>();
    let watch = move || {
        let stdout = rustix::stdio::stdout();
        // Errors and hang-ups are told in any case (poll(2)).
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while poll(&mut watched, None) == Err(Errno::INTR) {}
        drop(sender);
    };
    match thread::Builder::new().name("output".into()).spawn(watch) {
        Ok(_) => drop(receiver.await),
        // It shows when something is written.
        Err(_) => std::future::pending().await,
    }
}

/// Writes what comes from `from` to standard output, until its end.
pub(crate) async fn receive(mut from: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            count => output::print(buffer.get(..count).unwrap_or_default())?,
        }
    }
}

/// What a program in a pod says on its standard error: one line of it is for
/// people.
pub(crate) async fn complaint(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut said = Vec::new();
    if let Some(from) = from {
        let mut limited = from.take(MAX_ERROR);
        let _ = limited.read_to_end(&mut said).await;
        // The rest must not hold up the other streams.
        let _ = tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await;
    }
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().rfind(|line| !line.trim().is_empty());
    let line = line.unwrap_or_default().trim();
    output::printable(line.strip_prefix("bootwright: ").unwrap_or(line))
}

/// Waits for a signal that asks this program to end, from the moment when this
/// is called.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_line_of_a_complaint_is_told() {
        let said: &[u8] = b"warning: x\nbootwright: the machine vm does not run\n\n";
        assert_eq!(complaint(Some(said)).await, "the machine vm does not run");
        assert_eq!(complaint(None::<&[u8]>).await, "");
        let endless = tokio::io::repeat(b'x').take(1 << 20);
        assert_eq!(complaint(Some(endless)).await.len() as u64, MAX_ERROR);
        assert_eq!(complaint(Some(&b"a\x1b[2Jb"[..])).await, "a [2Jb");
    }
}
