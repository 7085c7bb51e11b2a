//! Debian packages, unpacked but not installed.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::image::Mirror;
use crate::{paths, proc};

/// The Debian release that they are of.
const SUITE: &str = "trixie";

/// Unpacks packages and what they depend on into a folder of this name, once.
/// No script of theirs runs.
pub(crate) fn unpack(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let dir = paths::product("packages").join(name);
    let stamp = dir.with_extension("stamp");
    let inputs = format!("{SUITE} {}\n", packages.join(" "));
    if dir.is_dir() && fs::read_to_string(&stamp).is_ok_and(|text| text == inputs) {
        return Ok(dir);
    }
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let sources = tempfile::Builder::new().suffix(".sources").tempfile()?;
    fs::write(&sources, Mirror::of_this_machine()?.sources(SUITE))?;
    let sh = Shell::new()?;
    let include = format!("--include={}", packages.join(","));
    let sources = sources.path();
    proc::run_logged(
        cmd!(
            sh,
            "mmdebstrap --variant=extract --format=directory {include} {SUITE} {dir} {sources}"
        ),
        &dir.with_extension("log"),
    )?;
    fs::write(stamp, inputs)?;
    Ok(dir)
}
