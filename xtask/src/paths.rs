//! Where things lie in the workspace.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The workspace's root: the parent of this crate's folder.
pub(crate) fn workspace() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// Cargo's target directory, which its configuration may put anywhere.
pub(crate) fn target() -> PathBuf {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET
        .get_or_init(|| ask_cargo().unwrap_or_else(|| workspace().join("target")))
        .clone()
}

fn ask_cargo() -> Option<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let output = metadata.current_dir(workspace()).output().ok()?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(json["target_directory"].as_str()?.into())
}

/// A place under `target/xtask`, where all of xtask's products go.
pub(crate) fn product(name: &str) -> PathBuf {
    target().join("xtask").join(name)
}
