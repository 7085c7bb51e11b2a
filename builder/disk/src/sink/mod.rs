//! Sinks: a disk written out as a file, to a device or into a stream.
//!
//! [`write()`] takes any disk that can be read ([`ReadAt`]), mostly a plan, and
//! writes it in a [`Format`] to a [`Target`] in one pass. A file appears under
//! its name whole and synced or not at all; what is written depends on the
//! disk and the [`Options`] alone, not on the clock, the host or the number
//! of threads.

mod compress;
mod format;
mod gce;
mod output;
mod parallel;
mod qcow2;
mod raw;
mod staged;
mod units;
mod vhd;
mod vhdx;
mod vmdk;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::num::NonZero;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

pub use format::{Format, UnknownFormat};

use crate::ids::Ids;
use crate::reader::{self, ReadAt};
use output::Output;

/// Where a disk is written.
pub enum Target<'a> {
    /// A file, which must not exist unless [`Options::force`], or a block
    /// device, which must not be in use.
    Path(PathBuf),
    /// Anything that takes bytes in order.
    Stream(Box<dyn Write + 'a>),
}

impl Target<'_> {
    /// The standard output.
    ///
    /// # Errors
    /// [`SinkError::Terminal`] if that is a terminal.
    pub fn stdout() -> Result<Self, SinkError> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(SinkError::Terminal);
        }
        // Not through std's buffer: it looks for line ends in every byte.
        let file =
            rustix::io::dup(&stdout).map_err(|e| SinkError::io("standard output", e.into()))?;
        Ok(Self::Stream(Box::new(std::fs::File::from(file))))
    }

    /// What `-o PATH` means: `-` is the standard output.
    ///
    /// # Errors
    /// As for [`Target::stdout`].
    pub fn from_path(path: &Path) -> Result<Self, SinkError> {
        if path == Path::new("-") {
            Self::stdout()
        } else {
            Ok(Self::Path(path.to_owned()))
        }
    }
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// How a disk is written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Replace an existing file. Default: no.
    pub force: bool,
    /// Wait until a file is on the disk below before it gets its name.
    /// Default: yes.
    pub sync: bool,
    /// How the contents are compressed, if the format leaves that open
    /// ([`Format::compressions`]). Default: as little as it can be.
    pub compression: Compression,
    /// Size of a qcow2's clusters in bytes: a power of two from 512 to 2 MiB.
    /// Default: 64 KiB.
    pub cluster_size: u32,
    /// On how many threads to compress. Changes no byte of the result.
    /// Default: as many as the machine has.
    pub threads: usize,
}

/// How a disk's contents are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all, or as the format does anyway.
    #[default]
    None,
    /// Deflate, which every reader knows.
    Zlib,
    /// zstd: smaller and much faster; a qcow2 needs QEMU 5.1 then.
    Zstd,
}

impl Compression {
    /// Its name, as `--compress` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            force: false,
            sync: true,
            compression: Compression::None,
            cluster_size: 64 << 10,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
        }
    }
}

/// What a sink wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Size of the disk in bytes, as a machine sees it.
    pub disk_size: u64,
    /// How many of them may be something other than zeros.
    pub data: u64,
    /// Length in bytes of the file, or of what went into the stream.
    pub length: u64,
}

/// Why a disk was not written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file exists.
    #[error("{} exists; give --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The name is not one that a disk can have.
    #[error("{} is {what}; name a file or a block device", .path.display())]
    NotAFile {
        /// The name.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Standard output is a terminal.
    #[error("a disk is not written to a terminal; redirect the output or name a file")]
    Terminal,
    /// No space is left where the file goes.
    #[error("no space left for {to}: {needed} bytes of content have to be written")]
    NoSpace {
        /// The file or device.
        to: String,
        /// Bytes of content.
        needed: u64,
    },
    /// The file would be longer than files can be there.
    #[error(
        "{to} cannot become as long as it has to: its file system, or a limit set with ulimit -f, does not allow it"
    )]
    TooLong {
        /// The file.
        to: String,
    },
    /// The block device is too small.
    #[error("{} has {size} bytes, the disk needs {needed}", .path.display())]
    DeviceTooSmall {
        /// The device.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The disk's size in bytes.
        needed: u64,
    },
    /// The block device is mounted or used by something else.
    #[error("{} is in use: unmount it or stop what uses it first", .0.display())]
    DeviceBusy(PathBuf),
    /// The format cannot hold the disk, or not with these options.
    #[error("{format}: {reason}")]
    Format {
        /// The format.
        format: Format,
        /// Why, and what would do.
        reason: String,
    },
    /// The compressor failed; a defect of it.
    #[error("cannot compress: {0}")]
    Compress(#[source] io::Error),
    /// The disk could not be read.
    #[error("{0}")]
    Read(#[source] io::Error),
    /// The target could not be written.
    #[error("{to}: {error}")]
    Write {
        /// The file, device or stream.
        to: String,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl SinkError {
    fn io(to: impl Into<String>, error: io::Error) -> Self {
        Self::Write {
            to: to.into(),
            error,
        }
    }
}

/// What a sink tells its caller and what it is told while it works.
#[derive(Clone, Copy)]
struct Monitor<'a> {
    progress: &'a (dyn Fn(u64) + Sync),
    cancel: &'a AtomicBool,
}

impl Monitor<'_> {
    /// Ends the work if the caller wants it; asked every few megabytes.
    fn check(&self) -> Result<(), SinkError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(SinkError::Cancelled);
        }
        Ok(())
    }

    fn done(&self, bytes: u64) {
        (self.progress)(bytes);
    }
}

impl fmt::Debug for Monitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

/// Writes `disk` to `target`.
///
/// `progress` is told how many more bytes of the disk's data
/// ([`reader::data_len`] of them) are done, from any thread. When `cancel`
/// becomes true, the sink stops soon, with [`SinkError::Cancelled`].
///
/// # Errors
/// See [`SinkError`]. No file is left behind, and one that was to be replaced
/// is as it was; a device or a stream holds what was written so far.
pub fn write(
    disk: &dyn ReadAt,
    target: Target<'_>,
    format: Format,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Report, SinkError> {
    check(disk.size(), format, options)?;
    let data = reader::data_len(disk).map_err(SinkError::Read)?;
    let monitor = Monitor { progress, cancel };
    monitor.check()?;
    let mut output = match target {
        Target::Stream(stream) if needs_patch(format, options) => Output::spooled(stream, monitor)?,
        Target::Stream(stream) => Output::stream(stream, monitor),
        Target::Path(path) => match what_is(&path)? {
            Place::Device => Output::device(&path, format, disk.size(), monitor)?,
            Place::File => Output::file(&path, options, monitor)?,
        },
    };
    let written = match format {
        Format::Raw => raw::write(disk, &mut output),
        Format::Qcow2 => qcow2::write(disk, &mut output, options),
        Format::Vmdk => vmdk::write(disk, &mut output, options.threads),
        Format::Vhd => vhd::write_dynamic(disk, &mut output),
        Format::VhdFixed => vhd::write_fixed(disk, &mut output),
        Format::Vhdx => vhdx::write(disk, &mut output),
        Format::Gce => gce::write(disk, &mut output, options.threads),
    };
    let length = written
        .and_then(|()| output.finish(options))
        .map_err(|error| match error {
            SinkError::Write { to, error } if is_full(&error) => {
                SinkError::NoSpace { to, needed: data }
            }
            SinkError::Write { to, error } if error.kind() == io::ErrorKind::FileTooLarge => {
                SinkError::TooLong { to }
            }
            error => error,
        })?;
    Ok(Report {
        disk_size: disk.size(),
        data,
        length,
    })
}

/// Refuses what the format cannot hold.
fn check(size: u64, format: Format, options: &Options) -> Result<(), SinkError> {
    let bad = |reason| Err(SinkError::Format { format, reason });
    let unit = format.size_unit();
    if !size.is_multiple_of(unit) {
        return bad(format!("a disk is a multiple of {unit} bytes, not {size}"));
    }
    let max = format.max_size();
    if size > max {
        return bad(format!("a disk has at most {max} bytes, not {size}"));
    }
    if size == 0 && !matches!(format, Format::Raw | Format::Qcow2) {
        return bad("a disk of no bytes cannot be told in it".into());
    }
    let compression = options.compression;
    if compression != Compression::None && !format.compressions().contains(&compression) {
        return bad(format!(
            "contents are not compressed with {}",
            compression.name()
        ));
    }
    Ok(())
}

/// The identifiers of a disk for formats that have their own: they follow
/// from its size and its partition table (UEFI 2.10 section 5.3.1: the first
/// 34 sectors), whose GUIDs follow from the image and the options. Also a
/// stream needs them before the rest of the disk is read.
fn ids(disk: &dyn ReadAt) -> Result<Ids, SinkError> {
    const TABLE: u64 = 34 * 512;
    let mut table = vec![0; disk.size().min(TABLE) as usize];
    disk.read_exact_at(0, &mut table).map_err(SinkError::Read)?;
    let size = disk.size().to_le_bytes();
    Ok(Ids::new([b"bootwright disk file 1", &size, &table]))
}

/// Whether the start of the file depends on the rest.
fn needs_patch(format: Format, options: &Options) -> bool {
    format == Format::Qcow2 && options.compression != Compression::None
}

enum Place {
    File,
    Device,
}

fn what_is(path: &Path) -> Result<Place, SinkError> {
    let kind = match path.metadata() {
        Ok(metadata) => metadata.file_type(),
        // Also a symlink that leads nowhere: creating the file decides.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Place::File),
        Err(e) => return Err(SinkError::io(path.display().to_string(), e)),
    };
    let what = if kind.is_block_device() {
        return Ok(Place::Device);
    } else if kind.is_file() {
        return Ok(Place::File);
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "neither file nor device"
    };
    Err(SinkError::NotAFile {
        path: path.to_owned(),
        what,
    })
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
