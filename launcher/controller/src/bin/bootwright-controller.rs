//! The controller of virtual machines in Kubernetes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bootwright_controller::manager;
use bootwright_controller::manager::config::{Config, File, LeaseName};
use clap::Parser;
use futures::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Runs the virtual machines of a Kubernetes cluster
#[derive(Parser)]
#[command(name = "bootwright-controller", version)]
struct Options {
    /// Read FILE, in YAML; options outrank it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The image of the launcher
    #[arg(long, value_name = "IMAGE")]
    launcher_image: Option<String>,
    /// Run machines without KVM
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    use_emulation: Option<bool>,
    /// Whether nodes have user namespaces
    #[arg(long, value_name = "BOOL")]
    user_namespaces: Option<bool>,
    /// At which port of their pods launchers serve metrics; 0 for none
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Whether nodes have image volumes
    #[arg(long, value_name = "BOOL")]
    image_volumes: Option<bool>,
    /// Only machines of this namespace; may be given several times
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// How many machines are reconciled at a time
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<u16>,
    /// Serve /healthz, /readyz and /metrics at ADDRESS
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Work only while holding this lease, so that there may be several
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = lease)]
    lease: Option<LeaseName>,
    /// Log what is done, too
    #[arg(long)]
    verbose: bool,
}

fn lease(text: &str) -> Result<LeaseName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(LeaseName {
            namespace: namespace.into(),
            name: name.into(),
        }),
        _ => Err("a namespace, a slash and a name are needed".into()),
    }
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    let level = match options.verbose {
        true => LevelFilter::DEBUG,
        false => LevelFilter::INFO,
    };
    // What libraries say of every request is of no use here.
    let levels = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("bootwright_controller", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(levels))
        .init();
    let config = config(options)?;
    // One thread: the work is waiting, and memory is counted.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(serve(Arc::new(config)))
}

fn config(options: Options) -> Result<Config> {
    let file = match &options.config {
        Some(path) => File::read(path)?,
        None => File::default(),
    };
    let said = File {
        launcher_image: options.launcher_image,
        use_emulation: options.use_emulation,
        user_namespaces: options.user_namespaces,
        metrics_port: options.metrics_port,
        image_volumes: options.image_volumes,
        namespaces: (!options.namespaces.is_empty()).then_some(options.namespaces),
        concurrency: options.concurrency,
        listen: options.listen,
        lease: options.lease,
    };
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let identity = format!("{name}-{}", std::process::id());
    Ok(file.overruled_by(said).complete(identity)?)
}

async fn serve(config: Arc<Config>) -> Result<()> {
    let client = kube::Client::try_default()
        .await
        .context("cannot find the cluster: run in a pod, or set KUBECONFIG")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending");
    };
    tracing::info!(identity = config.identity, "started");
    Ok(manager::run(client, config, stop.shared()).await?)
}
