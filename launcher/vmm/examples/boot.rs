//! Boots a kernel with an initramfs; the serial port is on standard output.
//!
//! `boot KERNEL INITRD COMMAND-LINE [CPUS [MEBIBYTES]]`. Exits with 0 when the
//! guest turns itself off, 32 for a reset (after one, it boots again), 33 for
//! a crash, 34 for a panic.

use std::fs::File;
use std::process::ExitCode;

use bootwright_vmm::boot::{Blob, BootSource, KernelCache};
use bootwright_vmm::memory::MemoryConfig;
use bootwright_vmm::smbios::Smbios;
use bootwright_vmm::vm::{Config, Exit, Parts, Vm};

fn main() -> ExitCode {
    match boot() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

fn boot() -> Result<u8, Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [kernel, initrd, line, rest @ ..] = &arguments[..] else {
        return Err("usage: boot KERNEL INITRD COMMAND-LINE [CPUS [MEBIBYTES]]".into());
    };
    let number = |at: usize, default: u64| rest.get(at).map_or(Ok(default), |text| text.parse());
    let cpus = u8::try_from(number(0, 1)?)?;
    let config = Config {
        cpus,
        max_cpus: cpus,
        memory: MemoryConfig {
            size: number(1, 256)? << 20,
            hotplug: 0,
            huge_pages: false,
        },
        boot: BootSource {
            kernel: Blob::from(File::open(kernel)?),
            initrd: vec![Blob::from(File::open(initrd)?)],
            command_line: line.clone(),
        },
        kernel_cache: std::env::var_os("BOOT_CACHE").map(KernelCache::new),
        smbios: Smbios::default(),
        sandbox: std::env::var_os("BOOT_NO_SANDBOX").is_none(),
    };
    let parts = Parts {
        devices: Vec::new(),
        serial: Box::new(std::io::stdout()),
    };
    let mut vm = Vm::new(config, parts)?;
    let handle = vm.handle();
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
