//! Our software on a node, and the tests that need one.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use super::node::Node;
use crate::{image, images, paths, proc, programs};

/// Where the manifests are.
const MANIFESTS: &str = "templates/cluster";

/// Makes and pushes the images, applies the manifests, and waits for the
/// controller and the device plugin.
pub(super) fn install(node: &Node, options: &images::Options) -> Result<()> {
    let layout = images::make(options)?;
    let image = |name: &str| format!("oci:{}:{name}", layout.display());
    let push = |name: &str| node.push(&image(name), name);
    let (controller, plugin) = (push("bootwright-controller")?, push("bootwright-launcher")?);
    let launcher = push(images::EMULATION)?;
    let dir = node.dir().join("install");
    let manifests = dir.join("cluster");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let sh = Shell::new()?;
    let from = paths::workspace().join(MANIFESTS);
    // kustomize takes what is beside or below a kustomization.
    proc::read(cmd!(sh, "cp -r {from} {manifests}"))?;
    configure(&manifests.join("config.yaml"), &launcher)?;
    let image = |name: &str, reference: &str| {
        let (new, digest) = reference.split_once('@').unwrap_or_default();
        serde_json::json!({ "name": name, "newName": new, "digest": digest })
    };
    let kustomization = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["cluster"],
        "images": [
            image("bootwright-controller", &controller),
            image("bootwright-launcher", &plugin),
        ],
    });
    let path = dir.join("kustomization.yaml");
    fs::write(path, kustomization.to_string())?;
    let dir = dir.display().to_string();
    proc::run(node.command(&["kubectl", "apply", "--server-side", "-k", &dir])?)?;
    for (namespace, workload) in [
        ("bootwright-system", "deployment/bootwright-controller"),
        ("bootwright-node", "daemonset/bootwright-node"),
    ] {
        let namespace = format!("--namespace={namespace}");
        let words = ["rollout", "status", "--timeout=300s", workload];
        proc::run(node.command(&[&["kubectl", &namespace], &words[..]].concat())?)?;
    }
    Ok(())
}

/// Names the launcher's image in the controller's configuration, and has
/// guests emulated.
fn configure(path: &Path, launcher: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
    let line = |line: &str| match line.split_once(':') {
        Some(("launcherImage", _)) => format!("launcherImage: {launcher}\n"),
        Some(("useEmulation", _)) => "useEmulation: true\n".to_owned(),
        _ => format!("{line}\n"),
    };
    Ok(fs::write(path, text.lines().map(line).collect::<String>())?)
}

/// The node that the tests have of their own.
pub(super) fn node() -> Node {
    Node::at(paths::product("cluster/node-test"))
}

/// The tests that need a node, on one of their own.
pub(crate) fn test() -> Result<()> {
    let node = node();
    let guests = guests()?;
    node.up()?;
    let _ended = node.guard();
    install(&node, &images::Options::default())?;
    run_with(&node, &guests, &[])
}

/// The same on a node that runs, where the controller is installed; `words`
/// choose some of them.
pub(super) fn run(node: &Node, words: &[String]) -> Result<()> {
    run_with(node, &guests()?, words)
}

/// The images that the tests boot: their variable, where they are, and what
/// they are called in the node's registry.
fn guests() -> Result<[(&'static str, String, &'static str); 5]> {
    let small = images::small::make()?;
    let small = |tag: &str| format!("oci:{}:{tag}", small.display());
    Ok([
        ("DEBIAN", image::debian()?.reference, "debian"),
        ("SMALL_1", small("1"), "small:1"),
        ("SMALL_2", small("2"), "small:2"),
        ("DEAF", small("deaf"), "deaf"),
        ("SILENT", small("silent"), "silent"),
    ])
}

fn run_with(node: &Node, guests: &[(&str, String, &str)], words: &[String]) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    let plugin = programs::build()?.join("kubectl-bootwright");
    let mut command = node.command(&[
        "cargo",
        "test",
        "--locked",
        "--quiet",
        "--workspace",
        "--test=node",
        "--",
        "--ignored",
        "--nocapture",
        // The guests of one test keep the processors busy.
        "--test-threads=1",
    ])?;
    command.args(words);
    for (variable, image, name) in guests {
        let reference = node.push(image, name)?;
        command.env(format!("BOOTWRIGHT_TEST_{variable}"), reference);
    }
    command.env("BOOTWRIGHT_TEST_NODE", node.dir());
    command.env("BOOTWRIGHT_TEST_PLUGIN", plugin);
    command.current_dir(paths::workspace());
    proc::run(command)
}
