//! A raw disk, with an overlay over it if wanted.

use std::path::PathBuf;
use std::sync::Arc;

use bootwright_vmm::block::{Backend, Overlay, RawDisk};
use bootwright_vmm::sandbox;
use bootwright_vmm::virtio::VirtioDevice;
use bootwright_vmm::virtio::block::{Block, BlockEngine, BlockOptions};
use bootwright_vmm::vm::Config;

use super::Result;

/// What the command line says of a disk.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// Where changes go, if not to the disk itself.
    pub(crate) overlay: Option<PathBuf>,
}

impl Disk {
    /// A disk without an overlay.
    pub(crate) fn new(path: String) -> Self {
        Self {
            path: path.into(),
            overlay: None,
        }
    }

    /// The device that serves it.
    pub(crate) fn device(&self, index: usize, config: &Config) -> Result<Box<dyn VirtioDevice>> {
        let raw = RawDisk::open(&self.path, self.overlay.is_some())?;
        let backend: Arc<dyn Backend> = match &self.overlay {
            None => Arc::new(raw),
            Some(path) => {
                let (id, size) = (raw.identity()?, raw.size());
                let base = Arc::new(raw);
                match path.exists() {
                    true => Arc::new(Overlay::open(path, base, id)?),
                    false => Arc::new(Overlay::create(path, base, id, size)?),
                }
            }
        };
        let confine = sandbox::for_devices(config.sandbox, sandbox::Files::default());
        let name = format!("block{index}");
        let options = BlockOptions {
            serial: name.clone(),
            name,
            queues: config.max_cpus.into(),
            engine: BlockEngine::Auto,
            on_thread: Some(Arc::new(move || confine("block"))),
        };
        Ok(Box::new(Block::new(backend, options)?))
    }
}
