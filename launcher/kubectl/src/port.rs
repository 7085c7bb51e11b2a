//! A connection to a port of a machine's pod: bytes go both ways until either
//! end goes away, and how it ended is told apart.
//!
//! The cluster's WebSocket has no way to say that nothing more will be sent
//! while there is still something to be heard: it is closed as a whole. So
//! the end of what is sent is kept back until the connection is over.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;
use kube::api::Portforwarder;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

use crate::cluster::Cluster;
use crate::output;
use crate::pod::{REST, Running};

/// How long the API server may take to close a connection that is over.
const CLOSING: Duration = Duration::from_secs(5);

/// Which end went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine's.
    Machine,
    /// That of this program.
    Here,
}

/// An open connection.
pub(crate) struct Port {
    forwarder: Portforwarder,
    /// What the node says is wrong; nothing, once the connection is over.
    trouble: Pin<Box<dyn Future<Output = Option<String>>>>,
    /// That it was said.
    said: Option<Option<String>>,
}

impl Port {
    /// Opens one; gives what is read from it and written to it.
    pub(crate) async fn open(
        running: &Running,
        cluster: &Cluster,
        port: u16,
    ) -> Result<(Self, DuplexStream)> {
        let mut forwarder = running.port(cluster, port).await?;
        let stream = forwarder.take_stream(port).context("no such port")?;
        let trouble = forwarder.take_error(port).context("no such port")?;
        let port = Self {
            forwarder,
            trouble: Box::pin(trouble),
            said: None,
        };
        Ok((port, stream))
    }

    /// Carries bytes until `down` has come to the end of what the machine
    /// sends, or until `up` ends: when nobody here wants to hear more. Fails if
    /// the connection broke, or if the node says that something is wrong.
    pub(crate) async fn carry<U, D>(
        &mut self,
        stream: DuplexStream,
        up: impl FnOnce(WriteHalf<DuplexStream>) -> U,
        down: impl FnOnce(ReadHalf<DuplexStream>) -> D,
    ) -> Result<End>
    where
        U: Future<Output = ()>,
        D: Future<Output = io::Result<()>>,
    {
        let (from, to) = tokio::io::split(stream);
        let (mut up, mut down) = (pin!(up(to)), pin!(down(from)));
        let end = loop {
            tokio::select! {
                received = &mut down => break received.map(|()| End::Machine),
                () = &mut up => break Ok(End::Here),
                said = &mut self.trouble, if self.said.is_none() => {
                    let is_trouble = said.is_some();
                    self.said = Some(said);
                    // Else some of what was sent may not be read yet.
                    if is_trouble {
                        let rest = tokio::time::timeout(REST, &mut down).await;
                        break rest.unwrap_or(Ok(())).map(|()| End::Machine);
                    }
                }
            }
        };
        // A connection that breaks is over before it is closed here. There is
        // one thread, so both are seen at once.
        if self.said.is_none() {
            self.said = (&mut self.trouble).now_or_never();
        }
        match &self.said {
            Some(Some(trouble)) => bail!("{}", output::printable(trouble.trim())),
            Some(None) => bail!("the connection into the pod broke"),
            None => Ok(end?),
        }
    }

    /// Closes it.
    pub(crate) async fn close(self) {
        if self.said.is_none() {
            let _ = tokio::time::timeout(CLOSING, self.trouble).await;
        }
        self.forwarder.abort();
    }
}
