//! A machine in our own monitor.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bootwright_vmm::block::Backend;
use bootwright_vmm::boot::{BootSource, KernelCache};
use bootwright_vmm::memory::MemoryConfig;
use bootwright_vmm::smbios::Smbios;
use bootwright_vmm::virtio::VirtioDevice;
use bootwright_vmm::virtio::block::{Block, BlockEngine, BlockOptions};
use bootwright_vmm::virtio::rng::Rng;
use bootwright_vmm::virtio::worker::OnStart;
use bootwright_vmm::vm::{Config, Exit, Handle, Parts, Vm};

use super::control::Guest;
use super::{Prepared, Teller};
use crate::vms::block::Disk;
use crate::vms::events::Event;
use crate::vms::exit::End;
use crate::vms::kernel::Payload;
use crate::vms::spec::Spec;

/// What memory comes in.
const MEMORY_UNIT: u64 = 2 << 20;

/// How long typing waits for the guest to read before more is said about it.
const TYPING: Duration = Duration::from_millis(500);

/// How long what is typed is kept for a guest that reads nothing.
const LONGEST_TYPING: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Running(Handle);

impl Guest for Running {
    fn power_button(&self) -> anyhow::Result<()> {
        Ok(self.0.power_button()?)
    }

    fn kill(&self) -> anyhow::Result<()> {
        Ok(self.0.kill()?)
    }
}

/// Runs the machine to its end.
pub(super) fn run(machine: Prepared, teller: &Teller) -> anyhow::Result<End> {
    let Prepared {
        spec,
        root,
        data,
        payload,
        console,
        control,
        ..
    } = machine;
    let config = Config {
        cpus: spec.cpus,
        max_cpus: spec.cpus,
        memory: MemoryConfig {
            size: spec.memory.next_multiple_of(MEMORY_UNIT),
            hotplug: 0,
            huge_pages: false,
        },
        boot: source(payload),
        kernel_cache: kernel_cache(),
        smbios: Smbios {
            uuid: spec.uuid.into_bytes(),
            ..Smbios::default()
        },
        sandbox: spec.sandbox,
    };
    let parts = Parts {
        devices: devices(&spec, &root.disk, &data)?,
        serial: Box::new(console.output()),
    };
    let mut vm = Vm::new(config, parts)?;
    let handle = vm.handle();
    console.set_input(typist(handle.clone())?);
    control.set_guest(Arc::new(Running(handle)));
    teller.tell(&Event::Started);
    let end = match until_the_end(&mut vm, &spec, &root.disk) {
        Ok(exit) => exit.into(),
        Err(error) => End::Crash(crate::explained(&error)),
    };
    control.clear();
    drop(vm);
    console.finish();
    Ok(end)
}

/// Runs the guest, and again after its resets.
fn until_the_end(vm: &mut Vm, spec: &Spec, root: &Arc<dyn Backend>) -> anyhow::Result<Exit> {
    loop {
        let exit = vm.run()?;
        if exit != Exit::Reset || spec.no_reboot {
            return Ok(exit);
        }
        // The guest may have installed another kernel.
        let disk = Arc::new(Disk(Arc::clone(root)));
        let payload = Payload::load(&spec.boot, disk, false).context("at the guest's reset")?;
        vm.config_mut().boot = source(payload);
        vm.reset()?;
    }
}

fn source(payload: Payload) -> BootSource {
    BootSource {
        kernel: payload.kernel,
        initrd: payload.initrd.into_iter().collect(),
        command_line: payload.command_line,
    }
}

fn devices(
    spec: &Spec,
    root: &Arc<dyn Backend>,
    data: &[Arc<dyn Backend>],
) -> anyhow::Result<Vec<Box<dyn VirtioDevice>>> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for (n, disk) in std::iter::once(root).chain(data).enumerate() {
        let options = BlockOptions {
            name: format!("block{n}"),
            serial: crate::vms::block::serial(n),
            queues: u16::from(spec.cpus.min(8)),
            engine: BlockEngine::Auto,
            on_thread: None,
        };
        let block = Block::new(Arc::clone(disk), options).context("a disk")?;
        devices.push(Box::new(block));
    }
    let on_start: OnStart = Arc::new(|_| Ok(()));
    let rng = Rng::new("rng", &on_start).context("the entropy device")?;
    devices.push(Box::new(rng));
    Ok(devices)
}

/// Where decompressed kernels are kept.
fn kernel_cache() -> Option<KernelCache> {
    let dir = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    let cache = dir("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| dir("HOME").map(|home| home.join(".cache")))?;
    Some(KernelCache::new(cache.join("bootwright/kernels")))
}

/// Types on the serial port what is sent to it, as fast as the guest reads.
fn typist(handle: Handle) -> anyhow::Result<super::console::Input> {
    // A few keys ahead; then whoever types waits.
    let (sender, typed) = mpsc::sync_channel::<Vec<u8>>(64);
    thread::Builder::new()
        .name("typist".into())
        .spawn(move || {
            for bytes in typed {
                let mut rest = &bytes[..];
                let since = Instant::now();
                while !rest.is_empty() && since.elapsed() < LONGEST_TYPING {
                    match handle.serial_input(rest, TYPING) {
                        Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                        // Between two resets there is no port.
                        Err(_) => thread::sleep(TYPING),
                    }
                }
            }
        })?;
    Ok(Box::new(move |bytes| drop(sender.send(bytes.to_vec()))))
}
