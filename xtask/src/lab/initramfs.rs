//! The file systems of L1 and of the small guests in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::assets::{Kernel, Lab};
use super::cpio::Archive;
use crate::proc;

/// What L1 runs: its command, whose output goes to the second serial port and
/// whose status to the third.
const L1_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/lab/bin HOME=/root TERM=dumb XDG_CACHE_HOME=/tmp/cache
export XDG_STATE_HOME=/run/state XDG_RUNTIME_DIR=/run
# The first root file system is none that a program could replace, as passt
# does with its own; the same in another mount is.
if [ ! -e /moved ]; then
  touch /moved; mount -o bind / /new; cd /new; mount -o move . /; exec chroot . /init
fi
cd /; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm
for module in $(cat /modules/order); do insmod /modules/$module.ko || echo "no $module"; done
ip link set lo up; ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
[ -e /dev/vda ] && mount -t ext4 /dev/vda /disk
cd /lab
stty -F /dev/ttyS1 raw 2>/dev/null
# On all processors but the first: `PROCESSORS` in machine.rs says why.
taskset 6 sh /lab/command > /dev/ttyS1 2>&1
echo $? > /dev/ttyS2
sync
poweroff -f
"#;

/// What a small guest does, by the words of its command line.
const L2_INIT: &str = r#"#!/bin/busybox sh
echo 'init: started'
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /tmp
echo "init: reached on $(uname -r), $(nproc) cpus, $(awk '/MemTotal/{print $2}' /proc/meminfo) kB"
for module in $(cat /modules/order); do insmod /modules/$module.ko || echo "no $module"; done
ask() { echo "do: $*"; read -r answer; echo "init: $*: $answer"; }
for word in $(cat /proc/cmdline); do case $word in
lab=*) . /scenario/${word#lab=} ;;
esac; done
poweroff -f
"#;

/// The users of L1, whom passt and ssh look up.
const L1_USERS: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// Modules of L1.
const L1_MODULES: &[&str] = &[
    "kvm-amd",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "tun",
    "vhost_vsock",
    "veth",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];

/// Modules of small guests.
const L2_MODULES: &[&str] = &[
    "pvpanic-mmio",
    "button",
    "evdev",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    "virtio_console",
    "virtio_balloon",
    "virtio_mem",
];

/// Writes the initramfs of L1 with `command`; returns where it is.
pub(super) fn l1(lab: &Lab, command: &str) -> Result<PathBuf> {
    let mut archive = base(lab, L1_INIT, &lab.bookworm, L1_MODULES)?;
    archive.file("lab/command", 0o755, command.as_bytes());
    archive.file("lab/help", 0o644, super::scenarios::HELP.as_bytes());
    for (name, content) in L1_USERS {
        archive.file(name, 0o644, content.as_bytes());
    }
    for folder in ["new", "disk", "tmp", "run", "root"] {
        archive.folder(folder);
    }
    let mut libraries = BTreeSet::new();
    for (name, program) in &lab.programs {
        archive.copy(&format!("lab/bin/{name}"), 0o755, program)?;
        libraries.extend(needed_libraries(program)?);
    }
    for library in libraries {
        archive.copy(library.trim_start_matches('/'), 0o755, Path::new(&library))?;
    }
    for file in &lab.files {
        let name = file.file_name().context("a file without a name")?;
        archive.copy(
            &format!("lab/files/{}", name.to_string_lossy()),
            0o644,
            file,
        )?;
    }
    for kernel in [&lab.bookworm, &lab.trixie] {
        let suite = kernel.suite;
        archive.copy(&format!("lab/{suite}.vmlinuz"), 0o644, &kernel.image)?;
        archive.file(&format!("lab/{suite}.initrd"), 0o644, &l2(lab, kernel)?);
    }
    let path = lab.dir.join("l1.cpio");
    fs::write(&path, archive.finish())?;
    Ok(path)
}

/// The shared libraries that a program needs, and the loader that finds them.
/// None if it is linked statically.
fn needed_libraries(program: &Path) -> Result<Vec<String>> {
    let sh = Shell::new()?;
    let output = proc::output(cmd!(sh, "ldd {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `name => /path (address)`, or `/path (address)` for the loader.
    let paths = text.lines().filter_map(|line| {
        let path = line.rsplit_once("=> ").map_or(line, |(_, path)| path);
        let path = path.trim().split(' ').next()?;
        path.starts_with('/').then(|| path.to_owned())
    });
    Ok(paths.collect())
}

/// The initramfs of a small guest.
pub(super) fn l2(lab: &Lab, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = base(lab, L2_INIT, kernel, L2_MODULES)?;
    for (name, script) in super::guests::SCRIPTS {
        archive.file(&format!("scenario/{name}"), 0o644, script.as_bytes());
    }
    Ok(archive.finish())
}

/// busybox, `init` and those of `modules` that are not built in.
fn base(lab: &Lab, init: &str, kernel: &Kernel, modules: &[&str]) -> Result<Archive> {
    let mut archive = Archive::default();
    for folder in [
        "bin", "dev", "proc", "sys", "modules", "lab/bin", "scenario",
    ] {
        archive.folder(folder);
    }
    archive.copy("bin/busybox", 0o755, &lab.busybox)?;
    archive.file("init", 0o755, init.as_bytes());
    let mut order = Vec::new();
    for name in modules {
        add_module(
            &mut archive,
            &mut order,
            &kernel.modules.join("kernel"),
            name,
        )?;
    }
    let order = order.join("\n");
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive)
}

/// Adds a module after those that it depends on.
fn add_module(
    archive: &mut Archive,
    order: &mut Vec<String>,
    dir: &Path,
    name: &str,
) -> Result<()> {
    if order.iter().any(|known| known == name) {
        return Ok(());
    }
    let Some(bytes) = module(dir, name)? else {
        return Ok(());
    };
    for needed in depends(&bytes) {
        add_module(archive, order, dir, &needed)?;
    }
    archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
    order.push(name.to_owned());
    Ok(())
}

/// What a module says that it depends on, in its section .modinfo.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..].split(|b| *b == 0).next();
    let value = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let names = value.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// A module, decompressed; `None` if the kernel has it built in.
fn module(dir: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    // Names have dashes in files and underscores elsewhere.
    let dashed = name.replace('_', "-");
    let names = [name, &dashed].map(|n| [format!("{n}.ko"), format!("{n}.ko.xz")]);
    let files = names.as_flattened();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if files.iter().any(|f| entry.file_name() == f.as_str()) {
                let path = entry.path();
                if path.extension().is_some_and(|e| e == "ko") {
                    return Ok(Some(fs::read(path)?));
                }
                let sh = Shell::new()?;
                let output = proc::output(cmd!(sh, "xz --decompress --stdout {path}"))?;
                return Ok(Some(output.stdout));
            }
        }
    }
    Ok(None)
}
