//! From arguments to a machine's folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bootwright_disk::reader::{self, data_len};
use bootwright_disk::sink::{self, Format, Target};
use bootwright_rootfs::boot::Architecture;
use bootwright_rootfs::customize::{Hostname, parse_keys};

use crate::args::{BootArgs, ByteSize, CustomizeArgs, MachineArgs, PlanArgs, RootArgs, RunArgs};
use crate::commands;
use crate::disk::{self, Disk, Found};
use crate::image::{Context, Loaded};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::Timings;
use crate::vms::kernel::{CommandLine, Piece};
use crate::vms::network::{self, Forward, Network};
use crate::vms::place::{Lock, Place, Places};
use crate::vms::spec::{Accel, Base, Boot, DataDisk, Planned, Root, Spec, Ssh};
use crate::vms::{accel, block, credentials, seed, stored_plan};

/// Free space on a disk that is made of an image: it takes no space of the
/// host until it is written.
const FREE: u64 = 8 << 30;

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
        more: args.kernel.kargs.clone(),
    };
    command_line.check()?;
    if args.detach && args.machine.timeout.is_some() && !args.wait {
        bail!("--timeout: with --detach it says how long --wait waits; give that, too");
    }
    network::check_all(&args.network.publish)?;
    let network = choose_network(args, messages)?;
    let disks = args.machine.disks.iter().map(|text| data_disk(text));
    let disks: Vec<DataDisk> = disks.collect::<anyhow::Result<_>>()?;
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
    let result = describe(args, &ready, known, messages, interrupt).and_then(|described| {
        let spec = Spec {
            version: Spec::VERSION,
            name: ready.name.clone(),
            ephemeral: args.name.is_none(),
            target: args.target.clone(),
            accel: chosen,
            cpus: args.machine.cpus,
            max_cpus: max_cpus(&args.machine),
            memory: args.machine.memory.0,
            root: described.root,
            disks,
            seed: seed(args, &ready, described.uuid, &guest.hostname)?,
            network,
            forwards: args.network.publish.clone(),
            ssh: guest.ssh,
            strings: guest.strings,
            boot: Boot {
                planned: described.planned,
                kernel: absolute(args.kernel.kernel.as_deref())?,
                initrd: absolute(args.kernel.initrd.as_deref())?,
                command_line,
            },
            uuid: described.uuid,
            no_reboot: args.machine.no_reboot,
            sandbox: sandbox(&args.machine, chosen, messages),
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
fn seed(args: &RunArgs, ready: &Ready, uuid: uuid::Uuid, hostname: &str) -> anyhow::Result<bool> {
    let Some(path) = &args.guest.cloud_init else {
        return Ok(false);
    };
    let user_data = commands::read_limited(path, MAX_SMALL).context("--cloud-init")?;
    seed::save(plan_dir(args, ready), uuid, hostname, user_data)?;
    Ok(true)
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
    let same = match &spec.root.base {
        Base::File(path) => absolute(Some(Path::new(&args.target)))?.as_ref() == Some(path),
        Base::Plan | Base::Copy => spec.target == args.target,
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
        && spec.root.size != Some(size)
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
    root: Root,
    planned: Option<Planned>,
    uuid: uuid::Uuid,
}

fn describe(
    args: &RunArgs,
    ready: &Ready,
    known: Option<Spec>,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<Described> {
    if let Some(spec) = known {
        return Ok(Described {
            root: spec.root,
            planned: spec.boot.planned,
            uuid: spec.uuid,
        });
    }
    let uuid = uuid::Builder::from_random_bytes(random()?).into_uuid();
    let target = Path::new(&args.target);
    if commands::is_disk(target) {
        refuse(&args.root, "this is a disk already, not an image")?;
        // What is wrong with it is said before there is a machine.
        reader::open_disk(target)?;
        return Ok(Described {
            root: Root {
                base: Base::File(fs::canonicalize(target)?),
                size: args.root.size.map(|size| size.0),
            },
            planned: None,
            uuid,
        });
    }
    let context = Context {
        args: &args.image,
        messages,
        interrupt,
    };
    let mut loaded = match disk::find(&args.target, context, &mut Timings::start())? {
        Found::Image(loaded) => loaded,
        Found::Disk(disk) => {
            refuse(&args.root, &format!("this is {disk} already, not an image"))?;
            let (base, planned) = finished(args, ready, &disk, messages, interrupt)?;
            let size = args.root.size.map(|size| size.0);
            return Ok(Described {
                root: Root { base, size },
                planned,
                uuid,
            });
        }
    };
    if loaded.architecture != Architecture::X86_64 {
        bail!(
            "{} is for {}, and this program runs x86-64 only",
            args.target,
            loaded.report.platform
        );
    }
    let planned = plan(args, ready, &mut loaded, messages)?;
    Ok(Described {
        root: Root {
            base: Base::Plan,
            size: None,
        },
        planned: Some(planned),
        uuid,
    })
}

/// Writes down the plan of a disk that came from a registry, or the disk where
/// it is none.
fn finished(
    args: &RunArgs,
    ready: &Ready,
    disk: &Disk,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<(Base, Option<Planned>)> {
    let dir = plan_dir(args, ready);
    let base = match &disk.plan {
        Some(plan) => {
            stored_plan::save(plan, dir)?;
            Base::Plan
        }
        None => {
            copy(
                disk,
                &ready.place.state.join(block::COPY),
                messages,
                interrupt,
            )?;
            Base::Copy
        }
    };
    let Some((boot, kernel)) = (disk.boot.as_ref()).and_then(|b| Some((b, b.kernel.as_ref()?)))
    else {
        return Ok((base, None));
    };
    let piece = |file, name| {
        Piece::on_disk(file, &*disk.reader, disk.plan.as_deref(), &dir.join(name))
            .with_context(|| format!("cannot read the {name} of {}", disk.report.name))
    };
    let planned = Planned {
        kernel: piece(kernel, "kernel")?,
        initrd: (boot.initrd.as_ref())
            .map(|initrd| piece(initrd, "initrd"))
            .transpose()?,
        command_line: boot.command_line.clone(),
    };
    Ok((base, Some(planned)))
}

/// Copies a disk, holes and all.
fn copy(
    disk: &Disk,
    path: &Path,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let task = messages.task("copy of the disk", data_len(&*disk.reader)?);
    sink::write(
        &*disk.reader,
        Target::Path(path.to_owned()),
        Format::Raw,
        &sink::Options {
            sync: false,
            ..sink::Options::default()
        },
        &|bytes| task.advance(bytes),
        interrupt.flag(),
    )?;
    task.finish();
    Ok(())
}

/// Plans the disk of an image and writes the plan down.
fn plan(
    args: &RunArgs,
    ready: &Ready,
    loaded: &mut Loaded,
    messages: &Messages,
) -> anyhow::Result<Planned> {
    let disk = commands::build::plan(loaded, &plan_args(&args.root), 1)?;
    let warnings = loaded.tree.warnings().iter().chain(&disk.warnings);
    warnings.for_each(|w| messages.warn(w));
    let dir = plan_dir(args, ready);
    stored_plan::save(&disk.plan, dir)?;
    let sources = disk.plan.sources();
    let kernel = &disk.boot.kernel;
    let piece = |content, name| {
        Piece::of(content, sources, &dir.join(name))
            .with_context(|| format!("cannot read the image's {name}"))
    };
    Ok(Planned {
        kernel: piece(&kernel.linux, "kernel")?,
        initrd: kernel
            .initrd
            .as_ref()
            .map(|initrd| piece(&initrd.content, "initrd"))
            .transpose()?,
        command_line: disk.boot.command_line,
    })
}

fn plan_args(args: &RootArgs) -> PlanArgs {
    PlanArgs {
        size: args.size,
        free: Some(args.free.unwrap_or(ByteSize(FREE))),
        boot: BootArgs {
            boot: None,
            kargs: Vec::new(),
            karg_deletes: Vec::new(),
            stub: None,
            loader: None,
            esp_size: None,
        },
        customize: CustomizeArgs {
            hostname: None,
            ssh_keys: Vec::new(),
            users: args.users.clone(),
            root_password_file: args.root_password_file.clone(),
            files: args.files.clone(),
        },
    }
}

/// A disk as `--disk` names it.
fn data_disk(text: &str) -> anyhow::Result<DataDisk> {
    let (path, read_only) = match text.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (text, false),
    };
    let path = fs::canonicalize(path).with_context(|| format!("--disk {path}"))?;
    Ok(DataDisk { path, read_only })
}

fn absolute(path: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    path.map(|path| fs::canonicalize(path).with_context(|| path.display().to_string()))
        .transpose()
}

/// Bytes that nobody can foresee.
fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut file = fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::Read::read_exact(&mut file, &mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}
