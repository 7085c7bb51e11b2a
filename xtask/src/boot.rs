//! A disk booted by UEFI firmware (OVMF) in QEMU.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::proc::{self, Group};

/// Firmware of Debian's package `ovmf`.
const OVMF: &str = "/usr/share/OVMF";

/// How long one attempt to reach the guest may take.
const ATTEMPT: Duration = Duration::from_secs(20);

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The hardware's own virtualisation.
    Kvm,
    /// Emulation; some twenty times slower.
    Tcg,
}

impl Accel {
    /// KVM where the processor and the kernel offer it to this user.
    ///
    /// `/dev/kvm` alone says little: it can exist on a processor, or in a
    /// virtual machine, without the feature.
    pub(crate) fn best() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flag = |name| cpuinfo.split_whitespace().any(|word| word == name);
        let device = || {
            fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok()
        };
        match (flag("svm") || flag("vmx")) && device() {
            true => Self::Kvm,
            false => Self::Tcg,
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "emulation (no hardware virtualisation here)",
        })
    }
}

/// A running guest. Dropped, it is ended at once.
#[derive(Debug)]
pub(crate) struct Guest {
    qemu: Group,
    started: Instant,
    http: SocketAddr,
    ssh: SocketAddr,
    key: PathBuf,
    console: PathBuf,
}

impl Guest {
    /// Boots `disk` (raw or qcow2), which is written to. `dir` receives the
    /// console's log and the firmware's variables; `key` is the private key
    /// that may log in as root.
    pub(crate) fn boot(disk: &Path, key: &Path, dir: &Path, accel: Accel) -> Result<Self> {
        let vars = dir.join("efivars.fd");
        fs::copy(format!("{OVMF}/OVMF_VARS_4M.fd"), &vars)
            .context("cannot copy the firmware's variables; is ovmf installed?")?;
        let console = dir.join("console.log");
        fs::write(&console, "")?;
        let (http, ssh) = free_ports()?;
        let format = if disk.extension().is_some_and(|e| e == "qcow2") {
            "qcow2"
        } else {
            "raw"
        };
        let pflash = |n: u8, file: &str, rest: &str| {
            format!("if=pflash,unit={n},format=raw,file={file}{rest}")
        };
        let code = pflash(0, &format!("{OVMF}/OVMF_CODE_4M.fd"), ",readonly=on");
        let vars = pflash(1, &vars.display().to_string(), "");
        let drive = format!("if=virtio,format={format},file={}", disk.display());
        let net = format!("user,model=virtio-net-pci,hostfwd=tcp:{http}-:80,hostfwd=tcp:{ssh}-:22");
        let serial = format!("file:{}", console.display());
        let sh = Shell::new()?;
        let accel = accel.arguments();
        // setpriv: should xtask be killed, QEMU is too.
        let qemu = cmd!(
            sh,
            "setpriv --pdeathsig KILL qemu-system-x86_64 -machine q35 {accel...} -smp 2 -m 1024
             -nodefaults -no-user-config -display none -monitor none -no-reboot
             -drive {code} -drive {vars} -drive {drive} -nic {net} -device virtio-rng-pci
             -serial {serial}"
        );
        let qemu = Group::spawn(&mut qemu.into())?;
        Ok(Self {
            qemu,
            started: Instant::now(),
            http,
            ssh,
            key: key.to_owned(),
            console,
        })
    }

    /// Time since QEMU was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tries until `attempt` succeeds, the guest dies or `limit` has passed
    /// since the boot.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut attempt: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        loop {
            let error = match attempt(self) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            proc::check_interrupt()?;
            if let Some(status) = self.qemu.try_wait()? {
                return Err(self.explain(error)).context(format!("QEMU ended early: {status}"));
            }
            if self.age() > limit {
                let seconds = limit.as_secs();
                return Err(self.explain(error)).context(format!("no {what} after {seconds} s"));
            }
            proc::sleep(Duration::from_millis(500))?;
        }
    }

    /// Adds the end of the console's log to an error.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(proc::tail(&self.console, 40))
    }

    /// The body of the application's answer to `GET /`.
    pub(crate) fn http_get(&self) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.http, ATTEMPT)?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.trim().to_owned()),
            _ => bail!("no answer to be glad of: {:?}", answer.lines().next()),
        }
    }

    /// Runs a command in the guest as root, over ssh.
    pub(crate) fn ssh_output(&self, command: &str) -> Result<Output> {
        let sh = Shell::new()?;
        let (key, port) = (&self.key, self.ssh.port().to_string());
        proc::output(cmd!(
            sh,
            "ssh -F none -i {key} -p {port} -o IdentitiesOnly=yes -o BatchMode=yes
             -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR
             -o ConnectTimeout=20 root@127.0.0.1 {command}"
        ))
    }

    /// The standard output of a command that must succeed in the guest.
    pub(crate) fn ssh(&self, command: &str) -> Result<String> {
        let output = self.ssh_output(command)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`{command}` failed in the guest ({}): {}",
                output.status,
                stderr.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Shuts the guest down from within and waits for QEMU to end.
    pub(crate) fn power_off(mut self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        // The connection may break before the command's status comes back.
        self.ssh_output("systemctl poweroff")?;
        while start.elapsed() < limit {
            match self.qemu.try_wait()? {
                Some(status) if status.success() => return Ok(start.elapsed()),
                Some(status) => bail!("QEMU failed: {status}"),
                None => proc::sleep(Duration::from_millis(100))?,
            }
        }
        let error = anyhow::anyhow!("still running {} s after poweroff", limit.as_secs());
        Err(self.explain(error))
    }
}

/// Two ports of the loopback address that nobody listens on.
fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (a, b) = (bind()?, bind()?);
    Ok((a.local_addr()?, b.local_addr()?))
}
