//! A real Kubernetes API server to test against, with etcd behind it.
//!
//! `testdata/cluster` is a Go module with every program of a cluster in one
//! binary. It is built once; `up` starts etcd and the API server on loopback
//! and installs our definitions, `down` ends them by their process ids and
//! leaves nothing behind.

mod binary;
mod plane;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::{paths, proc, setup};
use plane::Plane;

/// Names the command line of kubectl, with spaces between words.
const KUBECTL_VARIABLE: &str = "BOOTWRIGHT_TEST_KUBECTL";

/// What to do with the cluster.
#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Start it, and install the definitions of the custom resources
    Up,
    /// End it and forget what it stored
    Down,
    /// Run kubectl against it
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Does it.
pub(crate) fn run(action: Action) -> Result<()> {
    let plane = Plane::at(paths::product("cluster/up"));
    match action {
        Action::Up => {
            setup::packages(&[setup::Purpose::Cluster])?;
            let binary = binary::build()?;
            plane.up(&binary)?;
            install(&plane)?;
            println!("export KUBECONFIG={}", plane.kubeconfig().display());
            Ok(())
        }
        Action::Down => plane.down(),
        Action::Kubectl { arguments } => {
            // Without the file kubectl would ask whatever listens at port 8080.
            if !plane.kubeconfig().exists() {
                bail!("there is no cluster: run `cargo xtask cluster up` first");
            }
            let mut kubectl = Command::new(binary::path());
            kubectl.arg("kubectl").args(arguments);
            kubectl.env("KUBECONFIG", plane.kubeconfig());
            Err(kubectl.exec()).with_context(|| format!("cannot run {}", binary::path().display()))
        }
    }
}

/// Compiles what the tests need, which takes minutes the first time.
pub(crate) fn prepare() -> Result<()> {
    binary::build().map(drop)
}

/// The tests that need an API server, against one of their own.
pub(crate) fn test() -> Result<()> {
    let binary = binary::build()?;
    let dir = tempfile::tempdir()?;
    let plane = Plane::at(dir.path().join("plane"));
    plane.up(&binary)?;
    let _ended = plane.guard();
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    sh.set_var("KUBECONFIG", plane.kubeconfig());
    sh.set_var(KUBECTL_VARIABLE, format!("{} kubectl", binary.display()));
    proc::run(cmd!(
        sh,
        "cargo test --locked --quiet --package bootwright-controller
        --test api_server --test controller -- --ignored"
    ))
}

fn install(plane: &Plane) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    sh.set_var("KUBECONFIG", plane.kubeconfig());
    let binary = binary::path();
    proc::run(cmd!(
        sh,
        "{binary} kubectl apply --server-side -f templates/cluster/crds"
    ))
}
