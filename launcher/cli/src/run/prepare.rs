//! From arguments to a machine's folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bootwright_rootfs::customize::{Hostname, parse_keys};

use super::root_disk::{of_disk, of_image};
use crate::args::{ByteSize, MachineArgs, RootArgs, RunArgs};
use crate::commands;
use crate::disk::{self, Found};
use crate::image::Context;
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::Timings;
use crate::vms::block::serial;
use crate::vms::kernel::CommandLine;
use crate::vms::network::{self, Forward, Network};
use crate::vms::place::{Lock, Place, Places};
use crate::vms::spec::{self, Accel, Base, Boot, Disk, Planned, Spec, Ssh, Writes};
use crate::vms::{accel, block, credentials, seed};

/// Largest key or user data that is read, in bytes.
const MAX_SMALL: u64 = 1 << 20;

/// Machines that are made for one run.
const NAMES: usize = 100;

/// A machine that can be started.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Its name.
    pub name: String,
    /// Its folders.
    pub place: Place,
    /// The lock on them.
    pub lock: Lock,
}

/// Makes the folder of the machine that `args` ask for, or takes the one of
/// that name that there is.
pub(crate) fn prepare(
    args: &RunArgs,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<Ready> {
    let (chosen, note) = accel::choose(args.machine.accel)?;
    let mut command_line = CommandLine {
        instead: args.kernel.append.clone(),
        defaults: Vec::new(),
        more: args.kernel.kargs.clone(),
    };
    command_line.check()?;
    if args.detach && args.machine.timeout.is_some() && !args.wait {
        bail!("--timeout: with --detach it says how long --wait waits; give that, too");
    }
    network::check_all(&args.network.publish)?;
    let network = choose_network(args, messages)?;
    let disks = args.machine.disks.iter().map(|text| data_disk(text));
    let data: Vec<(Base, Writes)> = disks.collect::<anyhow::Result<_>>()?;
    let backing = args.machine.backing.iter().map(|path| {
        fs::canonicalize(path).with_context(|| format!("--backing {}", path.display()))
    });
    let backing = backing.collect::<anyhow::Result<Vec<_>>>()?;
    let places = Places::from_env()?;
    places.clear_stale()?;
    let ready = make(&places, args.name.as_deref())?;
    if let Some(note) = note {
        messages.warn(&note);
    }
    let known = known(args, &ready)?;
    let guest = guest(args, &ready, &network)?;
    command_line.more.extend(guest.command_line);
    command_line.check()?;
    let grows = max_memory(&args.machine) > args.machine.memory.0 && !args.machine.huge_pages;
    command_line.suit_machines(grows);
    let described = describe(args, &backing, &ready, known, messages, interrupt);
    let result = described.and_then(|described| {
        let mut disks = vec![described.root];
        let seed = seed(args, &ready, described.uuid, &guest.hostname)?;
        for (base, writes) in data.into_iter().chain(seed) {
            disks.push(Disk {
                serial: serial(disks.len()),
                base,
                size: None,
                writes,
            });
        }
        let spec = Spec {
            version: Spec::VERSION,
            name: ready.name.clone(),
            ephemeral: args.name.is_none(),
            target: args.target.clone(),
            accel: chosen,
            cpus: args.machine.cpus,
            max_cpus: max_cpus(&args.machine),
            memory: args.machine.memory.0,
            max_memory: max_memory(&args.machine),
            huge_pages: args.machine.huge_pages,
            disks,
            backing,
            network,
            mac: spec::mac(described.uuid),
            forwards: args.network.publish.clone(),
            all_ports: Vec::new(),
            ssh: guest.ssh,
            strings: guest.strings,
            probes: bootwright_machine::Probes::default(),
            boot: Boot {
                planned: described.planned,
                kernel: absolute(args.kernel.kernel.as_deref())?,
                initrd: absolute(args.kernel.initrd.as_deref())?,
                command_line,
            },
            uuid: described.uuid,
            serial: String::new(),
            paused: args.paused,
            no_reboot: args.machine.no_reboot,
            sandbox: sandbox(&args.machine, chosen, messages),
            contained: false,
            vsock: true,
            balloon: true,
            disk_queues: Spec::most_queues(),
        };
        spec.save(&ready.place.state)
    });
    match result {
        Ok(()) => Ok(ready),
        Err(error) => {
            // Nothing of a machine that has never been is kept.
            if !ready.place.has_spec() {
                let _ = ready.place.remove();
            }
            Err(error)
        }
    }
}

/// What the guest's interface leads to. Where nobody asked for a network, one
/// that cannot be had is left out.
fn choose_network(args: &RunArgs, messages: &Messages) -> anyhow::Result<Network> {
    let wanted = args.network.network.clone();
    let needed = !args.network.publish.is_empty() || args.ssh || args.wait;
    match wanted {
        Some(Network::Tap(name)) if needed => bail!(
            "--network tap:{name}: --publish, --ssh and --wait need --network user, whose ports \
             are this host's"
        ),
        Some(Network::None) if needed => {
            bail!("--network none: --publish, --ssh and --wait need a network")
        }
        None if !needed && accel::find_program("passt").is_none() => {
            messages.warn(
                "the guest has no network: passt is not installed (Debian, Ubuntu, Fedora: passt)",
            );
            Ok(Network::None)
        }
        wanted => Ok(wanted.unwrap_or(Network::User)),
    }
}

/// What a guest is told.
struct Told {
    hostname: String,
    ssh: Option<Ssh>,
    strings: Vec<String>,
    command_line: Vec<String>,
}

/// What the guest is told, with the key that is made for it.
fn guest(args: &RunArgs, ready: &Ready, network: &Network) -> anyhow::Result<Told> {
    let mut strings = args.guest.strings.clone();
    for text in &args.guest.credentials {
        let (name, value) = credentials::parse(text)?;
        strings.push(credentials::credential(name, value.as_bytes()));
    }
    let mut keys = String::new();
    for path in &args.guest.ssh_keys {
        let text = commands::read_limited(path, MAX_SMALL).context("--ssh-key")?;
        parse_keys(&text).with_context(|| format!("--ssh-key {}", path.display()))?;
        keys.push_str(std::str::from_utf8(&text).context("--ssh-key")?.trim());
        keys.push('\n');
    }
    let way_in = args.ssh || args.detach || args.name.is_some();
    let mut ssh = None;
    if way_in && *network == Network::User {
        match credentials::make_key(&ready.place.state.join("ssh_key")) {
            Ok(key) => {
                keys.push_str(&key);
                ssh = Some(Ssh {
                    port: Forward::to(22)?.host,
                });
            }
            Err(error) if args.ssh || args.wait => return Err(error),
            // Nobody has asked for it.
            Err(_) => {}
        }
    }
    if !keys.is_empty() {
        strings.push(credentials::credential(
            credentials::ROOT_KEYS,
            keys.as_bytes(),
        ));
    }
    let mut command_line: Vec<String> = credentials::command_line(&strings)
        .map(str::to_owned)
        .collect();
    if let Some(name) = &args.guest.hostname {
        let name: Hostname = name.parse()?;
        command_line.push(format!("systemd.hostname={}", name.as_str()));
    }
    Ok(Told {
        hostname: args
            .guest
            .hostname
            .clone()
            .unwrap_or_else(|| ready.name.clone()),
        ssh,
        strings,
        command_line,
    })
}

/// Writes the seed disk for cloud-init, if there is to be one.
fn seed(
    args: &RunArgs,
    ready: &Ready,
    uuid: uuid::Uuid,
    hostname: &str,
) -> anyhow::Result<Option<(Base, Writes)>> {
    let Some(path) = &args.guest.cloud_init else {
        return Ok(None);
    };
    let user_data = commands::read_limited(path, MAX_SMALL).context("--cloud-init")?;
    let folder = seed::save(plan_dir(args, ready), uuid, hostname, user_data)?;
    Ok(Some((Base::Plan(folder), Writes::Refused)))
}

/// Where a machine's plans are: with what it has written, or gone with it.
fn plan_dir<'a>(args: &RunArgs, ready: &'a Ready) -> &'a Path {
    match args.name {
        Some(_) => &ready.place.state,
        None => &ready.place.runtime,
    }
}

/// Processors that the machine can be given.
fn max_cpus(args: &MachineArgs) -> u8 {
    let host = std::thread::available_parallelism().map_or(1, usize::from);
    let host = u8::try_from(host.min(64)).unwrap_or(64);
    args.max_cpus.unwrap_or(host).max(args.cpus)
}

/// Memory that the machine can be given, in bytes. What is not given takes none
/// of the host's.
fn max_memory(args: &MachineArgs) -> u64 {
    let of_host = || {
        let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib =
            total.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map_or(0, |kib| kib << 10)
    };
    args.max_memory.map_or_else(of_host, |size| size.0)
}

fn sandbox(args: &MachineArgs, accel: Accel, messages: &Messages) -> bool {
    if args.no_sandbox && accel == Accel::Kvm {
        messages.warn("--no-sandbox: the process that runs the guest is not confined");
    }
    !args.no_sandbox
}

/// The folder and its lock.
fn make(places: &Places, name: Option<&str>) -> anyhow::Result<Ready> {
    if let Some(name) = name {
        let place = places.place(name);
        let Some(lock) = place.make()? else {
            bail!("the machine {name} runs already");
        };
        return Ok(Ready {
            name: name.to_owned(),
            place,
            lock,
        });
    }
    for _ in 0..NAMES {
        let [a, b, c, ..] = random()?;
        let name = format!("vm-{a:02x}{b:02x}{c:02x}");
        let place = places.place(&name);
        if place.state.exists() {
            continue;
        }
        if let Some(lock) = place.make()? {
            return Ok(Ready { name, place, lock });
        }
    }
    bail!("no name is free for a machine");
}

/// The machine of that name that there is already.
fn known(args: &RunArgs, ready: &Ready) -> anyhow::Result<Option<Spec>> {
    if !ready.place.has_spec() {
        return Ok(None);
    }
    let spec = Spec::load(&ready.place.state)?;
    let root = spec.disks.first().context("it has no disk")?;
    let same = match &root.base {
        Base::File(path) => absolute(Some(Path::new(&args.target)))?.as_ref() == Some(path),
        _ => spec.target == args.target,
    };
    if !same {
        bail!(
            "the machine {} is one of {}; choose another --name, or remove {}",
            ready.name,
            spec.target,
            ready.place.state.display()
        );
    }
    if let Some(ByteSize(size)) = args.root.size
        && root.size != Some(size)
    {
        bail!(
            "--size: the disk of the machine {} has its size already",
            ready.name
        );
    }
    refuse(
        &args.root,
        "the disk of a machine that has been run is not made anew",
    )?;
    Ok(Some(spec))
}

/// Refuses what only shapes a disk that is made of an image.
fn refuse(args: &RootArgs, why: &str) -> anyhow::Result<()> {
    let given = [
        ("--free", args.free.is_some()),
        ("--user", !args.users.is_empty()),
        ("--file", !args.files.is_empty()),
        ("--root-password-file", args.root_password_file.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("{flag}: {why}"),
        None => Ok(()),
    }
}

/// What is known of a machine's disk.
struct Described {
    root: Disk,
    planned: Option<Planned>,
    uuid: uuid::Uuid,
}

fn describe(
    args: &RunArgs,
    backing: &[PathBuf],
    ready: &Ready,
    known: Option<Spec>,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<Described> {
    if let Some(spec) = known {
        return Ok(Described {
            root: spec.disks.into_iter().next().context("it has no disk")?,
            planned: spec.boot.planned,
            uuid: spec.uuid,
        });
    }
    let uuid = uuid::Builder::from_random_bytes(random()?).into_uuid();
    let root = |base, size| Disk {
        serial: serial(0),
        base,
        size,
        writes: match args.name {
            Some(_) => Writes::Kept,
            None => Writes::Dropped,
        },
    };
    if let Some(target) = commands::disk_file(&args.target)? {
        refuse(&args.root, "this is a disk already, not an image")?;
        // What is wrong with it is said before there is a machine.
        block::open_base(target, backing)?;
        return Ok(Described {
            root: root(
                Base::File(fs::canonicalize(target)?),
                args.root.size.map(|size| size.0),
            ),
            planned: None,
            uuid,
        });
    }
    let context = Context {
        args: &args.image,
        messages,
        interrupt,
    };
    let dir = plan_dir(args, ready);
    let (base, planned) = match disk::find(&args.target, context, &mut Timings::start())? {
        Found::Image(mut loaded) => of_image(&mut loaded, &args.root, dir, messages)?,
        Found::Disk(disk) => {
            refuse(&args.root, &format!("this is {disk} already, not an image"))?;
            let copy = ready.place.state.join(block::COPY);
            let (base, planned) = of_disk(&disk, dir, &copy, context)?;
            let size = args.root.size.map(|size| size.0);
            return Ok(Described {
                root: root(base, size),
                planned,
                uuid,
            });
        }
    };
    Ok(Described {
        root: root(base, None),
        planned,
        uuid,
    })
}

/// A disk as `--disk` names it.
fn data_disk(text: &str) -> anyhow::Result<(Base, Writes)> {
    let (path, writes) = match text.strip_suffix(":ro") {
        Some(path) => (path, Writes::Refused),
        None => (text, Writes::Through),
    };
    let path = fs::canonicalize(path).with_context(|| format!("--disk {path}"))?;
    Ok((Base::File(path), writes))
}

fn absolute(path: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    path.map(|path| fs::canonicalize(path).with_context(|| path.display().to_string()))
        .transpose()
}

/// Bytes that nobody can foresee.
pub(crate) fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut file = fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::Read::read_exact(&mut file, &mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}
