//! `port-forward`: local ports that lead to a machine's.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::net::sockopt;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::args::PortForwardArgs;
use crate::cluster::Cluster;
use crate::port::{End, Port};
use crate::target::Target;
use crate::{explain, output, pod, relay};

/// After how much silence the kernel looks whether whoever connected is there.
const SILENCE: Duration = Duration::from_secs(30);

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
    let running = pod::running(cluster, &args.target).await?;
    if args.stdio {
        let [ports] = &args.ports[..] else {
            bail!("--stdio: with one port");
        };
        return way.stdio(ports.remote).await;
    }
    running.may_forward(cluster).await?;
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
        keep_alive(&stream)?;
        // The machine may have another pod by now.
        let running = pod::running(&self.cluster, &self.target).await?;
        let (mut port, way) = Port::open(&running, &self.cluster, remote).await?;
        let (mut from, mut to) = stream.split();
        let up = async |mut way| {
            // Whoever has sent everything may still want the answer.
            if tokio::io::copy(&mut from, &mut way).await.is_ok() {
                let _ = from.ready(Interest::ERROR).await;
            }
        };
        let down = async |mut way| {
            // It may go away as it likes.
            let _ = tokio::io::copy(&mut way, &mut to).await;
            Ok(())
        };
        let carried = port.carry(way, up, down).await;
        match carried {
            Ok(_) => drop(stream.shutdown().await),
            // What came is not all there was.
            Err(_) => stream.set_zero_linger()?,
        }
        drop(stream);
        port.close().await;
        carried.map(drop)
    }

    /// Carries standard input and output.
    async fn stdio(&self, remote: u16) -> Result<ExitCode> {
        let running = pod::running(&self.cluster, &self.target).await?;
        let (mut port, way) = Port::open(&running, &self.cluster, remote).await?;
        let interrupted = relay::interrupted()?;
        let input = relay::input()?;
        let up = async |way| {
            let mut way = way;
            if relay::pass(input, &mut way).await.is_ok() {
                relay::unread().await;
            }
        };
        let end = tokio::select! {
            end = port.carry(way, up, relay::receive) => end?,
            () = interrupted => End::Here,
        };
        Ok(match end {
            End::Machine => ExitCode::SUCCESS,
            End::Here => ExitCode::FAILURE,
        })
    }
}

/// Has the kernel find out that whoever connected is gone, which does not show
/// otherwise once it has said that it will send no more (tcp(7)).
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}
