//! The workspace's programs, compiled for development.
//!
//! Cargo compiles a dependency with the features that the chosen packages ask
//! for. Chosen one by one, most would be compiled again for each of them, and
//! what is built on them too: here, as for the tests, all are chosen.

use std::path::PathBuf;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{paths, proc};

/// Compiles the programs and examples; the folder with the programs, of which
/// `examples` is a part.
pub(crate) fn build() -> Result<PathBuf> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    proc::run(cmd!(
        sh,
        "cargo build --locked --quiet --workspace --examples
         --bin bootwright --bin kubectl-bootwright"
    ))?;
    Ok(paths::target().join("debug"))
}

/// Compiles them; where the example `name` is.
pub(crate) fn example(name: &str) -> Result<PathBuf> {
    Ok(build()?.join("examples").join(name))
}
