//! Kernels of a few instructions, and the machines around them.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bootwright_vmm::boot::{Blob, BootSource};
use bootwright_vmm::memory::MemoryConfig;
use bootwright_vmm::smbios::Smbios;
use bootwright_vmm::vm::{Config, Parts, Vm};

/// Where code is loaded and entered: 32-bit, flat, without paging.
const ENTRY: u32 = 0x10_0000;

/// How long a guest of a few instructions may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// `hlt` with interrupts off, forever.
pub(crate) const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// `mov dx, port; mov al, value; out dx, al`.
pub(crate) const fn out(port: u16, value: u8) -> [u8; 7] {
    let [low, high] = port.to_le_bytes();
    [0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// Whether there is a KVM to test with.
pub(crate) fn reachable() -> bool {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    match device {
        Ok(_) => true,
        Err(error) => {
            let wanted = std::env::var_os("BOOTWRIGHT_TEST_KVM").is_some();
            assert!(!wanted, "/dev/kvm: {error}");
            eprintln!("not tested: /dev/kvm: {error}");
            false
        }
    }
}

/// Runs `work` on a thread of its own, and fails if it takes too long.
pub(crate) fn limited<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(LIMIT) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it ended without a result"),
        },
    }
}

/// What a guest has written to its serial port.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    /// As text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap();
        // Guests that write without end are not kept whole.
        if all.len() < 1 << 16 {
            all.extend(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A guest to be.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) output: Output,
    pub(crate) config: Config,
}

impl Guest {
    /// One that runs `code`, with one processor.
    pub(crate) fn new(code: &[u8]) -> Self {
        let config = Config {
            cpus: 1,
            max_cpus: 1,
            memory: MemoryConfig {
                size: 64 << 20,
                hotplug: 0,
                huge_pages: false,
            },
            boot: BootSource {
                kernel: Blob::from(kernel(code)),
                initrd: Vec::new(),
                command_line: String::new(),
            },
            kernel_cache: None,
            smbios: Smbios::default(),
            sandbox: true,
        };
        Self {
            output: Output::default(),
            config,
        }
    }

    /// Makes it.
    pub(crate) fn make(&self) -> Vm {
        let parts = Parts {
            devices: Vec::new(),
            serial: Box::new(self.output.clone()),
        };
        Vm::new(self.config.clone(), parts).unwrap()
    }
}

/// An ELF with one segment and the note that says where PVH enters it.
fn kernel(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let note: Vec<u8> = [
        &4u32.to_le_bytes()[..],
        &4u32.to_le_bytes(),
        &18u32.to_le_bytes(),
        b"Xen\0",
        &ENTRY.to_le_bytes(),
    ]
    .concat();
    let header = |kind: u32, offset: u64, address: u64, size: u64| {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(7u32.to_le_bytes());
        for field in [offset, address, address, size, size, 0x1000] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    };
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend(2u16.to_le_bytes());
    elf.extend(62u16.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    for field in [u64::from(ENTRY), 64, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 2, 0, 0, 0] {
        elf.extend(field.to_le_bytes());
    }
    let code_at = HEADERS + note.len() as u64;
    elf.extend(header(4, HEADERS, 0, note.len() as u64));
    elf.extend(header(1, code_at, ENTRY.into(), code.len() as u64));
    elf.extend(note);
    elf.extend(code);
    elf
}
