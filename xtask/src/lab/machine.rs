//! L1: a machine with SVM, emulated.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::assets::Lab;
use super::initramfs;
use crate::proc::{self, Group};

/// How L1 is to be.
#[derive(Debug)]
pub(super) struct Machine {
    /// Its memory.
    pub(super) mebibytes: u32,
    /// Raw disks that it sees as /dev/vda and so on.
    pub(super) disks: Vec<PathBuf>,
    /// How long its command may take.
    pub(super) limit: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            mebibytes: 3000,
            disks: Vec::new(),
            limit: Duration::from_secs(900),
        }
    }
}

/// What became of a command.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Its exit status.
    pub(super) status: u8,
    /// Its standard output and error.
    pub(super) output: String,
}

impl Machine {
    /// Runs a shell command in L1; `show` passes its output on as it comes.
    pub(super) fn run(&self, lab: &Lab, command: &str, show: bool) -> Result<Outcome> {
        let initramfs = initramfs::l1(lab, command)?;
        let place = |name: &str| lab.dir.join(name);
        let (console, output, status) = (place("console.log"), place("output"), place("status"));
        for file in [&console, &output, &status] {
            fs::write(file, "")?;
        }
        let serial = [&console, &output, &status].map(|f| format!("file:{}", f.display()));
        let [console_port, output_port, status_port] = serial;
        let memory = self.mebibytes.to_string();
        let kernel = &lab.bookworm.image;
        let drives = self.disks.iter().flat_map(|disk| {
            let drive = format!("if=virtio,format=raw,file={}", disk.display());
            ["-drive".to_owned(), drive]
        });
        let sh = Shell::new()?;
        // setpriv: should xtask be killed, QEMU is too.
        let qemu = cmd!(
            sh,
            "setpriv --pdeathsig KILL qemu-system-x86_64 -machine q35 -accel tcg,thread=multi
             -cpu max -smp 2 -m {memory} -nodefaults -no-user-config -display none -monitor none
             -no-reboot -kernel {kernel} -initrd {initramfs}
             -append 'console=ttyS0 panic=-1 quiet' {drives...}
             -serial {console_port} -serial {output_port} -serial {status_port}"
        );
        let start = Instant::now();
        let mut qemu = Group::spawn(&mut qemu.into())?;
        let mut reader = File::open(&output)?;
        let mut text = Vec::new();
        loop {
            let ended = qemu.try_wait()?.is_some();
            let from = text.len();
            reader.read_to_end(&mut text)?;
            if show {
                std::io::stdout().write_all(&text[from..])?;
                std::io::stdout().flush()?;
            }
            if ended {
                break;
            }
            if start.elapsed() > self.limit {
                let output = String::from_utf8_lossy(&text);
                bail!(
                    "the lab did not end within {} s; so far: {output}",
                    self.limit.as_secs()
                );
            }
            proc::sleep(Duration::from_millis(100))?;
        }
        let status = fs::read_to_string(&status)?;
        let status = status.trim().parse().with_context(|| {
            format!(
                "the lab's machine ended early: {}",
                proc::tail(&console, 30)
            )
        })?;
        Ok(Outcome {
            status,
            output: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}
