//! The demo's disk, served over NBD straight from its image.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::proc::{self, Group};
use crate::{binary, image, paths};

/// A server that runs for as long as this lives.
#[derive(Debug)]
pub(super) struct Served {
    server: Group,
    dir: TempDir,
}

impl Served {
    /// Makes image and binary if need be, and starts the server. Who connects
    /// before it is ready waits.
    pub(super) fn new() -> Result<Self> {
        let image = image::debian()?;
        let binary = binary::build()?;
        // Names of sockets must be short.
        let dir = tempfile::tempdir()?;
        let mut serve = Command::new(binary);
        serve
            .args(["serve", &image.reference, "--quiet", "--hostname", "lab"])
            .arg("--nbd")
            .arg(dir.path().join("disk.sock"))
            .arg("--store")
            .arg(paths::product("lab").join("store"));
        let server = Group::spawn(&mut serve)?;
        let mut served = Self { server, dir };
        served.wait()?;
        Ok(served)
    }

    /// Waits for the socket.
    fn wait(&mut self) -> Result<()> {
        while !self.dir.path().join("disk.sock").exists() {
            if let Some(status) = self.server.try_wait()? {
                bail!("`bootwright serve` ended: {status}");
            }
            proc::sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// The value of QEMU's option `-drive`.
    pub(super) fn drive(&self) -> String {
        let socket = self.dir.path().join("disk.sock");
        format!(
            "if=virtio,format=raw,readonly=on,file=nbd+unix:///?socket={}",
            socket.display()
        )
    }
}
