//! What a machine is to be.

use std::fmt;

use crate::boot::{BootSource, KernelCache};
use crate::devices::serial::Output;
use crate::memory::MemoryConfig;
use crate::smbios::Smbios;
use crate::virtio::VirtioDevice;

/// What can be said of a machine, and said again at its reset.
#[derive(Debug, Clone)]
pub struct Config {
    /// vCPUs at boot.
    pub cpus: u8,
    /// vCPUs that there can be, `cpus` at least.
    pub max_cpus: u8,
    /// Memory.
    pub memory: MemoryConfig,
    /// What it boots.
    pub boot: BootSource,
    /// Where decompressed kernels are kept.
    pub kernel_cache: Option<KernelCache>,
    /// What it is called, and strings for the guest.
    pub smbios: Smbios,
    /// Whether its threads are confined.
    pub sandbox: bool,
}

/// What a machine is made around, and what outlives its reset.
pub struct Parts {
    /// Its devices, in the order of their slots.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// Where its serial port leads.
    pub serial: Output,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}
