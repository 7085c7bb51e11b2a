//! Installing the Debian packages that the chores use.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::proc;

/// What packages are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Making images.
    Image,
    /// Booting disks.
    Boot,
    /// Checking what was written with the programs that own the formats.
    Referees,
    /// Running guests under an emulated machine's KVM.
    Lab,
    /// Starting a Kubernetes API server.
    Cluster,
    /// Starting a Kubernetes node.
    Node,
    /// Comparing with other programs.
    Bench,
}

impl Purpose {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[
        Self::Image,
        Self::Boot,
        Self::Referees,
        Self::Lab,
        Self::Cluster,
        Self::Node,
        Self::Bench,
    ];

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Image => &[
                "binutils",
                "buildah",
                "ca-certificates",
                "debian-archive-keyring",
                "mmdebstrap",
            ],
            Self::Boot => &[
                "openssh-client",
                "ovmf",
                "passt",
                "qemu-system-x86",
                "qemu-utils",
            ],
            Self::Referees => &[
                "7zip",
                "acl",
                "acpica-tools",
                "apache2-utils",
                "attr",
                "binutils",
                "bubblewrap",
                "buildah",
                "curl",
                "docker-registry",
                "dmidecode",
                "dosfstools",
                "e2fsprogs",
                "faketime",
                "fdisk",
                "gdisk",
                "iproute2",
                "libarchive-tools",
                "libcap2-bin",
                "libnbd-bin",
                "mtools",
                "openssl",
                "passt",
                "podman",
                "prometheus",
                "python3",
                "qemu-utils",
                "sbsigntool",
                "skopeo",
                "systemd-boot-efi",
                "uidmap",
                "umoci",
                "zstd",
            ],
            Self::Lab => &[
                "debian-archive-keyring",
                "dosfstools",
                "e2fsprogs",
                "gdisk",
                "mtools",
                "openssh-client",
                "passt",
                "qemu-system-x86",
                "qemu-utils",
                "xz-utils",
            ],
            Self::Cluster => &["openssl", "passt", "prometheus", "qemu-system-x86"],
            Self::Node => &[
                "docker-registry",
                "gcc",
                "iproute2",
                "iptables",
                "libc6-dev",
                "libseccomp-dev",
                "openssl",
                "pkgconf",
                "prometheus",
                "skopeo",
                "util-linux",
            ],
            Self::Bench => &[
                "docker-registry",
                "e2fsprogs",
                "qemu-utils",
                "skopeo",
                "umoci",
                "zstd",
            ],
        }
    }
}

/// Installs the packages that are missing: as root, else says how.
pub(crate) fn packages(purposes: &[Purpose]) -> Result<()> {
    let mut wanted: Vec<_> = purposes.iter().flat_map(|p| p.packages()).collect();
    wanted.sort();
    wanted.dedup();
    let mut missing = Vec::new();
    for package in wanted {
        if !installed(package)? {
            missing.push(*package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these packages are missing; install them and run this again:\n    \
             sudo apt-get install --no-install-recommends {list}"
        );
    }
    eprintln!("installing {list}");
    let sh = Shell::new()?;
    sh.set_var("DEBIAN_FRONTEND", "noninteractive");
    proc::run(cmd!(sh, "apt-get --quiet update"))?;
    proc::run(cmd!(
        sh,
        "apt-get --quiet --yes install --no-install-recommends {missing...}"
    ))
}

fn installed(package: &str) -> Result<bool> {
    let sh = Shell::new()?;
    let format = "${db:Status-Status}";
    let output = proc::output(cmd!(
        sh,
        "dpkg-query --show --showformat={format} {package}"
    ))?;
    Ok(output.status.success() && output.stdout == b"installed")
}
