//! The program of `testdata/cluster`, built when its sources have changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xshell::cmd;

use crate::{go, paths, proc};

/// Files of the module; the list of what was built.
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// Where it is.
pub(super) fn path() -> PathBuf {
    paths::product("cluster/cluster")
}

/// Builds it unless it is up to date. With nothing cached this takes about 12
/// minutes of CPU time.
pub(super) fn build() -> Result<PathBuf> {
    let module = paths::workspace().join("testdata/cluster");
    let sources = sources(&module)?;
    let (binary, built) = (path(), paths::product("cluster/built-from"));
    let old = fs::read_to_string(&built).unwrap_or_default();
    if binary.exists() && old == sources {
        return Ok(binary);
    }
    let (sh, go) = (go::shell()?, go::path()?);
    sh.change_dir(&module);
    fs::create_dir_all(paths::product("cluster"))?;
    let version = kubernetes(&sources).context("go.mod names no k8s.io/kubernetes")?;
    let minor = version.split('.').nth(1).unwrap_or_default();
    let package = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {package}.gitVersion={version} \
         -X {package}.gitMajor=1 -X {package}.gitMinor={minor}"
    );
    sh.set_var("CGO_ENABLED", "0");
    let log = paths::product("cluster/build.log");
    eprintln!("compiling Kubernetes (log: {})", log.display());
    let build = cmd!(
        sh,
        "nice -n 19 {go} build -mod=readonly -ldflags {flags} -o {binary} ."
    );
    proc::run_logged(build, &log)?;
    fs::write(built, sources)?;
    Ok(binary)
}

/// Builds the program that holds a pod's namespaces, which needs no library.
pub(super) fn pause() -> Result<PathBuf> {
    let (sh, go) = (go::shell()?, go::path()?);
    sh.change_dir(paths::workspace().join("testdata/cluster"));
    fs::create_dir_all(paths::product("cluster"))?;
    let binary = paths::product("cluster/pause");
    sh.set_var("CGO_ENABLED", "0");
    let flags = "-s -w";
    proc::read(cmd!(
        sh,
        "{go} build -mod=readonly -ldflags {flags} -o {binary} ./pause"
    ))?;
    Ok(binary)
}

fn sources(module: &Path) -> Result<String> {
    let mut all = String::new();
    for name in SOURCES {
        let path = module.join(name);
        let text = fs::read_to_string(&path);
        all += &text.with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(all)
}

/// The release of Kubernetes that a module requires.
fn kubernetes(module: &str) -> Option<&str> {
    let mut lines = module.lines().map(str::trim);
    lines.find_map(|line| line.strip_prefix("k8s.io/kubernetes "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_that_of_the_module() {
        let module = paths::workspace().join("testdata/cluster");
        let sources = sources(&module).unwrap();
        assert!(kubernetes(&sources).unwrap().starts_with("v1."));
    }
}
