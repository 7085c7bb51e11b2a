//! A machine in our own monitor.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bootwright_vmm::boot::{BootSource, KernelCache};
use bootwright_vmm::resident;
use bootwright_vmm::sandbox;
use bootwright_vmm::smbios::Smbios;
use bootwright_vmm::virtio::Stats;
use bootwright_vmm::virtio::VirtioDevice;
use bootwright_vmm::virtio::block::{Block, BlockEngine, BlockMetrics, BlockOptions};
use bootwright_vmm::virtio::net::{self, Net, Peer, tap};
use bootwright_vmm::virtio::rng::Rng;
use bootwright_vmm::virtio::vsock::{self, Vsock};
use bootwright_vmm::vm::{self, Config, Exit, Handle, Parts, Vm};

use super::control::{Control, Guest, Metric, Status};
use super::memory::{self, Memory};
use super::{Prepared, Teller, passt, ready};
use crate::vms::block::Opened;
use crate::vms::events::Event;
use crate::vms::exit::End;
use crate::vms::kernel::Payload;
use crate::vms::network::Network;
use crate::vms::place::Place;
use crate::vms::probes::units;
use crate::vms::spec::Spec;

/// How long typing waits for the guest to read before more is said about it.
const TYPING: Duration = Duration::from_millis(500);

/// How long what is typed is kept for a guest that reads nothing.
const LONGEST_TYPING: Duration = Duration::from_secs(10);

/// The largest packet of a guest behind passt, which likes them large.
const MTU: u16 = 65_520;

/// The guest's address on its socket device, the first that is not reserved;
/// each guest has a device of its own.
const CID: u32 = 3;

#[derive(Debug)]
struct Running {
    handle: Handle,
    counters: Counters,
    memory: Memory,
}

/// What devices count.
#[derive(Debug, Default)]
struct Counters {
    blocks: Vec<(String, Arc<BlockMetrics>)>,
    net: Option<Arc<Stats>>,
}

impl Guest for Running {
    fn power_button(&self) -> anyhow::Result<()> {
        Ok(self.handle.power_button()?)
    }

    fn kill(&self) -> anyhow::Result<()> {
        Ok(self.handle.kill()?)
    }

    fn pause(&self) -> anyhow::Result<()> {
        Ok(self.handle.pause()?)
    }

    fn resume(&self) -> anyhow::Result<()> {
        Ok(self.handle.resume()?)
    }

    fn set_cpus(&self, count: u8) -> anyhow::Result<()> {
        Ok(self.handle.set_cpus(count)?)
    }

    fn set_memory(&self, bytes: u64) -> anyhow::Result<()> {
        self.memory.set(bytes)
    }

    fn memory(&self) -> anyhow::Result<u64> {
        Ok(self.memory.now())
    }

    fn status(&self) -> anyhow::Result<(Status, u8)> {
        let status = match self.handle.status() {
            vm::Status::Running => Status::Running,
            vm::Status::Paused => Status::Paused,
            vm::Status::Stopped => Status::Stopped,
        };
        Ok((status, self.handle.cpus()))
    }

    fn stages(&self) -> Vec<(&'static str, Duration)> {
        let stats = self.handle.stats();
        [
            ("kernel_loaded", stats.loaded_micros),
            ("guest_entered", stats.entered_micros),
        ]
        .into_iter()
        .filter(|(_, micros)| *micros > 0)
        .map(|(name, micros)| (name, Duration::from_micros(micros)))
        .collect()
    }

    fn metrics(&self) -> anyhow::Result<Vec<Metric>> {
        let stats = self.handle.stats();
        let exit = |kind, value| Metric::counter("exits_total", ("kind", kind), value);
        let mut metrics = vec![
            exit("port_read", stats.port_reads),
            exit("port_write", stats.port_writes),
            exit("memory_read", stats.memory_reads),
            exit("memory_write", stats.memory_writes),
            exit("interruption", stats.interruptions),
            Metric {
                kind: "counter",
                ..Metric::gauge("resets_total", stats.resets as f64)
            },
        ];
        for (disk, block) in &self.counters.blocks {
            for (name, counter) in [
                ("block_reads_total", &block.reads),
                ("block_read_bytes_total", &block.read_bytes),
                ("block_writes_total", &block.writes),
                ("block_written_bytes_total", &block.written_bytes),
                ("block_flushes_total", &block.flushes),
                ("block_discards_total", &block.discards),
                ("block_errors_total", &block.errors),
            ] {
                let value = counter.load(std::sync::atomic::Ordering::Relaxed);
                metrics.push(Metric::counter(name, ("disk", disk), value));
            }
        }
        metrics.extend(self.memory.metrics());
        if let Some(net) = &self.counters.net {
            for (name, direction, counter) in [
                ("net_frames_total", "from_guest", &net.from_guest),
                ("net_bytes_total", "from_guest", &net.from_guest_bytes),
                ("net_frames_total", "to_guest", &net.to_guest),
                ("net_bytes_total", "to_guest", &net.to_guest_bytes),
            ] {
                metrics.push(Metric::counter(
                    name,
                    ("direction", direction),
                    counter.get(),
                ));
            }
            let dropped = Metric::gauge("net_dropped_total", net.dropped.get() as f64);
            metrics.push(Metric {
                kind: "counter",
                ..dropped
            });
        }
        Ok(metrics)
    }
}

/// Runs the machine to its end.
pub(super) fn run(machine: Prepared, teller: &Teller) -> anyhow::Result<End> {
    let Prepared {
        spec,
        disks,
        payload,
        console,
        control,
        confinement,
        place,
    } = machine;
    let cache = kernel_cache();
    let config = Config {
        cpus: spec.cpus,
        max_cpus: spec.max_cpus,
        memory: memory::config(&spec),
        boot: source(payload),
        kernel_cache: cache.clone().map(KernelCache::new),
        smbios: Smbios {
            uuid: spec.uuid.into_bytes(),
            serial: spec.serial.clone(),
            strings: spec
                .strings
                .iter()
                .cloned()
                .chain(spec.vsock.then(ready::credential))
                .chain(units::for_sockets(&spec.probes))
                .collect(),
        },
        sandbox: spec.sandbox,
    };
    let mut counters = Counters::default();
    let mut devices = devices(&spec, &disks, &mut counters)?;
    // Ends with this function.
    let mut helper = None;
    if let Some(peer) = peer(&spec, &place, &mut helper)? {
        if let Some(passt) = &helper {
            passt.watch(teller, &confinement)?;
        }
        let on_start = sandbox::for_devices(spec.sandbox, sandbox::Files::default());
        let mtu = (spec.network == Network::User).then_some(MTU);
        let config = net::Config { mac: spec.mac, mtu };
        let device = Net::new("net", config, peer, &on_start).context("the network device")?;
        counters.net = Some(device.stats());
        devices.push(Box::new(device));
    }
    if spec.vsock {
        devices.push(Box::new(sockets(&spec, &place, &control, teller)?));
    }
    let memory = Memory::new(&config.memory, spec.balloon, spec.sandbox, &mut devices)?;
    let parts = Parts {
        devices,
        serial: Box::new(console.output()),
    };
    // All that takes more is done: devices have their rings and helpers run.
    confinement.enter_main(&spec, &disks, cache)?;
    resident::let_go_of_code();
    resident::small_pages(false);
    let mut vm = Vm::new(config, parts)?;
    if spec.paused {
        vm.hold();
    }
    let handle = vm.handle();
    console.set_input(typist(handle.clone())?);
    control.set_guest(Arc::new(Running {
        handle,
        counters,
        memory,
    }));
    // The kernel is where the guest finds it, and the disks' plans are read.
    resident::trim_heap();
    resident::let_go_of_code();
    teller.tell(&Event::Started);
    let end = match until_the_end(&mut vm, &spec, &disks) {
        Ok(exit) => exit.into(),
        Err(error) => End::Crash(crate::explained(&error)),
    };
    control.clear();
    drop(vm);
    console.finish();
    Ok(end)
}

/// The socket device, over which the guest says that it has booted.
fn sockets(
    spec: &Spec,
    place: &Place,
    control: &Arc<Control>,
    teller: &Teller,
) -> anyhow::Result<Vsock> {
    let path = place.vsock();
    let listener = ready::listener(&vsock::port_path(&path, ready::PORT))?;
    ready::listen(listener, ready::teller(control, teller))?;
    // Sockets are no files to Landlock: those of this machine stay in reach.
    let on_start = sandbox::for_devices(spec.sandbox, sandbox::Files::default());
    Vsock::new("vsock", CID, &path, &on_start).context("the socket device")
}

/// Runs the guest, and again after its resets.
fn until_the_end(vm: &mut Vm, spec: &Spec, disks: &[Opened]) -> anyhow::Result<Exit> {
    loop {
        let exit = vm.run()?;
        if exit != Exit::Reset || spec.no_reboot {
            return Ok(exit);
        }
        // The guest may have installed another kernel.
        let disk = disks.first();
        let payload = Payload::load(&spec.boot, disk, false).context("at the guest's reset")?;
        vm.config_mut().boot = source(payload);
        vm.reset()?;
        resident::trim_heap();
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
    disks: &[Opened],
    counters: &mut Counters,
) -> anyhow::Result<Vec<Box<dyn VirtioDevice>>> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        let reads = sandbox::Files {
            read: disk.folders.clone(),
            ..sandbox::Files::default()
        };
        let confine = sandbox::for_devices(spec.sandbox, reads);
        let options = BlockOptions {
            name: format!("block{n}"),
            serial: disk.serial.clone(),
            queues: u16::from(spec.queues()),
            engine: BlockEngine::Auto,
            on_thread: Some(Arc::new(move || confine("block"))),
        };
        let block = Block::new(Arc::clone(&disk.disk), options).context("a disk")?;
        let name = disk.serial.clone();
        counters.blocks.push((name, Arc::clone(block.metrics())));
        devices.push(Box::new(block));
    }
    let on_start = sandbox::for_devices(spec.sandbox, sandbox::Files::default());
    let rng = Rng::new("rng", &on_start).context("the entropy device")?;
    devices.push(Box::new(rng));
    Ok(devices)
}

/// What the guest's interface leads to.
fn peer(
    spec: &Spec,
    place: &Place,
    helper: &mut Option<passt::Passt>,
) -> anyhow::Result<Option<Peer>> {
    match &spec.network {
        Network::None => Ok(None),
        Network::Tap(name) => {
            let fds = tap::open(name, 1)
                .with_context(|| format!("--network tap:{name}: cannot use the interface"))?;
            Ok(Some(Peer::Tap(fds)))
        }
        Network::User => {
            let (ours, theirs) = UnixStream::pair()?;
            let log = place.state.join("passt.log");
            *helper = Some(passt::start(theirs.into(), spec, MTU, &log)?);
            Ok(Some(Peer::Passt(ours)))
        }
    }
}

/// The folder in which decompressed kernels are kept; none if it cannot be made.
fn kernel_cache() -> Option<PathBuf> {
    let dir = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = dir("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| dir("HOME").map(|home| home.join(".cache")))?;
    let cache = cache.join("bootwright/kernels");
    // The sandbox lets one into folders that are there.
    std::fs::create_dir_all(&cache).ok()?;
    Some(cache)
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
