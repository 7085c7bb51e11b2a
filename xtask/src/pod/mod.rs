//! A virtual machine's pod where there is no cluster.
//!
//! In: a manifest of `testdata/pods`. The controller's own function makes its
//! pod. Out: that pod, and what a container's runtime is told to run it with
//! the same command, environment, mounts, identity and limits.

mod bundle;
mod filter;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::{paths, proc, programs};

pub(crate) use bundle::{Bundle, SHIFT};

/// The annotation that holds the machine.
const MACHINE: &str = "bootwright.dev/machine";

/// A pod with one container.
#[derive(Debug)]
pub(crate) struct Pod(Value);

impl Pod {
    /// The pod of the machine in `testdata/pods/NAME.yaml`.
    pub(crate) fn of(name: &str) -> Result<Self> {
        let sh = Shell::new()?;
        sh.change_dir(paths::workspace());
        let manifest = Path::new("testdata/pods").join(name).with_extension("yaml");
        let example = programs::example("pod")?;
        let json = proc::read(cmd!(sh, "{example} {manifest}"))
            .with_context(|| format!("cannot make the pod of {}", manifest.display()))?;
        Ok(Self(serde_json::from_str(&json)?))
    }

    /// What its launcher starts, as JSON.
    pub(crate) fn machine(&self) -> Result<&str> {
        let machine = self.0["metadata"]["annotations"][MACHINE].as_str();
        machine.context("the pod has no machine")
    }

    fn spec(&self) -> &Value {
        &self.0["spec"]
    }

    fn container(&self) -> &Value {
        &self.0["spec"]["containers"][0]
    }
}
