//! A guest's memory while it runs.
//!
//! More than it had at boot is plugged in through the memory device; less is
//! taken away by the balloon. Where the pages are huge ones the guest keeps
//! what it has, as neither could be done to a part of a page.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use bootwright_vmm::memory::{MemoryConfig, Placement};
use bootwright_vmm::sandbox;
use bootwright_vmm::virtio::VirtioDevice;
use bootwright_vmm::virtio::balloon::{self, Balloon, BalloonHandle};
use bootwright_vmm::virtio::mem::{Mem, MemHandle};

use super::control::Metric;
use crate::args::ByteSize;
use crate::vms::spec::Spec;

/// What memory comes in at boot, in bytes.
pub(super) const UNIT: u64 = 2 << 20;

/// What memory that can be plugged in comes in, in bytes.
const PLUGGABLE_UNIT: u64 = 128 << 20;

/// The memory that `spec` asks for.
pub(super) fn config(spec: &Spec) -> MemoryConfig {
    let size = spec.memory.next_multiple_of(UNIT);
    MemoryConfig {
        size,
        hotplug: match spec.huge_pages {
            true => 0,
            false => spec.max_memory.saturating_sub(size) / PLUGGABLE_UNIT * PLUGGABLE_UNIT,
        },
        huge_pages: spec.huge_pages,
    }
}

/// What the guest's memory is changed with.
#[derive(Debug)]
pub(super) struct Memory {
    /// At boot.
    boot: u64,
    plug: Option<MemHandle>,
    balloon: Option<Arc<BalloonHandle>>,
}

impl Memory {
    /// Adds the devices for it.
    pub(super) fn new(
        config: &MemoryConfig,
        balloon: bool,
        confined: bool,
        devices: &mut Vec<Box<dyn VirtioDevice>>,
    ) -> anyhow::Result<Self> {
        let mut memory = Self {
            boot: config.size,
            plug: None,
            balloon: None,
        };
        if config.huge_pages {
            return Ok(memory);
        }
        if let Some(region) = Placement::of(config)?.hotplug {
            let on_start = sandbox::for_memory(confined);
            let device = Mem::new("memory", region, &on_start).context("the memory device")?;
            memory.plug = Some(device.handle());
            devices.push(Box::new(device));
        }
        if !balloon {
            return Ok(memory);
        }
        let config = balloon::Config {
            most: config.size,
            // The guest is to keep to what it was left with.
            deflate_on_oom: false,
            free_page_reporting: true,
        };
        let on_start = sandbox::for_devices(confined, sandbox::Files::default());
        let device = Balloon::new("balloon", config, &on_start).context("the balloon")?;
        memory.balloon = Some(Arc::new(device.handle().context("the balloon")?));
        devices.push(Box::new(device));
        Ok(memory)
    }

    /// Has the guest go for so many bytes.
    pub(super) fn set(&self, bytes: u64) -> anyhow::Result<()> {
        if self.plug.is_none() && self.balloon.is_none() {
            bail!("memory of this machine stays as it is");
        }
        let Wanted { plugged, taken } = wanted(self.boot, bytes);
        if taken > 0 && self.balloon.is_none() {
            bail!(too_little(bytes, self.boot));
        }
        let most = self.plug.as_ref().map_or(0, MemHandle::most);
        if plugged > most {
            bail!(too_much(bytes, self.boot + most));
        }
        // What is given first, so that a guest between the two has more.
        if let Some(balloon) = self.balloon.as_ref().filter(|_| taken == 0) {
            balloon.request(0)?;
        }
        if let Some(plug) = &self.plug {
            plug.request(plugged)?;
        }
        if let Some(balloon) = self.balloon.as_ref().filter(|_| taken > 0) {
            balloon.request(taken)?;
        }
        Ok(())
    }

    /// What the guest has, as far as it has come.
    pub(super) fn now(&self) -> u64 {
        let plug = self.plug.as_ref();
        let plugged = plug.map_or(0, |plug| plug.metrics().plugged.get());
        let balloon = self.balloon.as_ref();
        let taken = balloon.map_or(0, |balloon| balloon.metrics().actual.get());
        (self.boot + plugged).saturating_sub(taken)
    }

    /// For Prometheus.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        if let Some(plug) = &self.plug {
            let plugged = plug.metrics().plugged.get();
            metrics.push(Metric::gauge("memory_plugged_bytes", plugged as f64));
        }
        if let Some(balloon) = &self.balloon {
            let balloon = balloon.metrics();
            metrics.push(Metric::gauge("balloon_bytes", balloon.actual.get() as f64));
            metrics.push(Metric {
                kind: "counter",
                ..Metric::gauge(
                    "balloon_reported_bytes_total",
                    balloon.reported.get() as f64,
                )
            });
        }
        metrics
    }
}

/// What is said of more than can be had.
pub(super) fn too_much(bytes: u64, most: u64) -> String {
    format!(
        "{} of memory: this machine can have {} at most (run's --max-memory)",
        ByteSize(bytes),
        ByteSize(most)
    )
}

/// What is said of less than can be taken without a balloon.
pub(super) fn too_little(bytes: u64, boot: u64) -> String {
    format!(
        "{} of memory: this machine has no balloon, so it keeps the {} that it booted with",
        ByteSize(bytes),
        ByteSize(boot)
    )
}

/// What the two devices have to do for a size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Bytes beside those at boot.
    pub plugged: u64,
    /// Bytes of those at boot that are taken away.
    pub taken: u64,
}

/// The balloon may take a little less, the memory device give a little more,
/// than whole units would be.
pub(super) fn wanted(boot: u64, bytes: u64) -> Wanted {
    Wanted {
        plugged: bytes.saturating_sub(boot).next_multiple_of(UNIT),
        taken: boot.saturating_sub(bytes) / balloon::PAGE * balloon::PAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_plugged_in_and_less_is_taken() {
        let boot = 256 << 20;
        for (bytes, plugged, taken) in [
            (boot, 0, 0),
            (boot + 1, UNIT, 0),
            (boot + 2 * UNIT, 2 * UNIT, 0),
            (boot - 1, 0, 0),
            (boot - 8191, 0, 4096),
            (64 << 20, 0, 192 << 20),
        ] {
            assert_eq!(wanted(boot, bytes), Wanted { plugged, taken }, "{bytes}");
        }
    }
}
