//! Boot: from a tree to the files of the EFI system partition.
//!
//! [`prepare`] finds the kernel, the initramfs and a loader in the image,
//! composes the kernel command line and gives back a [`Boot`]: what is
//! started, how, and every file that the EFI system partition needs. Only
//! small files and headers are read; kernels and initramfs stay where they
//! are, as extents.

pub mod architecture;
pub mod bls;
pub mod command_line;
mod content;
pub mod discover;
mod esp;
mod grub;
pub mod grub_cfg;
pub mod kargs;
pub mod kernel;
pub mod os_release;
pub mod pe;
pub mod uki;
pub mod version;

use std::io;

use bootwright_disk::SourceReader;
use bytes::Bytes;
use uuid::Uuid;

pub use crate::fat::FatFile as EspFile;
pub use architecture::Architecture;
pub use kernel::{Initrd, Kernel};
pub use os_release::OsRelease;

use crate::tree::{FileContent, Tree, TreeError};
use command_line::{Argument, CommandLineError, Parts};
use kargs::KargsError;
use kernel::{Discovered, KernelError, Unified};

/// Largest os-release file that is read, in bytes.
const MAX_OS_RELEASE: u64 = 64 * 1024;

/// How a disk is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Whatever suits the image best:
    /// 1. the unified kernel image that it brings along;
    /// 2. a UKI, if the user gave a stub but no loader;
    /// 3. loader entries, if there is a loader (given, or in the image);
    /// 4. a UKI, if there is a stub in the image;
    /// 5. shim and GRUB that start a kernel on the EFI system partition, if
    ///    the image has them for bootupd;
    /// 6. loader entries without a loader, which firmware cannot start.
    #[default]
    Auto,
    /// A unified kernel image (UAPI.5, and type #2 entries of UAPI.1).
    Uki,
    /// Kernel, initramfs and a loader entry (type #1 entries of UAPI.1).
    Bls,
    /// Nothing to start from; there is no EFI system partition.
    None,
}

/// A file of the host that the user gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its path, for messages.
    pub path: String,
    /// Its content.
    pub bytes: Bytes,
}

/// What the disk shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The machine, from the image's platform.
    pub architecture: Architecture,
    /// UUID of the root file system.
    pub root: Uuid,
    /// How it is started.
    pub mode: Mode,
    /// Kernel arguments to append (`--karg`).
    pub kargs: Vec<String>,
    /// Kernel arguments to delete (`--karg-delete`).
    pub delete_kargs: Vec<String>,
    /// The stub for a UKI (`--stub`) instead of the image's.
    pub stub: Option<Given>,
    /// The boot loader (`--loader`) instead of the image's.
    pub loader: Option<Given>,
}

/// What is started, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Kernel and initramfs; ranges of the UKI, if the image brings one.
    pub kernel: Kernel,
    /// What the image says it is.
    pub os_release: OsRelease,
    /// The kernel command line.
    pub command_line: String,
    /// The mode that was chosen; not [`Mode::Auto`].
    pub mode: Mode,
    /// Which program firmware starts: a path in the image, or of the host
    /// for what the user gave. None if firmware cannot start the disk.
    pub loader: Option<String>,
    /// The files of the EFI system partition in the order of their paths;
    /// none if there is to be no such partition.
    pub esp: Vec<EspFile>,
    /// What a boot menu shows.
    pub entries: Vec<bls::Entry>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why an image cannot be booted as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No kernel, or an unreadable one.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Bad kernel arguments.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// A bad file in kargs.d.
    #[error(transparent)]
    Kargs(#[from] KargsError),
    /// Symbolic links that loop.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A stub that cannot be used.
    #[error("{path}: {source}")]
    Stub {
        /// The stub.
        path: String,
        /// What is wrong.
        source: uki::UkiError,
    },
    /// A program for another machine, or none at all.
    #[error("{path} is no EFI program for {architecture}: {why}")]
    NotAProgram {
        /// The file.
        path: String,
        /// The machine that it should be for.
        architecture: Architecture,
        /// What is wrong.
        why: String,
    },
    /// A UKI was asked for, but there is nothing to make it of.
    #[error(
        "no stub for a unified kernel image: {0} is not in the image; add systemd's EFI programs to it (Debian: systemd-boot-efi), or give one with --stub"
    )]
    NoStub(String),
    /// The image has only a UKI, but something else was asked for.
    #[error(
        "the image has no kernel besides the unified kernel image {path}, which is used as it is: {what}"
    )]
    OnlyUnified {
        /// Its path.
        path: String,
        /// What cannot be had.
        what: &'static str,
    },
    /// A file of the image that should be small is not.
    #[error("{path} in the image has {len} bytes, more than {max}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its length in bytes.
        len: u64,
        /// What is read at most.
        max: u64,
    },
    /// A file of the image could not be read.
    #[error("{path} in the image: {source}")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// Decides how the image in `tree` boots and makes the files for it.
///
/// # Errors
/// See [`BootError`]; nothing is guessed when the user asked for something
/// that cannot be had.
pub fn prepare(tree: &Tree, reader: &SourceReader, options: &Options) -> Result<Boot, BootError> {
    let image = Image { tree, reader };
    let found = kernel::discover(tree, reader)?;
    let os_release = image.os_release()?;
    let composer = esp::Composer::new(image, options, &os_release)?;
    let mut warnings = found.warnings.clone();

    let wants_kernel = options.mode == Mode::Bls
        || options.stub.is_some()
        || !(options.kargs.is_empty() && options.delete_kargs.is_empty());
    let mut boot = match found {
        Discovered {
            kernel,
            unified: Some(unified),
            ..
        } if kernel.is_none() || !wants_kernel => {
            refuse_changes(&unified, options)?;
            composer.of_unified(unified)?
        }
        Discovered {
            kernel: Some(kernel),
            unified,
            ..
        } => {
            if let Some(unified) = unified {
                warnings.push(format!(
                    "{} is not used, because a unified kernel image cannot take other kernel arguments, stubs or entries; {} is booted instead",
                    unified.kernel.path, kernel.path
                ));
            }
            composer.of_parts(kernel)?
        }
        Discovered { .. } => return Err(KernelError::NoKernel.into()),
    };
    warnings.extend(kernel_warnings(&boot.kernel));
    warnings.append(&mut boot.warnings);
    boot.warnings = warnings;
    boot.os_release = os_release;
    boot.esp.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(boot)
}

fn refuse_changes(unified: &Unified, options: &Options) -> Result<(), BootError> {
    let what = if options.mode == Mode::Bls {
        "--boot bls needs a kernel of its own"
    } else if options.stub.is_some() {
        "--stub has no effect on it"
    } else if !options.kargs.is_empty() || !options.delete_kargs.is_empty() {
        "--karg and --karg-delete cannot change its command line"
    } else {
        return Ok(());
    };
    Err(BootError::OnlyUnified {
        path: unified.kernel.path.clone(),
        what,
    })
}

fn kernel_warnings(kernel: &Kernel) -> Vec<String> {
    /// More names than this are only counted.
    const NAMED: usize = 5;
    let mut warnings = Vec::new();
    if !kernel.passed_over.is_empty() {
        let names: Vec<_> = kernel.passed_over.iter().take(NAMED).cloned().collect();
        let more = match kernel.passed_over.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        warnings.push(format!(
            "the image has several kernels; {} is booted, passed over: {}{more}",
            kernel.version,
            names.join(", ")
        ));
    }
    if kernel.initrd.is_none() {
        warnings.push(format!(
            "kernel {} has no initramfs in the image; it boots only with all drivers built in",
            kernel.version
        ));
    }
    warnings
}

/// An image whose small files can be read.
#[derive(Debug, Clone, Copy)]
struct Image<'a> {
    tree: &'a Tree,
    reader: &'a SourceReader,
}

impl Image<'_> {
    /// The file at `path` unless it is missing or empty.
    fn file(&self, path: &str) -> Result<Option<&FileContent>, BootError> {
        Ok(kernel::file(self.tree, path.as_bytes())?)
    }

    /// Reads a small file of the image.
    fn read(&self, path: &str, max: u64) -> Result<Option<Bytes>, BootError> {
        let Some(content) = self.file(path)? else {
            return Ok(None);
        };
        if content.size > max {
            return Err(BootError::TooLarge {
                path: path.to_owned(),
                len: content.size,
                max,
            });
        }
        self.read_range(path, content, content.size).map(Some)
    }

    /// Reads the first `len` bytes of a content, or all of a shorter one.
    fn read_range(&self, path: &str, content: &FileContent, len: u64) -> Result<Bytes, BootError> {
        content::read(content, self.reader, 0..len)
            .map(Bytes::from)
            .map_err(|source| BootError::Read {
                path: path.to_owned(),
                source,
            })
    }

    /// os-release, from where os-release(5) says; empty if there is none.
    fn os_release(&self) -> Result<OsRelease, BootError> {
        for path in ["/etc/os-release", "/usr/lib/os-release"] {
            if let Some(text) = self.read(path, MAX_OS_RELEASE)? {
                return Ok(OsRelease::parse(&text));
            }
        }
        Ok(OsRelease::default())
    }

    /// What the image's kargs.d asks for, in the order of the file names.
    fn kargs(&self, architecture: Architecture) -> Result<Vec<Argument>, BootError> {
        let mut arguments = Vec::new();
        for name in kernel::names(self.tree, kargs::DIRECTORY.as_bytes())? {
            let Ok(name) = std::str::from_utf8(name) else {
                continue;
            };
            let path = format!("{}/{name}", kargs::DIRECTORY);
            if name.len() > ".toml".len()
                && name.ends_with(".toml")
                && let Some(text) = self.read(&path, kargs::MAX_SIZE)?
            {
                arguments.extend(kargs::parse(&path, &text, architecture)?);
            }
        }
        Ok(arguments)
    }

    fn command_line(&self, options: &Options) -> Result<command_line::Composed, BootError> {
        Ok(command_line::compose(Parts {
            architecture: options.architecture,
            root: options.root,
            image: &self.kargs(options.architecture)?,
            delete: &options.delete_kargs,
            append: &options.kargs,
        })?)
    }
}

#[cfg(test)]
mod tests;
