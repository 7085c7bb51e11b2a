//! Registries and clients that are no Debian packages: built from their Go
//! modules, for the tests that use them.

use std::path::PathBuf;

use anyhow::Result;
use xshell::cmd;

use crate::{go, paths, proc};

/// A program that tests find by an environment variable.
struct Tool {
    variable: &'static str,
    module: &'static str,
    name: &'static str,
}

const TOOLS: [Tool; 2] = [
    Tool {
        variable: "BOOTWRIGHT_TEST_DISTRIBUTION",
        module: "github.com/distribution/distribution/v3/cmd/registry@v3.0.0",
        name: "registry",
    },
    Tool {
        variable: "BOOTWRIGHT_TEST_ORAS",
        module: "oras.land/oras/cmd/oras@v1.3.0",
        name: "oras",
    },
];

/// Builds the programs that are not there yet, and gives the variables that
/// lead to them.
///
/// # Errors
/// There is no Go to be had, or a module cannot be fetched or built.
pub(crate) fn variables() -> Result<Vec<(&'static str, PathBuf)>> {
    let (sh, go) = (go::shell()?, go::path()?);
    let mut variables = Vec::new();
    for tool in TOOLS {
        // The version is part of the path, so that another one is built.
        let (_, version) = tool.module.rsplit_once('@').unwrap_or_default();
        let dir = paths::product("tools").join(format!("{}-{version}", tool.name));
        let binary = dir.join(tool.name);
        if !binary.is_file() {
            let module = tool.module;
            sh.set_var("GOBIN", &dir);
            proc::run(cmd!(sh, "{go} install {module}"))?;
        }
        variables.push((tool.variable, binary));
    }
    Ok(variables)
}
