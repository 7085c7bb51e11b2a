//! From a pod's machine to one that a process can run.

use std::path::Path;

use anyhow::{Context as _, bail};
use bootwright_machine::{CloudInitKind, Holds, Interface, Machine, Source};

use super::{cloud_init, files, volumes};
use crate::args::{LaunchArgs, RootArgs};
use crate::disk::{self, Found};
use crate::image::{self, Context};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::report::Timings;
use crate::run::root_disk::{of_disk, of_image};
use crate::vms::kernel::CommandLine;
use crate::vms::network::{Forward, Network, Protocol};
use crate::vms::place::{Lock, Place};
use crate::vms::spec::{self, Accel, Base, Boot, Disk, Planned, Spec, Writes};
use crate::vms::{accel, credentials, stored_plan};

/// Most processors that the monitor gives a machine.
const MAX_CPUS: u32 = 64;

/// The longest host name of Linux's (`HOST_NAME_MAX`).
const MAX_HOSTNAME: usize = 64;

/// Makes the machine's folders afresh: a container that is started again finds
/// those of the last one.
pub(super) fn make(place: &Place) -> anyhow::Result<Lock> {
    let taken = || anyhow::anyhow!("a machine runs in this pod already");
    let lock = place.make()?.ok_or_else(taken)?;
    if !place.has_spec() {
        return Ok(lock);
    }
    place.remove()?;
    drop(lock);
    place.make()?.ok_or_else(taken)
}

/// Describes the machine, and writes what its disks are made of into `place`.
pub(super) fn spec(
    machine: &Machine,
    args: &LaunchArgs,
    place: &Place,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<Spec> {
    let accel = accelerator(machine)?;
    let uuid = match &machine.uuid {
        Some(uuid) => uuid.parse().context("uuid")?,
        // Whoever has no identity is another one each time.
        None => uuid::Builder::from_random_bytes(crate::run::prepare::random()?).into_uuid(),
    };
    let context = Context {
        args: &args.image,
        messages,
        interrupt,
    };
    let mut disks = Disks {
        machine,
        place,
        uuid,
        disks: Vec::new(),
        planned: None,
    };
    for disk in &machine.disks {
        let more = disks.add(disk, context);
        more.with_context(|| format!("volume {}", disk.name))?;
    }
    let (disks, planned) = (disks.disks, disks.planned);
    let strings = told(machine)?;
    let mut command_line = CommandLine {
        instead: None,
        defaults: Vec::new(),
        more: credentials::command_line(&strings)
            .map(str::to_owned)
            .collect(),
    };
    if is_image(machine) {
        // An image is one machine's as little as it is one container's.
        let name = hostname(machine);
        command_line.more.push(format!("systemd.hostname={name}"));
    }
    let (mut kernel, mut initrd) = (None, None);
    if let Some(given) = &machine.kernel {
        let folder = Path::new(&given.folder);
        volumes::check_mounted(folder)?;
        kernel = Some(volumes::file_in(folder, &given.path).context("the kernel")?);
        if let Some(path) = &given.initramfs {
            initrd = Some(volumes::file_in(folder, path).context("the initramfs")?);
        }
        command_line.instead = Some(given.command_line.clone());
    }
    command_line.check()?;
    command_line.suit_machines(machine.memory.max_bytes > machine.memory.bytes);
    let (forwards, all_ports) = ports(machine.interface.as_ref());
    let (cpus, max_cpus) = cpus(machine)?;
    Ok(Spec {
        version: Spec::VERSION,
        name: bootwright_machine::NAME.to_owned(),
        ephemeral: false,
        target: machine.name.clone(),
        accel,
        cpus,
        max_cpus,
        memory: machine.memory.bytes,
        max_memory: machine.memory.max_bytes,
        huge_pages: machine.memory.page_bytes > 0,
        disks,
        backing: Vec::new(),
        network: match machine.interface {
            Some(_) => Network::User,
            None => Network::None,
        },
        mac: match &machine.interface {
            Some(interface) => interface.hardware_address().context("interface.mac")?,
            None => spec::mac(uuid),
        },
        forwards,
        all_ports,
        ssh: None,
        strings,
        probes: machine.probes.clone(),
        boot: Boot {
            planned,
            kernel,
            initrd,
            command_line,
        },
        uuid,
        serial: machine.serial.clone().unwrap_or_default(),
        paused: machine.paused,
        no_reboot: machine.ends_on_reboot,
        sandbox: true,
        contained: is_filtered(),
        vsock: machine.devices.vsock,
        balloon: machine.devices.balloon,
        disk_queues: match machine.devices.disk_queues {
            true => cpus,
            false => 1,
        },
    })
}

/// Whether the machine boots a container image.
fn is_image(machine: &Machine) -> bool {
    matches!(
        machine.disks.first().map(|disk| &disk.source),
        Some(
            Source::Root { .. }
                | Source::Image {
                    holds: Holds::Root,
                    ..
                }
        )
    )
}

/// What runs the guest: never what nobody has asked for.
fn accelerator(machine: &Machine) -> anyhow::Result<Accel> {
    let wanted = match machine.emulated {
        true => crate::args::Accel::Tcg,
        false => crate::args::Accel::Kvm,
    };
    match (accel::choose(wanted), wanted) {
        (Ok((accel, _)), _) => Ok(accel),
        (Err(error), crate::args::Accel::Kvm) => Err(error
            .context("the node's device plugin has given this pod no /dev/kvm that it can use")),
        (Err(error), _) => {
            Err(error
                .context("machines are emulated here (useEmulation), but the image has no QEMU"))
        }
    }
}

/// Whether the container's runtime filters this process's system calls, which
/// keeps it from making namespaces (proc(5), `Seccomp` of the status).
fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|l| l.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() != "0")
}

fn cpus(machine: &Machine) -> anyhow::Result<(u8, u8)> {
    let cpus = machine.cpus;
    let of_socket = cpus.cores * cpus.threads;
    let count = cpus.sockets * of_socket;
    if count > MAX_CPUS {
        bail!("cpus: a machine has at most {MAX_CPUS} processors, not {count}");
    }
    let most = cpus.max_sockets.saturating_mul(of_socket).min(MAX_CPUS);
    Ok((u8::try_from(count)?, u8::try_from(most)?))
}

/// The host name: the machine's name as far as Linux takes it.
fn hostname(machine: &Machine) -> &str {
    let name = machine.name.get(..MAX_HOSTNAME).unwrap_or(&machine.name);
    name.trim_matches(['-', '.'])
}

/// What the guest is told: keys that no data of cloud-init's hand on let in
/// root.
fn told(machine: &Machine) -> anyhow::Result<Vec<String>> {
    let has = |wanted: CloudInitKind| {
        machine
            .disks
            .iter()
            .any(|disk| matches!(&disk.source, Source::CloudInit { kind, .. } if *kind == wanted))
    };
    let mut text = String::new();
    for keys in machine.keys.iter().filter(|keys| !has(keys.kind)) {
        for key in files::keys(Path::new(&keys.folder))? {
            text.push_str(&key);
            text.push('\n');
        }
    }
    Ok(match text.is_empty() {
        true => Vec::new(),
        false => vec![credentials::credential(
            credentials::ROOT_KEYS,
            text.as_bytes(),
        )],
    })
}

/// The pod's ports that lead to the guest: those that are listed, or all.
fn ports(interface: Option<&Interface>) -> (Vec<Forward>, Vec<Protocol>) {
    let Some(interface) = interface else {
        return (Vec::new(), Vec::new());
    };
    let mut forwards = Vec::new();
    let mut all = Vec::new();
    for (protocol, listed) in [
        (Protocol::Tcp, &interface.tcp),
        (Protocol::Udp, &interface.udp),
    ] {
        match listed {
            None => all.push(protocol),
            Some(listed) => forwards.extend(listed.iter().map(|port| Forward {
                address: None,
                host: *port,
                guest: *port,
                protocol,
            })),
        }
    }
    (forwards, all)
}

/// Disks in the making.
struct Disks<'a> {
    machine: &'a Machine,
    place: &'a Place,
    uuid: uuid::Uuid,
    disks: Vec<Disk>,
    planned: Option<Planned>,
}

impl Disks<'_> {
    fn add(&mut self, disk: &bootwright_machine::Disk, context: Context<'_>) -> anyhow::Result<()> {
        let (base, size, writes) = match &disk.source {
            Source::Root { folder } => (
                self.root(Path::new(folder), context)?,
                None,
                Writes::Dropped,
            ),
            Source::ContainerDisk { folder, path } => {
                let file = volumes::container_disk(Path::new(folder), path.as_deref())?;
                (Base::File(file), None, Writes::Dropped)
            }
            Source::Image {
                reference,
                holds,
                auth_file,
            } => {
                let base = self.fetch(reference, *holds, auth_file.as_deref(), context)?;
                (base, None, Writes::Dropped)
            }
            Source::Device { path, ephemeral } => {
                let may_write = !disk.read_only && !ephemeral;
                // The first is there to be booted.
                let may_make = may_write && !self.disks.is_empty();
                let path = volumes::device(Path::new(path), may_make)?;
                let writes = match ephemeral {
                    true => Writes::Dropped,
                    false => Writes::Through,
                };
                (Base::Raw(path), None, writes)
            }
            Source::Empty { bytes } => {
                let size = bytes.next_multiple_of(512);
                (Base::Nothing, Some(size), Writes::Dropped)
            }
            Source::CloudInit {
                kind,
                user_data,
                network_data,
            } => {
                let (files, label) = cloud_init::files(
                    *kind,
                    user_data.as_ref(),
                    network_data.as_ref(),
                    &cloud_init::Facts {
                        uuid: self.uuid,
                        hostname: hostname(self.machine),
                        keys: &self.machine.keys,
                    },
                )?;
                (self.volume(&files, label)?, None, Writes::Refused)
            }
            Source::Files { folder, label } => {
                let files = files::read(Path::new(folder))?;
                let label = label.as_deref().unwrap_or(files::LABEL);
                (self.volume(&files, label)?, None, Writes::Refused)
            }
        };
        self.disks.push(Disk {
            serial: disk.serial.clone().unwrap_or_else(|| disk.name.clone()),
            base,
            size,
            writes: if disk.read_only {
                Writes::Refused
            } else {
                writes
            },
        });
        Ok(())
    }

    /// The folder for the plan of the next disk.
    fn folder(&self) -> anyhow::Result<std::path::PathBuf> {
        let folder = self.place.state.join(format!("disk{}", self.disks.len()));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// The disk that the root file system in a folder makes.
    fn root(&mut self, folder: &Path, context: Context<'_>) -> anyhow::Result<Base> {
        volumes::check_mounted(folder)?;
        let mut timings = Timings::start();
        let reference = bootwright_image::ImageReference::Directory {
            path: folder.to_owned(),
        };
        let mut loaded = image::from_directory(folder, &reference, context, &mut timings)?;
        let dir = self.folder()?;
        let (base, planned) = of_image(&mut loaded, &RootArgs::default(), &dir, context.messages)?;
        if self.disks.is_empty() {
            self.planned = planned;
        }
        Ok(base)
    }

    /// The disk of an image that is fetched into the store.
    fn fetch(
        &mut self,
        reference: &str,
        holds: Holds,
        auth_file: Option<&str>,
        context: Context<'_>,
    ) -> anyhow::Result<Base> {
        let mut args = context.args.clone();
        if let Some(path) = auth_file {
            args.registry.authfile = Some(path.into());
        }
        let context = Context {
            args: &args,
            ..context
        };
        let dir = self.folder()?;
        // Nothing of the pod's own files, whatever the reference says.
        let remote = format!("docker://{}", reference.trim_start_matches("docker://"));
        let found = disk::find(&remote, context, &mut Timings::start())?;
        let (base, planned) = match (found, holds) {
            (Found::Image(mut loaded), Holds::Root) => {
                let args = RootArgs::default();
                of_image(&mut loaded, &args, &dir, context.messages)?
            }
            (Found::Disk(disk), Holds::Disk) => {
                of_disk(&disk, &dir, &dir.join("disk.raw"), context)?
            }
            (Found::Image(_), Holds::Disk) => bail!("{reference} holds no disk in /disk"),
            (Found::Disk(disk), Holds::Root) => {
                bail!("{reference} is {disk}, and not a bootable container image")
            }
        };
        if self.disks.is_empty() {
            self.planned = planned;
        }
        Ok(base)
    }

    /// A volume of small files.
    fn volume(
        &self,
        files: &[bootwright_rootfs::iso::IsoFile],
        label: &str,
    ) -> anyhow::Result<Base> {
        let dir = self.folder()?;
        stored_plan::save(&files::volume(files, label)?, &dir)?;
        Ok(Base::Plan(dir))
    }
}
