//! A machine that QEMU emulates.
//!
//! QEMU is given the same kernel, command line and disks as our own monitor
//! would get: disks over NBD from this process, so that images, overlays and
//! locks are the same, and no disk is written. It ends with this process.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bootwright_vmm::boot::Blob;
use bootwright_vmm::resident;
use serde_json::{Value, json};

use super::control::{Guest, Metric, Status};
use super::qemu_memory::Memory;
use super::qmp::Qmp;
use super::{Prepared, Teller, nbd, passt, ready};
use crate::vms::accel::{QEMU, find_program};
use crate::vms::events::Event;
use crate::vms::exit::End;
use crate::vms::network::Network;
use crate::vms::probes::{self, port, units};

/// How long QEMU may take until it can be talked to.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest packet of a guest behind passt, which likes them large.
const MTU: u16 = 65_520;

/// Kernel arguments for a machine so slow that the guest's usual time limits
/// for services and devices may not do.
const SLOW: &str = "systemd.default_timeout_start_sec=300 systemd.default_device_timeout_sec=300";

#[derive(Debug)]
struct Running {
    qmp: Arc<Qmp>,
    /// The serial numbers of its disks.
    disks: Vec<String>,
    memory: Memory,
}

impl Guest for Running {
    fn power_button(&self) -> anyhow::Result<()> {
        self.qmp.execute("system_powerdown", json!({})).map(drop)
    }

    fn kill(&self) -> anyhow::Result<()> {
        self.qmp.execute("quit", json!({})).map(drop)
    }

    fn pause(&self) -> anyhow::Result<()> {
        self.qmp.execute("stop", json!({})).map(drop)
    }

    fn resume(&self) -> anyhow::Result<()> {
        self.qmp.execute("cont", json!({})).map(drop)
    }

    fn set_cpus(&self, _count: u8) -> anyhow::Result<()> {
        bail!("an emulated machine keeps the processors that it has; this needs --accel kvm")
    }

    fn set_memory(&self, bytes: u64) -> anyhow::Result<()> {
        self.memory.set(&self.qmp, bytes)
    }

    fn memory(&self) -> anyhow::Result<u64> {
        self.memory.now(&self.qmp)
    }

    fn status(&self) -> anyhow::Result<(Status, u8)> {
        let status = self.qmp.execute("query-status", json!({}))?;
        let status = match status.get("status").and_then(Value::as_str) {
            Some("running") => Status::Running,
            Some("paused" | "prelaunch") => Status::Paused,
            _ => Status::Stopped,
        };
        let cpus = self.qmp.execute("query-cpus-fast", json!({}))?;
        let cpus = cpus.as_array().map_or(0, Vec::len);
        Ok((status, u8::try_from(cpus).unwrap_or(u8::MAX)))
    }

    fn stages(&self) -> Vec<(&'static str, Duration)> {
        Vec::new()
    }

    fn metrics(&self) -> anyhow::Result<Vec<Metric>> {
        let blocks = self.qmp.execute("query-blockstats", json!({}))?;
        let mut metrics = Vec::new();
        let blocks = blocks.as_array().map(Vec::as_slice).unwrap_or_default();
        for (n, block) in blocks.iter().enumerate() {
            for (name, field) in [
                ("block_reads_total", "rd_operations"),
                ("block_read_bytes_total", "rd_bytes"),
                ("block_writes_total", "wr_operations"),
                ("block_written_bytes_total", "wr_bytes"),
                ("block_flushes_total", "flush_operations"),
                ("block_discards_total", "unmap_operations"),
            ] {
                let value = block.pointer(&format!("/stats/{field}"));
                let value = value.and_then(Value::as_u64).unwrap_or(0);
                let disk = self.disks.get(n).map_or("", String::as_str);
                metrics.push(Metric::counter(name, ("disk", disk), value));
            }
        }
        Ok(metrics)
    }
}

/// Runs the machine to its end.
pub(super) fn run(machine: Prepared, teller: &Teller) -> anyhow::Result<End> {
    let dir = &machine.place.runtime;
    let mut command = command(&machine)?;
    let net = network(&machine, &mut command)?;
    let said_ready = ready_port(&machine, &mut command)?;
    let asked = probe_ports(&machine, &mut command)?;
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let errors = machine.place.state.join("qemu.log");
    let listener = ready::listener(&dir.join("qmp.sock"))?;
    command
        .stdin(theirs.try_clone()?)
        .stdout(theirs)
        .stderr(File::create(&errors)?);
    // The guest's memory is QEMU's.
    resident::small_pages(false);
    let child = command.spawn();
    resident::small_pages(true);
    let mut child = child.with_context(|| format!("cannot run {QEMU}"))?;
    // It holds our end of the socket otherwise.
    drop(command);
    // Lives as long as QEMU does.
    let mut helper = None;
    let qmp = connect(&listener, &mut child).and_then(|qmp| {
        let port = connect(&said_ready, &mut child)?;
        ready::follow(port, ready::teller(&machine.control, teller))?;
        for asked in asked {
            let guest = connect(&asked.guest, &mut child)?;
            port::serve(asked.listener, guest, asked.limit)?;
        }
        if let Some(listener) = &net {
            let socket = connect(listener, &mut child)?;
            let log = machine.place.state.join("passt.log");
            let passt = passt::start(socket.into(), &machine.spec, MTU, &log)?;
            passt.watch(teller, &machine.confinement)?;
            helper = Some(passt);
        }
        let qmp = Qmp::new(qmp)?;
        if !machine.spec.paused {
            qmp.execute("cont", json!({}))?;
        }
        Ok(qmp)
    });
    let qmp = match qmp {
        Ok(qmp) => Arc::new(qmp),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            bail!("QEMU could not start: {}", said(&errors, &error));
        }
    };
    let copier = copy_console(&machine, ours)?;
    machine.control.set_guest(Arc::new(Running {
        qmp: Arc::clone(&qmp),
        disks: machine.disks.iter().map(|d| d.serial.clone()).collect(),
        memory: Memory::of(&machine.spec),
    }));
    teller.tell(&Event::Started);
    let status = child.wait().context("cannot wait for QEMU")?;
    machine.control.clear();
    let _ = copier.join();
    machine.console.finish();
    match qmp.reason().as_deref() {
        Some("guest-shutdown") => Ok(End::PowerOff),
        Some("guest-reset") => Ok(End::Reset),
        Some("guest-panic") => Ok(End::Panic),
        Some("host-qmp-quit" | "host-signal") => Ok(End::Killed),
        other => {
            let what = format!("{status}, {}", other.unwrap_or("no reason given"));
            let error = anyhow::anyhow!(what);
            Ok(End::Crash(format!(
                "QEMU ended early: {}",
                said(&errors, &error)
            )))
        }
    }
}

/// QEMU's connection, or why there will be none.
fn connect(listener: &UnixListener, child: &mut Child) -> anyhow::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let since = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        if let Some(status) = child.try_wait()? {
            bail!("{status}");
        }
        if since.elapsed() > PATIENCE {
            bail!("it does not connect");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What QEMU has said on its standard error, or else `error`.
fn said(errors: &Path, error: &anyhow::Error) -> String {
    let text = fs::read_to_string(errors).unwrap_or_default();
    match text.trim() {
        "" => crate::explained(error),
        text => {
            let from = text.len().saturating_sub(2000);
            crate::progress::printable(text.get(from..).unwrap_or(text))
        }
    }
}

/// Copies between QEMU's standard streams, which are the serial port, and the
/// console.
fn copy_console(machine: &Prepared, stream: UnixStream) -> io::Result<thread::JoinHandle<()>> {
    let mut writer = stream.try_clone()?;
    machine
        .console
        .set_input(Box::new(move |bytes| drop(writer.write_all(bytes))));
    let mut output = machine.console.output();
    let mut stream = stream;
    thread::Builder::new().name("serial".into()).spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let _ = output.write_all(buffer.get(..count).unwrap_or_default());
        }
    })
}

fn command(machine: &Prepared) -> anyhow::Result<Command> {
    let Prepared {
        spec,
        place,
        payload,
        ..
    } = machine;
    let dir = &place.runtime;
    // QEMU must not outlive this process, not even if that is killed.
    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", QEMU]);
            command
        }
        None => Command::new(QEMU),
    };
    command
        .args(["-name", &spec.name])
        .args(["-machine", "q35,usb=off,vmport=off"])
        .args(["-accel", accelerator(spec.contained), "-cpu", "max"])
        .args(["-smp", &spec.cpus.to_string()])
        .args(["-uuid", &spec.uuid.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-device", "pvpanic"])
        .args(["-chardev", "stdio,id=serial,signal=off"])
        .args(["-serial", "chardev:serial"])
        .args(["-device", "virtio-rng-pci"]);
    command.args(Memory::of(spec).arguments());
    let qmp = dir.join("qmp.sock");
    command
        .arg("-chardev")
        .arg(format!("socket,id=qmp,path={}", escaped(&qmp)?))
        .args(["-mon", "chardev=qmp,mode=control"]);
    for (n, disk) in machine.disks.iter().enumerate() {
        let socket = dir.join(format!("disk{n}.sock"));
        nbd::serve(&socket, &disk.disk)?;
        let read_only = disk.disk.limits().read_only;
        let device = json!({
            "driver": "nbd",
            "node-name": format!("disk{n}"),
            "server": {"type": "unix", "path": utf8(&socket)?},
            "export": "disk",
            "read-only": read_only,
            "discard": "unmap",
        });
        command.arg("-blockdev").arg(device.to_string());
        command.arg("-device").arg(format!(
            "virtio-blk-pci,drive=disk{n},num-queues={},serial={}",
            spec.queues(),
            disk.serial.replace(',', ",,")
        ));
    }
    let units = units::for_ports(&spec.probes);
    let strings = spec.strings.iter().chain(&units);
    for text in strings.chain(&ready::port_credentials()) {
        command
            .arg("-smbios")
            .arg(format!("type=11,value={}", text.replace(',', ",,")));
    }
    let kernel = as_file(&payload.kernel, dir.join("kernel"))?;
    command.arg("-kernel").arg(kernel);
    if let Some(initrd) = &payload.initrd {
        command
            .arg("-initrd")
            .arg(as_file(initrd, dir.join("initrd"))?);
    }
    command
        .arg("-append")
        .arg(format!("{SLOW} {}", payload.command_line));
    if spec.no_reboot {
        command.arg("-no-reboot");
    }
    // The guest waits until QEMU tells us of its events: one that ends sooner
    // would end for no reason that we know of.
    command.arg("-S");
    if !spec.serial.is_empty() {
        let serial = spec.serial.replace(',', ",,");
        command
            .arg("-smbios")
            .arg(format!("type=1,serial={serial}"));
    }
    Ok(command)
}

/// The port on which the guest says that it has booted, and what listens for
/// QEMU to connect it.
fn ready_port(machine: &Prepared, command: &mut Command) -> anyhow::Result<UnixListener> {
    let socket = machine.place.runtime.join("ready.sock");
    let listener = ready::listener(&socket)?;
    let path = escaped(&socket)?;
    command
        .args(["-device", "virtio-serial-pci"])
        .arg("-chardev")
        .arg(format!("socket,id=ready,path={path}"))
        .arg("-device")
        .arg(format!(
            "virtserialport,chardev=ready,name={}",
            ready::PORT_NAME
        ));
    Ok(listener)
}

/// What is asked for a probe, and answered by the guest.
struct Asked {
    /// Where those who ask connect.
    listener: UnixListener,
    /// Where QEMU connects the guest's port.
    guest: UnixListener,
    /// How long an answer may take.
    limit: Duration,
}

/// The ports on which the guest answers probes.
fn probe_ports(machine: &Prepared, command: &mut Command) -> anyhow::Result<Vec<Asked>> {
    let mut all = Vec::new();
    for (kind, exec) in probes::with_commands(&machine.spec.probes) {
        let name = kind.name();
        let socket = machine.place.runtime.join(format!("{name}-guest.sock"));
        all.push(Asked {
            listener: ready::listener(&kind.socket(&machine.place))?,
            guest: ready::listener(&socket)?,
            limit: Duration::from_secs(exec.timeout_seconds.into()),
        });
        let (path, port) = (escaped(&socket)?, kind.port_name());
        command
            .arg("-chardev")
            .arg(format!("socket,id={name},path={path}"))
            .arg("-device")
            .arg(format!("virtserialport,chardev={name},name={port}"));
    }
    Ok(all)
}

/// The guest's interface. What listens for QEMU to connect it to passt, if
/// that is where it leads.
fn network(machine: &Prepared, command: &mut Command) -> anyhow::Result<Option<UnixListener>> {
    let spec = &machine.spec;
    let mac = spec.mac.map(|b| format!("{b:02x}")).join(":");
    let mut listening = None;
    let (netdev, mtu) = match &spec.network {
        Network::None => return Ok(None),
        Network::Tap(name) => (format!("tap,ifname={name},script=no,downscript=no"), ""),
        Network::User => {
            let socket = machine.place.runtime.join("net.sock");
            listening = Some(ready::listener(&socket)?);
            let path = escaped(&socket)?;
            (
                format!("stream,server=off,addr.type=unix,addr.path={path}"),
                ",host_mtu=65520",
            )
        }
    };
    command.arg("-netdev").arg(format!("{netdev},id=net"));
    // Without a ROM: nothing boots over the network, and an image that has no
    // ROMs starts no QEMU that looks for one.
    command
        .arg("-device")
        .arg(format!("virtio-net-pci,netdev=net,mac={mac},romfile={mtu}"));
    Ok(listening)
}

/// How QEMU emulates. By itself it keeps as much translated code as an eighth
/// of the host's memory, up to a GiB; a pod has set less aside
/// (`EMULATION_OVERHEAD` in the controller's `pod/resources.rs`), and would be
/// killed for it.
fn accelerator(contained: bool) -> &'static str {
    match contained {
        true => "tcg,thread=multi,tb-size=128",
        false => "tcg,thread=multi",
    }
}

/// A file that holds what the blob does; QEMU takes nothing else.
fn as_file(blob: &Blob, path: PathBuf) -> anyhow::Result<PathBuf> {
    let context = || format!("cannot write {}", path.display());
    let mut file = File::create(&path).with_context(context)?;
    io::copy(&mut blob.reader(0..blob.len()?), &mut file).with_context(context)?;
    Ok(path)
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is no text that QEMU takes", path.display()))
}

/// A path in one of QEMU's options, where a comma stands for itself twice.
fn escaped(path: &Path) -> anyhow::Result<String> {
    Ok(utf8(path)?.replace(',', ",,"))
}
