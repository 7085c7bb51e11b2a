//! Boots a kernel with an initramfs; the serial port is on standard output.
//!
//! `boot KERNEL INITRD COMMAND-LINE [OPTION...]`, where options are
//! `--cpus N[:MAX]`, `--memory MEBIBYTES[+PLUGGABLE]`, `--huge-pages`,
//! `--disk FILE`, `--overlay FILE` (over the disk before it; made if it is not
//! there), `--no-sandbox`, and `--when TEXT REQUEST` for what is to happen when
//! the guest says so. Decompressed kernels are kept in the folder that
//! `BOOT_CACHE` names. Exits with 0 when the guest turns itself off, 32 for a
//! reset (after one, it boots again), 33 for a crash, 34 for a panic, 1 for an
//! error.
//!
//! A guest can ask for what otherwise someone outside does to it: see
//! [`requests`].

mod disk;
mod requests;

use std::fs::File;
use std::process::ExitCode;
use std::sync::mpsc;

use bootwright_vmm::boot::{Blob, BootSource, KernelCache};
use bootwright_vmm::memory::{MemoryConfig, Placement};
use bootwright_vmm::sandbox;
use bootwright_vmm::smbios::Smbios;
use bootwright_vmm::virtio::balloon::{self, Balloon};
use bootwright_vmm::virtio::mem::Mem;
use bootwright_vmm::vm::{Config, Exit, Parts, Vm};

use disk::Disk;
use requests::{Controls, Watched};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: boot KERNEL INITRD COMMAND-LINE [--cpus N[:MAX]] \
     [--memory MEBIBYTES[+PLUGGABLE]] [--huge-pages] [--disk FILE [--overlay FILE]]... \
     [--no-sandbox] [--when TEXT REQUEST]...";

fn main() -> ExitCode {
    match boot() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

fn boot() -> Result<u8> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kernel), Some(initrd), Some(command_line)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(USAGE.into());
    };
    let (lines, requests) = mpsc::channel();
    let mut config = Config {
        cpus: 1,
        max_cpus: 1,
        memory: MemoryConfig {
            size: 256 << 20,
            hotplug: 0,
            huge_pages: false,
        },
        boot: BootSource {
            kernel: Blob::from(File::open(kernel)?),
            initrd: vec![Blob::from(File::open(initrd)?)],
            command_line,
        },
        kernel_cache: std::env::var_os("BOOT_CACHE").map(KernelCache::new),
        smbios: Smbios::default(),
        sandbox: true,
    };
    let mut disks: Vec<Disk> = Vec::new();
    let mut watched = Watched::new(lines);
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match option.as_str() {
            "--cpus" => {
                let value = value()?;
                let (cpus, max) = value.split_once(':').unwrap_or((&value, &value));
                (config.cpus, config.max_cpus) = (cpus.parse()?, max.parse()?);
            }
            "--memory" => {
                let value = value()?;
                let (size, more) = value.split_once('+').unwrap_or((&value, "0"));
                config.memory.size = size.parse::<u64>()? << 20;
                config.memory.hotplug = more.parse::<u64>()? << 20;
            }
            "--huge-pages" => config.memory.huge_pages = true,
            "--disk" => disks.push(Disk::new(value()?)),
            "--overlay" => disks.last_mut().ok_or(USAGE)?.overlay = Some(value()?.into()),
            "--when" => {
                let text = value()?;
                watched.when(text, value()?);
            }
            "--no-sandbox" => config.sandbox = false,
            _ => return Err(USAGE.into()),
        }
    }
    let devices = disks.iter().enumerate();
    let devices = devices.map(|(index, disk)| disk.device(index, &config));
    let mut devices = devices.collect::<Result<Vec<_>>>()?;
    let confine = sandbox::for_devices(config.sandbox, sandbox::Files::default());
    let mut memory = None;
    if let Some(region) = Placement::of(&config.memory)?.hotplug {
        let device = Mem::new("mem0", region, &confine)?;
        memory = Some(device.handle());
        devices.push(Box::new(device));
    }
    let balloon = balloon::Config {
        most: config.memory.size,
        // Linux would keep from its users how much is taken.
        deflate_on_oom: false,
        free_page_reporting: true,
    };
    let device = Balloon::new("balloon0", balloon, &confine)?;
    let balloon = device.handle()?;
    devices.push(Box::new(device));
    let parts = Parts {
        devices,
        serial: Box::new(watched),
    };
    let mut vm = Vm::new(config, parts)?;
    let handle = vm.handle();
    let controls = Controls {
        handle: handle.clone(),
        memory,
        balloon,
    };
    std::thread::spawn(move || requests::obey(&controls, &requests));
    for resets in 0.. {
        let exit = vm.run()?;
        eprintln!("boot: {exit}; {:?}", handle.stats());
        match exit {
            Exit::PowerOff => return Ok(0),
            Exit::Reset if resets == 0 => vm.reset()?,
            Exit::Reset => return Ok(32),
            Exit::Panicked => return Ok(34),
            Exit::Crashed(_) | Exit::Killed => return Ok(33),
        }
    }
    Ok(0)
}
