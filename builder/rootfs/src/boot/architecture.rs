//! The machines a disk can be built for.
//!
//! Every standard has names of its own for them; an [`Architecture`] knows
//! them all. It comes from the image's platform, never from the machine that
//! builds.

use std::fmt;

/// A 64-bit machine with UEFI firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86-64, OCI `amd64`.
    X86_64,
    /// 64-bit ARM, OCI `arm64`.
    Aarch64,
    /// 64-bit RISC-V, OCI `riscv64`.
    Riscv64,
    /// 64-bit LoongArch, OCI `loong64`.
    LoongArch64,
}

/// An image is for a machine that no disk can be built for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "no bootable disk can be built for architecture {0:?}; there is support for amd64, arm64, riscv64 and loong64"
)]
pub struct UnknownArchitecture(pub String);

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 4] = [
        Architecture::X86_64,
        Architecture::Aarch64,
        Architecture::Riscv64,
        Architecture::LoongArch64,
    ];

    /// From the `architecture` of an OCI image's config, which takes Go's
    /// names (OCI image specification, "Properties" of the image config).
    ///
    /// # Errors
    /// Another machine than the ones in [`Architecture::ALL`].
    pub fn from_oci(name: &str) -> Result<Self, UnknownArchitecture> {
        Self::ALL
            .into_iter()
            .find(|a| a.oci() == name)
            .ok_or_else(|| UnknownArchitecture(name.to_owned()))
    }

    /// Go's and the OCI image specification's name.
    pub fn oci(self) -> &'static str {
        self.names().oci
    }

    /// Rust's name, which `match-architectures` of bootc's kargs.d takes.
    pub fn rust(self) -> &'static str {
        self.names().rust
    }

    /// The suffix of the removable boot path, lower case, also the value of
    /// `architecture` in a loader entry (UEFI 2.10, 3.5.1.1; UAPI.1).
    pub fn efi(self) -> &'static str {
        self.names().efi
    }

    /// Path in the ESP of what firmware starts when nothing else is
    /// configured, such as `EFI/BOOT/BOOTX64.EFI` (UEFI 2.10, 3.5.1.1).
    pub fn removable_path(self) -> String {
        format!("EFI/BOOT/BOOT{}.EFI", self.efi().to_ascii_uppercase())
    }

    /// File name of systemd's boot loader for this machine.
    pub fn systemd_boot(self) -> String {
        format!("systemd-boot{}.efi", self.efi())
    }

    /// File name of systemd's stub of unified kernel images.
    pub fn systemd_stub(self) -> String {
        format!("linux{}.efi.stub", self.efi())
    }

    /// `Machine` of a PE file for this machine (UEFI 2.10, 2.1.1).
    pub fn pe_machine(self) -> u16 {
        self.names().pe_machine
    }

    /// Value of `console=` for the first serial port of a virtual machine.
    pub fn serial_console(self) -> &'static str {
        self.names().serial
    }

    /// Longest kernel command line in bytes without the NUL that ends it:
    /// `COMMAND_LINE_SIZE - 1` in Linux' `arch/*/include/uapi/asm/setup.h`.
    pub fn command_line_max(self) -> usize {
        self.names().command_line_size - 1
    }

    fn names(self) -> &'static Names {
        match self {
            Self::X86_64 => &Names {
                oci: "amd64",
                rust: "x86_64",
                efi: "x64",
                pe_machine: 0x8664,
                serial: "ttyS0,115200",
                command_line_size: 2048,
            },
            Self::Aarch64 => &Names {
                oci: "arm64",
                rust: "aarch64",
                efi: "aa64",
                pe_machine: 0xaa64,
                serial: "ttyAMA0,115200",
                command_line_size: 2048,
            },
            Self::Riscv64 => &Names {
                oci: "riscv64",
                rust: "riscv64",
                efi: "riscv64",
                pe_machine: 0x5064,
                serial: "ttyS0,115200",
                command_line_size: 1024,
            },
            Self::LoongArch64 => &Names {
                oci: "loong64",
                rust: "loongarch64",
                efi: "loongarch64",
                pe_machine: 0x6264,
                serial: "ttyS0,115200",
                command_line_size: 4096,
            },
        }
    }
}

struct Names {
    oci: &'static str,
    rust: &'static str,
    efi: &'static str,
    pe_machine: u16,
    serial: &'static str,
    command_line_size: usize,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oci())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_name_leads_to_all_the_others() {
        let table = Architecture::ALL.map(|a| {
            assert_eq!(Architecture::from_oci(a.oci()), Ok(a));
            (a.rust(), a.removable_path(), a.systemd_stub())
        });
        let row = |rust, path: &str, stub: &str| (rust, path.to_owned(), stub.to_owned());
        assert_eq!(
            table,
            [
                row("x86_64", "EFI/BOOT/BOOTX64.EFI", "linuxx64.efi.stub"),
                row("aarch64", "EFI/BOOT/BOOTAA64.EFI", "linuxaa64.efi.stub"),
                row(
                    "riscv64",
                    "EFI/BOOT/BOOTRISCV64.EFI",
                    "linuxriscv64.efi.stub"
                ),
                row(
                    "loongarch64",
                    "EFI/BOOT/BOOTLOONGARCH64.EFI",
                    "linuxloongarch64.efi.stub"
                ),
            ]
        );
        assert!(Architecture::from_oci("s390x").is_err());
    }
}
