//! A small system that boots: what tests start many of.
//!
//! In: the Debian image, for its kernel and a few of its modules, and Debian's
//! busybox. Out: an OCI layout with two versions of a web server, a system in
//! which nobody serves, and one that does not hear its power button. It is emulated in a tenth of the time that Debian
//! takes, and boots by the same way: kernel and initramfs out of the image,
//! root file system on a disk, address by DHCP, power button.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use super::files::Files;
use super::layout::{Image, Layout};
use super::{ARCHITECTURE, packages};
use crate::lab::cpio::Archive;
use crate::{image, paths, proc};

/// Modules that the kernel does not have built in, in the order in which they
/// are loaded.
const MODULES: [&str; 6] = [
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
    "evdev",
    "button",
];

/// Finds the root file system by its UUID and goes on in it.
const INITRAMFS: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in failover net_failover virtio_net virtio_blk evdev button; do
  insmod /modules/$module.ko
done
for word in $(cat /proc/cmdline); do case $word in root=*) root=${word#root=} ;; esac; done
while ! device=$(findfs $root); do sleep 0.1; done
mount -t ext4 -o ro $device /root
for folder in dev proc sys; do mount -o move /$folder /root/$folder; done
exec switch_root /root /sbin/init
"#;

/// Gets an address, serves what there is to serve, and ends by the button.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/run/bin
/bin/busybox mount -t tmpfs run /run; /bin/busybox mkdir /run/bin
/bin/busybox --install -s /run/bin
ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -s /etc/dhcp -q -n -t 20 -T 1
acpid -d &
[ -e /www/index.html ] && httpd -p 80 -h /www
echo "the small system is up"
while :; do sleep 3600; done
"#;

/// What udhcpc has found out is made so.
const DHCP: &str = r#"#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip address add $ip/${mask:-24} dev $interface
for gateway in $router; do
  ip route add $gateway dev $interface 2>/dev/null
  ip route add default via $gateway
done
"#;

const POWER_OFF: &str = "#!/bin/busybox sh\nexec poweroff -f\n";

/// What is taken from the Debian image.
#[derive(Default)]
struct Taken {
    release: String,
    kernel: Vec<u8>,
    modules: Vec<(&'static str, Vec<u8>)>,
}

/// The tags of the images, and the pages that they serve.
const PAGES: [(&str, Option<&str>); 4] = [
    ("1", Some("hello from bootwright, version 1\n")),
    ("2", Some("hello from bootwright, version 2\n")),
    ("deaf", Some("hello from who does not hear\n")),
    ("silent", None),
];

/// Makes the images; returns the layout's folder, in which their tags are `1`,
/// `2`, `deaf` and `silent`.
pub(crate) fn make() -> Result<PathBuf> {
    let taken = take(&image::debian()?)?;
    let root = packages::unpack("small", &["busybox-static"])?;
    let busybox = fs::read(root.join("usr/bin/busybox")).context("no busybox")?;
    let initramfs = initramfs(&taken, &busybox);
    let dir = paths::product("image-small");
    let mut layout = Layout::new(&dir)?;
    for (tag, page) in PAGES {
        let mut files = Files::default();
        for folder in ["dev", "proc", "run", "sys", "www"] {
            files.add(&format!("{folder}/.keep"), 0o644, Vec::new());
        }
        files.add("bin/busybox", 0o755, busybox.clone());
        files.add("sbin/init", 0o755, INIT.into());
        files.add("etc/dhcp", 0o755, DHCP.into());
        if tag != "deaf" {
            files.add("etc/acpi/PWRF/00000080", 0o755, POWER_OFF.into());
        }
        files.add("etc/os-release", 0o644, b"ID=small\nNAME=small\n".into());
        let modules = format!("usr/lib/modules/{}", taken.release);
        files.add(&format!("{modules}/vmlinuz"), 0o644, taken.kernel.clone());
        files.add(
            &format!("{modules}/initramfs.img"),
            0o644,
            initramfs.clone(),
        );
        if let Some(page) = page {
            files.add("www/index.html", 0o644, page.into());
        }
        layout.add(&Image {
            tag,
            architecture: ARCHITECTURE,
            layers: vec![files.tar()?],
            config: json!({
                "Entrypoint": ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"],
            }),
        })?;
    }
    layout.finish()?;
    Ok(dir)
}

fn initramfs(taken: &Taken, busybox: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    archive.file("bin/busybox", 0o755, busybox);
    archive.file("init", 0o755, INITRAMFS.as_bytes());
    for (name, module) in &taken.modules {
        archive.file(&format!("modules/{name}.ko"), 0o644, module);
    }
    archive.finish()
}

/// Takes the kernel and the modules from the layers of an image.
fn take(image: &image::Image) -> Result<Taken> {
    let blob = |descriptor: &Value| -> Result<File> {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let path = image
            .layout
            .join("blobs")
            .join(digest.replacen(':', "/", 1));
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    };
    let index = fs::read(image.layout.join("index.json"))?;
    let index: Value = serde_json::from_slice(&index)?;
    let manifest: Value = serde_json::from_reader(blob(&index["manifests"][0])?)?;
    let mut taken = Taken::default();
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let layer = flate2::read::GzDecoder::new(blob(layer)?);
        for entry in tar::Archive::new(layer).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let Some((_, below)) = path.split_once("usr/lib/modules/") else {
                continue;
            };
            let name = below.rsplit('/').next().unwrap_or_default();
            if name == "vmlinuz" {
                taken.release = below.split('/').next().unwrap_or_default().to_owned();
                entry.read_to_end(&mut taken.kernel)?;
            } else if let Some(name) = MODULES
                .into_iter()
                .find(|module| name.strip_suffix(".ko.xz") == Some(*module))
            {
                let mut packed = tempfile::NamedTempFile::new()?;
                std::io::copy(&mut entry, &mut packed)?;
                let (sh, path) = (Shell::new()?, packed.path());
                let unpacked = proc::output(cmd!(sh, "xz --decompress --stdout {path}"))?;
                taken.modules.push((name, unpacked.stdout));
            }
        }
    }
    if taken.kernel.is_empty() || taken.modules.len() != MODULES.len() {
        bail!("{} has not the kernel and its modules", image.reference);
    }
    Ok(taken)
}
