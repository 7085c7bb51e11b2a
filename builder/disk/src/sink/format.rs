//! The names of the formats.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::Compression;

/// A file format for disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The disk's bytes as they are; zeros are holes where the target has
    /// them.
    Raw,
    /// QEMU's format, version 3.
    Qcow2,
    /// VMware's stream-optimised form: compressed, read by all its products.
    Vmdk,
    /// Microsoft's older format, blocks of zeros left out.
    Vhd,
    /// The same with every byte of the disk in its place.
    VhdFixed,
    /// Microsoft's newer format.
    Vhdx,
    /// A `disk.raw` in a gzipped tar, as Google Compute Engine imports it.
    Gce,
}

/// A format's name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no disk format; there are {known}", known = names())]
pub struct UnknownFormat {
    /// The name.
    pub name: String,
}

impl Format {
    /// All formats, in the order of the help.
    pub const ALL: &[Format] = &[
        Format::Raw,
        Format::Qcow2,
        Format::Vmdk,
        Format::Vhd,
        Format::VhdFixed,
        Format::Vhdx,
        Format::Gce,
    ];

    /// The format's name, as `--format` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::VhdFixed => "vhd-fixed",
            Self::Vhdx => "vhdx",
            Self::Gce => "gce",
        }
    }

    /// Another name that the format is known by.
    pub fn alias(self) -> Option<&'static str> {
        match self {
            // QEMU's name, for Virtual PC.
            Self::Vhd => Some("vpc"),
            _ => None,
        }
    }

    /// One line on what the format is for.
    pub fn about(self) -> &'static str {
        match self {
            Self::Raw => "the bytes of the disk, sparse",
            Self::Qcow2 => "QEMU, KVM and OpenStack; can be compressed",
            Self::Vmdk => "VMware and VirtualBox: stream-optimised, compressed with zlib",
            Self::Vhd => "Hyper-V of the first generation, XenServer: dynamic",
            Self::VhdFixed => "Azure: fixed, the bytes of the disk and a footer",
            Self::Vhdx => "Hyper-V",
            Self::Gce => "Google Compute Engine: disk.raw in a tar.gz; whole GiB",
        }
    }

    /// How the contents may be compressed; the first is what the format does
    /// when nobody asks for anything.
    pub fn compressions(self) -> &'static [Compression] {
        match self {
            Self::Qcow2 => &[Compression::None, Compression::Zlib, Compression::Zstd],
            Self::Vmdk | Self::Gce => &[Compression::Zlib],
            Self::Raw | Self::Vhd | Self::VhdFixed | Self::Vhdx => &[Compression::None],
        }
    }

    /// A disk in this format is a multiple of so many bytes.
    pub fn size_unit(self) -> u64 {
        match self {
            Self::Raw => 1,
            Self::Gce => 1 << 30,
            // Sectors.
            Self::Qcow2 | Self::Vmdk | Self::Vhd | Self::VhdFixed | Self::Vhdx => 512,
        }
    }

    /// The largest disk in bytes that the programs of the format take, where
    /// it does not depend on options.
    pub(super) fn max_size(self) -> u64 {
        match self {
            // Their tables decide.
            Self::Raw | Self::Qcow2 => u64::MAX,
            // vSphere's configuration maximum.
            Self::Vmdk => 62 << 40,
            // Virtual Hard Disk Image Format Specification; QEMU's
            // `VHD_MAX_SECTORS`.
            Self::Vhd | Self::VhdFixed => 2040 << 30,
            // MS-VHDX 2.6.2.2, Virtual Disk Size.
            Self::Vhdx => 64 << 40,
            // GNU tar and Go read sizes of 63 bits.
            Self::Gce => i64::MAX as u64,
        }
    }

    /// The format that a file's name asks for by its extension, if it does.
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        if name.ends_with(".tar.gz") {
            return Some(Self::Gce);
        }
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "raw" | "img" => Self::Raw,
            "qcow2" => Self::Qcow2,
            "vmdk" => Self::Vmdk,
            "vhd" => Self::Vhd,
            "vhdx" => Self::Vhdx,
            _ => return None,
        })
    }
}

fn names() -> String {
    let names: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
    names.join(", ")
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .iter()
            .copied()
            .find(|f| f.name() == name || f.alias() == Some(name))
            .ok_or_else(|| UnknownFormat { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_and_extensions_lead_to_the_format() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(*format));
        }
        assert_eq!("vpc".parse(), Ok(Format::Vhd));
        let error = "ova".parse::<Format>().map_err(|e| e.to_string());
        let text = "\"ova\" is no disk format; there are \
                    raw, qcow2, vmdk, vhd, vhd-fixed, vhdx, gce";
        assert_eq!(error, Err(text.into()));
        for (path, format) in [
            ("a.img", Some(Format::Raw)),
            ("a/b.QCOW2", Some(Format::Qcow2)),
            ("a.vmdk", Some(Format::Vmdk)),
            ("a.vhd", Some(Format::Vhd)),
            ("a.vhdx", Some(Format::Vhdx)),
            ("web-1.4.tar.gz", Some(Format::Gce)),
            ("a.gz", None),
            ("tar", None),
        ] {
            assert_eq!(Format::from_path(Path::new(path)), format, "{path}");
        }
    }
}
