//! The names of the formats.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A file format for disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The disk's bytes as they are; zeros are holes where the target has
    /// them.
    Raw,
    /// QEMU's format, version 3.
    Qcow2,
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
    pub const ALL: &[Format] = &[Format::Raw, Format::Qcow2];

    /// The format's name, as `--format` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// One line on what the format is for.
    pub fn about(self) -> &'static str {
        match self {
            Self::Raw => "the bytes of the disk, sparse",
            Self::Qcow2 => "QEMU, KVM and OpenStack; can be compressed",
        }
    }

    /// The format that a file's name asks for by its extension, if it does.
    pub fn from_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "raw" | "img" => Self::Raw,
            "qcow2" => Self::Qcow2,
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
            .find(|f| f.name() == name)
            .ok_or_else(|| UnknownFormat { name: name.into() })
    }
}
