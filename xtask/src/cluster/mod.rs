//! A real Kubernetes to test against: an API server, or a whole node.
//!
//! `testdata/cluster` is a Go module with every program of a cluster in one
//! binary. It is built once. `up` starts etcd and the API server on loopback,
//! or with `--node` all of them, in namespaces of their own, and installs our
//! definitions; `down` ends them and leaves nothing behind.

mod access;
mod binary;
mod node;
mod pause;
mod plane;
mod suite;
mod tools;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::{images, paths, proc, programs, registries, setup};
use node::Node;
use plane::Plane;
pub(crate) use suite::test as test_node;

/// Names the command line of kubectl, with spaces between words.
const KUBECTL_VARIABLE: &str = "BOOTWRIGHT_TEST_KUBECTL";

/// Where our definitions are.
const DEFINITIONS: &str = "templates/cluster/crds";

/// Names the command `bootwright`, for tests that launch a machine.
const COMMAND_VARIABLE: &str = "BOOTWRIGHT_TEST_COMMAND";

/// What to do with the cluster.
#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Start it, and install the definitions of the custom resources
    Up {
        /// Start a whole node, and a registry beside it (as root)
        #[arg(long)]
        node: bool,
    },
    /// End it and forget what it stored
    Down,
    /// Run kubectl against it
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a program within the node, where kubectl and ctr are at hand
    Exec {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Copy an image to the node's registry; prints what pods call it
    Push {
        /// The image, as skopeo names it: oci:DIR:TAG, docker-archive:FILE, …
        image: String,
        /// Its name there, and optionally a tag
        name: String,
    },
    /// Make the cluster's images and install the controller on the node, with
    /// guests that are emulated
    Install(images::Options),
    /// Run the tests that need a node on it, where the controller is installed
    Test {
        /// What the names of the tests contain; all are run without
        names: Vec<String>,
    },
    /// Be the first process of a node
    #[command(hide = true)]
    Inside {
        /// The node's folder
        dir: PathBuf,
    },
}

/// Does it.
pub(crate) fn run(action: Action) -> Result<()> {
    let plane = Plane::at(paths::product("cluster/up"));
    let node = Node::at(paths::product("cluster/node"));
    match action {
        Action::Up { node: false } => {
            setup::packages(&[setup::Purpose::Cluster])?;
            let binary = binary::build()?;
            plane.up(&binary)?;
            install(&plane)?;
            println!("export KUBECONFIG={}", plane.kubeconfig().display());
            Ok(())
        }
        Action::Up { node: true } => {
            setup::packages(&[setup::Purpose::Node])?;
            node.up()?;
            proc::run(node.command(&[
                "kubectl",
                "apply",
                "--server-side",
                "--filename",
                &definitions(),
            ])?)
        }
        Action::Down => {
            node.down()?;
            // Left behind by tests that were killed.
            suite::node().down()?;
            plane.down()
        }
        Action::Kubectl { arguments } if node.dir().exists() => {
            let words = [vec!["kubectl".to_owned()], arguments].concat();
            become_it(node.command(&words)?)
        }
        Action::Kubectl { arguments } => {
            // Without the file kubectl would ask whatever listens at port 8080.
            if !plane.kubeconfig().exists() {
                bail!("there is no cluster: run `cargo xtask cluster up` first");
            }
            let mut kubectl = Command::new(binary::path());
            kubectl.arg("kubectl").args(arguments);
            kubectl.env("KUBECONFIG", plane.kubeconfig());
            become_it(kubectl)
        }
        Action::Exec { words } => become_it(node.command(&words)?),
        Action::Push { image, name } => {
            println!("{}", node.push(&image, &name)?);
            Ok(())
        }
        Action::Install(options) => suite::install(&node, &options),
        Action::Test { names } => suite::run(&node, &names),
        Action::Inside { dir } => Node::at(dir).inside(),
    }
}

/// Compiles what the tests need, which takes minutes the first time.
pub(crate) fn prepare() -> Result<()> {
    binary::build().map(drop)
}

fn become_it(mut command: Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", command.get_program().display()))
}

fn definitions() -> String {
    paths::workspace().join(DEFINITIONS).display().to_string()
}

/// The tests that need an API server, against one of their own.
pub(crate) fn test() -> Result<()> {
    with_plane(|sh| {
        sh.set_var(registries::ARGOCD, registries::argocd()?);
        sh.set_var(COMMAND_VARIABLE, programs::build()?.join("bootwright"));
        proc::run(cmd!(
            sh,
            "cargo test --locked --quiet --workspace
            --test api_server --test controller --test plugin -- --ignored"
        ))
    })
}

/// The numbers of the controller, against an API server of their own: what the
/// benchmark printed.
pub(crate) fn bench() -> Result<String> {
    with_plane(|sh| {
        proc::read(cmd!(
            sh,
            "cargo bench --locked --quiet --package bootwright-controller --bench cluster"
        ))
    })
}

/// Does something with an API server that is started for it.
fn with_plane<T>(work: impl FnOnce(&Shell) -> Result<T>) -> Result<T> {
    let binary = binary::build()?;
    let dir = tempfile::tempdir()?;
    let plane = Plane::at(dir.path().join("plane"));
    plane.up(&binary)?;
    let _ended = plane.guard();
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    sh.set_var("KUBECONFIG", plane.kubeconfig());
    sh.set_var(KUBECTL_VARIABLE, format!("{} kubectl", binary.display()));
    work(&sh)
}

fn install(plane: &Plane) -> Result<()> {
    let sh = Shell::new()?;
    sh.set_var("KUBECONFIG", plane.kubeconfig());
    let (binary, definitions) = (binary::path(), definitions());
    proc::run(cmd!(
        sh,
        "{binary} kubectl apply --server-side --filename {definitions}"
    ))
}
