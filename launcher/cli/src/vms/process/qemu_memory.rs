//! The memory of a guest that QEMU emulates, while it runs: QEMU's memory
//! device and balloon do what ours do under KVM.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::memory::{self, Wanted};
use super::qmp::Qmp;
use crate::args::ByteSize;
use crate::vms::spec::Spec;

/// Their names in QEMU.
const MEMORY: &str = "memory";
const BALLOON: &str = "balloon";

/// The memory of a guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    boot: u64,
    pluggable: u64,
    huge_pages: bool,
    balloon: bool,
}

impl Memory {
    /// That of a machine.
    pub(super) fn of(spec: &Spec) -> Self {
        let config = memory::config(spec);
        Self {
            boot: config.size,
            pluggable: config.hotplug,
            huge_pages: config.huge_pages,
            balloon: spec.balloon,
        }
    }

    /// What QEMU is given for it.
    pub(super) fn arguments(self) -> Vec<String> {
        let Self {
            boot,
            pluggable,
            huge_pages,
            balloon,
        } = self;
        let kib = |bytes: u64| format!("{}k", bytes >> 10);
        if huge_pages {
            return [
                "-m".to_owned(),
                kib(boot),
                "-object".to_owned(),
                format!("memory-backend-memfd,id=ram,size={boot},hugetlb=on,share=on"),
                "-machine".to_owned(),
                "memory-backend=ram".to_owned(),
            ]
            .into();
        }
        let mut arguments = vec![
            "-m".to_owned(),
            match pluggable {
                0 => kib(boot),
                // QEMU aligns the device's addresses in the room that it has.
                _ => format!("{},maxmem={}", kib(boot), kib(boot + pluggable + (1 << 30))),
            },
        ];
        if balloon {
            arguments.extend([
                "-device".to_owned(),
                format!("virtio-balloon-pci,id={BALLOON},free-page-reporting=on"),
            ]);
        }
        if pluggable > 0 {
            arguments.extend([
                "-object".to_owned(),
                format!("memory-backend-ram,id=pluggable,size={pluggable},reserve=off"),
                "-device".to_owned(),
                format!("virtio-mem-pci,id={MEMORY},memdev=pluggable,requested-size=0"),
            ]);
        }
        arguments
    }

    /// Has the guest go for so many bytes.
    pub(super) fn set(self, qmp: &Qmp, bytes: u64) -> anyhow::Result<()> {
        if self.huge_pages || !self.balloon && self.pluggable == 0 {
            bail!("memory of this machine stays as it is");
        }
        let Wanted { plugged, taken } = memory::wanted(self.boot, bytes);
        if plugged > self.pluggable {
            bail!(memory::too_much(bytes, self.boot + self.pluggable));
        }
        if taken > 0 && !self.balloon {
            bail!(memory::too_little(bytes, self.boot));
        }
        if self.pluggable > 0 {
            let path = format!("/machine/peripheral/{MEMORY}");
            qmp.execute(
                "qom-set",
                json!({"path": path, "property": "requested-size", "value": plugged}),
            )?;
        }
        if !self.balloon {
            return Ok(());
        }
        qmp.execute("balloon", json!({ "value": self.boot - taken }))
            .map(drop)
            .with_context(|| format!("cannot leave the guest {}", ByteSize(bytes)))
    }

    /// What the guest has come to.
    pub(super) fn now(self, qmp: &Qmp) -> anyhow::Result<u64> {
        let mut bytes = self.boot;
        if self.huge_pages {
            return Ok(bytes);
        }
        let balloon = qmp.execute("query-balloon", json!({}));
        // Until the guest has a driver for it there is none to ask.
        if let Ok(actual) = balloon
            && let Some(actual) = actual.get("actual").and_then(Value::as_u64)
        {
            bytes = actual;
        }
        if self.pluggable > 0 {
            let devices = qmp.execute("query-memory-devices", json!({}))?;
            let devices = devices.as_array().map(Vec::as_slice).unwrap_or_default();
            let sizes = devices
                .iter()
                .filter(|device| device["type"] == "virtio-mem")
                .filter_map(|device| device["data"]["size"].as_u64());
            bytes += sizes.sum::<u64>();
        }
        Ok(bytes)
    }
}
