//! `port-forward`: local ports that lead to a machine's.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::args::PortForwardArgs;
use crate::cluster::Cluster;
use crate::target::Target;
use crate::{explain, output, pod, relay};

/// What connections share.
struct Way {
    cluster: Cluster,
    target: Target,
}

/// `port-forward`.
pub(crate) async fn forward(cluster: &Cluster, args: &PortForwardArgs) -> Result<ExitCode> {
    let way = Way {
        cluster: cluster.clone(),
        target: args.target.clone(),
    };
    // That there is no machine, or none that runs, is told at once.
    pod::running(cluster, &args.target).await?;
    if args.stdio {
        let [ports] = &args.ports[..] else {
            bail!("--stdio: with one port");
        };
        return way.stdio(ports.remote).await;
    }
    let mut listeners = Vec::new();
    for ports in &args.ports {
        for address in &args.address {
            let address = SocketAddr::new(*address, ports.local);
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen at {address}"))?;
            let address = listener.local_addr()?;
            output::line(&format!("Forwarding from {address} -> {}", ports.remote))?;
            listeners.push((listener, ports.remote));
        }
    }
    let tasks = LocalSet::new();
    let way = Rc::new(way);
    for (listener, remote) in listeners {
        tasks.spawn_local(Rc::clone(&way).listen(listener, remote));
    }
    tasks.run_until(relay::interrupted()?).await;
    Ok(ExitCode::SUCCESS)
}

impl Way {
    /// Forwards whoever connects.
    async fn listen(self: Rc<Self>, listener: TcpListener, remote: u16) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let way = Rc::clone(&self);
                    tokio::task::spawn_local(async move {
                        if let Err(error) = way.connect(stream, remote).await {
                            let error = explain::error(&error);
                            eprintln!("error: port {remote}, connection from {peer}: {error}");
                        }
                    });
                }
                // There are too many connections, say.
                Err(error) => {
                    eprintln!("error: cannot take a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// Carries one connection.
    async fn connect(&self, mut stream: TcpStream, remote: u16) -> Result<()> {
        // The machine may have another pod by now.
        let running = pod::running(&self.cluster, &self.target).await?;
        let mut forwarder = running.port(&self.cluster, remote).await?;
        let mut port = forwarder.take_stream(remote).context("no such port")?;
        let trouble = forwarder.take_error(remote);
        let copied = tokio::io::copy_bidirectional(&mut stream, &mut port).await;
        drop(port);
        // What the node says counts for more than that the connection ended.
        if let Some(trouble) = trouble
            && let Some(trouble) = trouble.await
        {
            bail!("{}", output::printable(trouble.trim()));
        }
        // Either end may go away as it likes.
        drop(copied);
        let _ = stream.shutdown().await;
        Ok(())
    }

    /// Carries standard input and output.
    async fn stdio(&self, remote: u16) -> Result<ExitCode> {
        let running = pod::running(&self.cluster, &self.target).await?;
        let mut forwarder = running.port(&self.cluster, remote).await?;
        let port = forwarder.take_stream(remote).context("no such port")?;
        let trouble = forwarder.take_error(remote);
        let (from, to) = tokio::io::split(port);
        let interrupted = relay::interrupted()?;
        let sending = tokio::spawn(relay::send(relay::input()?, to));
        tokio::select! {
            received = relay::receive(from) => received?,
            () = interrupted => return Ok(ExitCode::FAILURE),
        }
        sending.abort();
        match trouble {
            Some(trouble) => match trouble.await {
                Some(trouble) => bail!("{}", output::printable(trouble.trim())),
                None => Ok(ExitCode::SUCCESS),
            },
            None => Ok(ExitCode::SUCCESS),
        }
    }
}
