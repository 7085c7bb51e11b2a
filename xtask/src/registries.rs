//! Registries, their clients, and the interpreter of Argo CD, which are no
//! Debian packages: built from their Go modules, for the tests that use them.

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

/// Points tests at what evaluates health checks.
pub(crate) const ARGOCD: &str = "BOOTWRIGHT_TEST_ARGOCD";

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
    variables.push((ARGOCD, argocd()?));
    Ok(variables)
}

/// Builds what evaluates health checks as Argo CD does, for the tests that
/// find it by [`ARGOCD`]. Go itself knows whether there is anything to do.
///
/// # Errors
/// There is no Go, or its module cannot be fetched or built.
pub(crate) fn argocd() -> Result<PathBuf> {
    let (sh, go) = (go::shell()?, go::path()?);
    sh.change_dir(paths::workspace().join("testdata/argocd"));
    let binary = paths::product("tools").join("argocd-health");
    sh.set_var("CGO_ENABLED", "0");
    proc::run(cmd!(sh, "{go} build -mod=readonly -o {binary} ."))?;
    Ok(binary)
}
