//! The image of the process that holds a pod's namespaces: one small program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use super::binary;
use crate::paths;

/// What pods' first container is made of.
pub(super) const NAME: &str = "bootwright.test/pause:1";

/// Makes it, as an archive that `docker save` might have written.
pub(super) fn archive() -> Result<PathBuf> {
    let program = fs::read(binary::pause()?)?;
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "pause", 0o755, &program)?;
    let layer = layer.into_inner()?;
    let diff_id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let config = serde_json::json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": ["/pause"], "User": "65535:65535" },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let manifest = serde_json::json!([{
        "Config": "config.json",
        "RepoTags": [NAME],
        "Layers": ["layer.tar"],
    }]);
    let path = paths::product("cluster/pause.tar");
    write(
        &path,
        &[
            ("manifest.json", manifest.to_string().as_bytes()),
            ("config.json", config.to_string().as_bytes()),
            ("layer.tar", &layer),
        ],
    )?;
    Ok(path)
}

fn write(path: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let mut archive = tar::Builder::new(File::create(path)?);
    for (name, content) in files {
        append(&mut archive, name, 0o644, content)?;
    }
    archive.finish()?;
    Ok(())
}

fn append<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    Ok(archive.append_data(&mut header, name, content)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This machine's, as images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
