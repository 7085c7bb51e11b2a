//! L1: a machine with SVM, emulated.

use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::assets::Lab;
use super::initramfs;
use crate::proc::{self, Group};

/// L1's processor. What QEMU emulates of SVM does not tell L1 when L2 sets which
/// registers XSAVE keeps (seen with 7.2): L1 then loses them when it switches,
/// and whole systems in L2 crash. Without XSAVE there are SSE's only, which L1
/// always keeps. What needs it goes with it: QEMU would still show AVX, and
/// Linux 6.12 takes it to be usable.
///
/// Without ERMS and FSRM, Linux clears and copies pages by words. Each store to
/// a page that code was translated from has QEMU look through all of that; by
/// bytes, a huge page that a kernel of L2 was in takes L1 minutes to clear, and
/// its watchdog calls it a lockup.
const CPU: &str = "max,-xsave,-avx,-avx2,-f16c,-fma,-vaes,-vpclmulqdq,-erms,-fsrm";

/// How many processors L1 has: two that run guests, and the first, which must not.
/// Where any processor loads x87 state, as each switch of threads does, QEMU
/// clears one of the first one's flags without a lock (`cpu_clear_ignne`, seen
/// with 7.2), and with it undoes what that one changes at this moment. It changes
/// them as it enters or leaves a guest, and L1 or L2 crashes, in about one of
/// fifty boots. L1's init keeps all that it runs to the others.
const PROCESSORS: &str = "3";

/// How L1 is to be.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Its memory.
    pub(super) mebibytes: u32,
    /// What it sees as /dev/vda and so on, each as QEMU's option `-drive` has
    /// it.
    pub(super) disks: Vec<String>,
    /// How long its command may take, as a last resort: what runs in L1 has
    /// limits of its own.
    pub(super) limit: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            mebibytes: 3500,
            disks: Vec::new(),
            limit: Duration::from_secs(900),
        }
    }
}

impl Machine {
    /// Runs a shell command in L1, passing on its output as it comes; returns
    /// its exit status.
    pub(crate) fn run(
        &self,
        lab: &Lab,
        command: &str,
        mut output_to: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<u8> {
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
        let drives = self.disks.iter().flat_map(|disk| ["-drive", disk.as_str()]);
        let sh = Shell::new()?;
        // setpriv: should xtask be killed, QEMU is too.
        let qemu = cmd!(
            sh,
            "setpriv --pdeathsig KILL qemu-system-x86_64 -machine q35 -accel tcg,thread=multi
             -cpu {CPU} -smp {PROCESSORS} -m {memory} -nodefaults -no-user-config -display none -monitor none
             -nic user,model=virtio-net-pci,restrict=on
             -no-reboot -kernel {kernel} -initrd {initramfs}
             -append 'console=ttyS0 panic=-1 loglevel=7' {drives...}
             -serial {console_port} -serial {output_port} -serial {status_port}"
        );
        let start = Instant::now();
        let mut qemu = Group::spawn(&mut qemu.into())?;
        let mut reader = File::open(&output)?;
        let ended = loop {
            let ended = qemu.try_wait()?;
            let mut new = Vec::new();
            reader.read_to_end(&mut new)?;
            output_to(&new)?;
            if let Some(ended) = ended {
                break ended;
            }
            if start.elapsed() > self.limit {
                let limit = self.limit.as_secs();
                let log = proc::tail(&output, 30);
                bail!("the lab's machine did not end within {limit} s; {log}");
            }
            proc::sleep(Duration::from_millis(100))?;
        };
        let status = fs::read_to_string(&status)?;
        status.trim().parse().with_context(|| {
            format!(
                "the lab's machine ended early, QEMU with {ended}: {}",
                proc::tail(&console, 30)
            )
        })
    }
}
