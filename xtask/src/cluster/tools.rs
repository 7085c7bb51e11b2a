//! What a node has beside Kubernetes: containerd, runc and the plugins for the
//! pods' network, built from their Go modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::cmd;

use crate::{go, paths, proc};

/// Programs of one Go module.
struct Module {
    path: &'static str,
    version: &'static str,
    /// Packages below the module; each is named as its program.
    packages: &'static [&'static str],
    /// Build tags; with any, the C compiler is needed too.
    tags: &'static str,
}

const CONTAINERD: Module = Module {
    path: "github.com/containerd/containerd/v2",
    version: "v2.4.2",
    packages: &["cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"],
    tags: "",
};

const RUNC: Module = Module {
    path: "github.com/opencontainers/runc",
    version: "v1.5.2",
    packages: &[""],
    // Without, the runtime's default filter is refused, and each pod with it.
    tags: "seccomp",
};

const PLUGINS: Module = Module {
    path: "github.com/containernetworking/plugins",
    version: "v1.9.1",
    packages: &[
        "plugins/main/loopback",
        "plugins/main/ptp",
        "plugins/ipam/host-local",
        "plugins/meta/portmap",
    ],
    tags: "",
};

/// The folders of the programs.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) containerd: PathBuf,
    pub(super) runc: PathBuf,
    pub(super) plugins: PathBuf,
}

impl Tools {
    /// Builds those that are not there: about 5 minutes of CPU time with
    /// nothing cached.
    pub(super) fn build() -> Result<Self> {
        Ok(Self {
            containerd: CONTAINERD.build()?,
            runc: RUNC.build()?,
            plugins: PLUGINS.build()?,
        })
    }

    /// Where those are that were built.
    pub(super) fn find() -> Self {
        Self {
            containerd: CONTAINERD.dir(),
            runc: RUNC.dir(),
            plugins: PLUGINS.dir(),
        }
    }
}

impl Module {
    fn dir(&self) -> PathBuf {
        // The version is part of the path, so that another one is built.
        let name = self.path.trim_end_matches("/v2");
        let (_, name) = name.rsplit_once('/').unwrap_or_default();
        paths::product("tools").join(format!("{name}-{}", self.version))
    }

    /// Builds the programs, all or none of them.
    fn build(&self) -> Result<PathBuf> {
        let dir = self.dir();
        if dir.is_dir() {
            return Ok(dir);
        }
        let new = paths::product("tools").join("new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new)?;
        self.install(&new)?;
        fs::rename(&new, &dir)?;
        Ok(dir)
    }

    fn install(&self, dir: &Path) -> Result<()> {
        let (path, version, tags) = (self.path, self.version, self.tags);
        let packages = self.packages.iter().map(|package| match *package {
            "" => format!("{path}@{version}"),
            package => format!("{path}/{package}@{version}"),
        });
        let (sh, go) = (go::shell()?, go::path()?);
        sh.set_var("GOBIN", dir);
        sh.set_var("CGO_ENABLED", if tags.is_empty() { "0" } else { "1" });
        let flags = "-s -w";
        let log = paths::product("tools/build.log");
        eprintln!("compiling {path} (log: {})", log.display());
        proc::run_logged(
            cmd!(
                sh,
                "nice -n 19 {go} install -tags {tags} -ldflags {flags} {packages...}"
            ),
            &log,
        )
    }
}
