//! Where the bytes of a format go, in order.
//!
//! Every format writes through [`Output`]: bytes, zeros and parts of the
//! disk, one after the other. A file keeps zeros as holes and takes what it
//! can from the source files in the kernel, which shares the blocks on file
//! systems that can (btrfs, XFS) and saves a copy on others; a device clears
//! ranges; a stream gets every byte.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    Advice, FallocateFlags, Mode, OFlags, copy_file_range, fadvise, fallocate, open, seek,
};
use rustix::io::Errno;

use super::staged::Staged;
use super::{Format, Monitor, Options, SinkError};
use crate::reader::{FileRun, ReadAt, Run};
use crate::zero::{ZEROS, is_zero};

/// What is read and written at once, and how often the caller may stop us.
const CHUNK: usize = 1 << 20;

/// What the kernel copies at once.
const KERNEL_CHUNK: u64 = 16 << 20;

/// How much may be dirty before the kernel is asked to write it: with the
/// disk busy from the start, the final sync has little left to wait for.
const WRITE_BACK: u64 = 16 << 20;

/// What a device clears at once.
const CLEAR_CHUNK: u64 = 256 << 20;

/// The unit of holes.
const BLOCK: usize = 4096;

/// A sequential target with a position.
pub(super) struct Output<'a> {
    to: Kind<'a>,
    name: String,
    position: u64,
    /// Up to where the kernel was asked to write.
    written_back: u64,
    /// Whether the kernel can still be expected to copy between files.
    kernel_copies: bool,
    buffer: Vec<u8>,
    monitor: Monitor<'a>,
}

enum Kind<'a> {
    File(Staged),
    /// A file without a name that is streamed when it is finished.
    Spool(File, Box<dyn Write + 'a>),
    Device(File),
    Stream(Box<dyn Write + 'a>),
}

impl<'a> Output<'a> {
    /// A file that appears at `path` when the output is finished.
    pub(super) fn file(
        path: &Path,
        options: &Options,
        monitor: Monitor<'a>,
    ) -> Result<Self, SinkError> {
        // Told before the work instead of after it; commit decides.
        if !options.force && path.symlink_metadata().is_ok() {
            return Err(SinkError::Exists(path.into()));
        }
        let name = path.display().to_string();
        let staged = Staged::create(path).map_err(|e| SinkError::io(name.as_str(), e))?;
        Ok(Self::new(Kind::File(staged), name, true, monitor))
    }

    /// A block device of at least `size` bytes that nobody uses.
    pub(super) fn device(
        path: &Path,
        format: Format,
        size: u64,
        monitor: Monitor<'a>,
    ) -> Result<Self, SinkError> {
        let name = path.display().to_string();
        if format != Format::Raw {
            let reason = format!("{name} is a block device, which takes raw only");
            return Err(SinkError::Format { format, reason });
        }
        // EXCL on a block device: nobody has it mounted or claimed.
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let mut device: File = match open(path, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(Errno::BUSY) => return Err(SinkError::DeviceBusy(path.into())),
            Err(e) => return Err(SinkError::io(name, e.into())),
        };
        let device_size = device
            .seek(SeekFrom::End(0))
            .map_err(|e| SinkError::io(name.as_str(), e))?;
        if device_size < size {
            return Err(SinkError::DeviceTooSmall {
                path: path.into(),
                size: device_size,
                needed: size,
            });
        }
        Ok(Self::new(Kind::Device(device), name, false, monitor))
    }

    /// Anything that takes bytes in order.
    pub(super) fn stream(stream: Box<dyn Write + 'a>, monitor: Monitor<'a>) -> Self {
        Self::new(Kind::Stream(stream), "output".into(), false, monitor)
    }

    /// The same for a format whose start is known last: it waits in a file in
    /// the directory for temporary files.
    pub(super) fn spooled(
        stream: Box<dyn Write + 'a>,
        monitor: Monitor<'a>,
    ) -> Result<Self, SinkError> {
        let file = tempfile::tempfile().map_err(|e| SinkError::io("a temporary file", e))?;
        let to = Kind::Spool(file, stream);
        Ok(Self::new(to, "output".into(), true, monitor))
    }

    fn new(to: Kind<'a>, name: String, kernel_copies: bool, monitor: Monitor<'a>) -> Self {
        Self {
            to,
            name,
            position: 0,
            written_back: 0,
            kernel_copies,
            buffer: Vec::new(),
            monitor,
        }
    }

    /// Whom to tell and ask.
    pub(super) fn monitor(&self) -> Monitor<'a> {
        self.monitor
    }

    /// The file, if this writes one.
    fn as_file(&self) -> Option<&File> {
        match &self.to {
            Kind::File(staged) => Some(&staged.file),
            Kind::Spool(file, _) => Some(file),
            Kind::Device(_) | Kind::Stream(_) => None,
        }
    }

    /// How many bytes came before.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Writes `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let done = match &mut self.to {
            Kind::File(Staged { file, .. }) | Kind::Spool(file, _) | Kind::Device(file) => {
                file.write_all_at(bytes, self.position)
            }
            Kind::Stream(stream) => stream.write_all(bytes),
        };
        done.map_err(|e| SinkError::io(self.name.as_str(), e))?;
        self.position += bytes.len() as u64;
        self.write_back(WRITE_BACK);
        Ok(())
    }

    /// Writes `bytes` over the start of a file.
    ///
    /// # Errors
    /// Also if this is a stream, which has forgotten its start: such formats
    /// are [`spooled`](Self::spooled).
    pub(super) fn patch(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let done = match self.as_file() {
            Some(file) => file.write_all_at(bytes, 0),
            None => Err(io::ErrorKind::NotSeekable.into()),
        };
        done.map_err(|e| SinkError::io(self.name.as_str(), e))
    }

    /// Writes `len` zeros, as a hole where the target has them.
    pub(super) fn zeros(&mut self, len: u64) -> Result<(), SinkError> {
        let end = self.position + len;
        match &self.to {
            Kind::File(_) | Kind::Spool(..) => self.position = end,
            Kind::Device(_) => {
                while self.position < end {
                    self.monitor.check()?;
                    self.clear((end - self.position).min(CLEAR_CHUNK))?;
                }
            }
            Kind::Stream(_) => self.write_zeros(len)?,
        }
        Ok(())
    }

    fn write_zeros(&mut self, len: u64) -> Result<(), SinkError> {
        let mut left = len;
        while let Some(zeros) = ZEROS
            .get(..left.min(ZEROS.len() as u64) as usize)
            .filter(|z| !z.is_empty())
        {
            self.monitor.check()?;
            self.write(zeros)?;
            left -= zeros.len() as u64;
        }
        Ok(())
    }

    /// Clears the next `len` bytes of a device, by discarding them where that
    /// leaves zeros, or else by writing.
    fn clear(&mut self, len: u64) -> Result<(), SinkError> {
        let Kind::Device(device) = &self.to else {
            return self.write_zeros(len);
        };
        let ways = [
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        ];
        for way in ways {
            match fallocate(device, way, self.position, len) {
                Ok(()) => {
                    self.position += len;
                    return Ok(());
                }
                // No such operation, or not with this alignment.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV | Errno::NOSYS) => {}
                Err(e) => return Err(SinkError::io(self.name.as_str(), e.into())),
            }
        }
        self.write_zeros(len)
    }

    /// Writes the disk's bytes in `range`.
    pub(super) fn copy(&mut self, disk: &dyn ReadAt, range: Range<u64>) -> Result<(), SinkError> {
        let mut at = range.start;
        while at < range.end {
            let run = disk.next_run(at..range.end).map_err(SinkError::Read)?;
            match run {
                Run::File(run) if self.kernel_copies => {
                    let done = self.copy_file(disk, &run)?;
                    at += done;
                    if done < run.len {
                        self.copy_read(disk, at..at + (run.len - done))?;
                        at += run.len - done;
                    }
                }
                Run::File(FileRun { len, .. }) | Run::Read(len) => {
                    self.copy_read(disk, at..at + len)?;
                    at += len;
                }
            }
        }
        Ok(())
    }

    /// Has the kernel copy a run; returns how much of it the kernel did.
    fn copy_file(&mut self, disk: &dyn ReadAt, run: &FileRun) -> Result<u64, SinkError> {
        let mut done = 0;
        // Up to where of the run the file is known to have data.
        let mut data = 0;
        while done < run.len {
            self.monitor.check()?;
            if done == data {
                let left = run.len - done;
                match hole_or_data(&run.file, run.offset + done, left) {
                    Next::Hole(len) => {
                        self.zeros(len)?;
                        self.monitor.done(len);
                        done += len;
                        data = done;
                        continue;
                    }
                    Next::Data(len) => data = done + len,
                }
            }
            let Some(file) = self.as_file() else {
                break;
            };
            let (mut from, mut to) = (run.offset + done, self.position);
            let len = (data - done).min(KERNEL_CHUNK);
            match copy_file_range(
                &*run.file,
                Some(&mut from),
                file,
                Some(&mut to),
                len as usize,
            ) {
                Ok(n) if n > 0 => {
                    done += n as u64;
                    self.position += n as u64;
                    self.monitor.done(n as u64);
                    self.write_back(WRITE_BACK);
                }
                Err(Errno::INTR) => {}
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(SinkError::io(self.name.as_str(), e.into()));
                }
                // The file is shorter than it was, the two file systems
                // cannot copy to each other, or something is broken: reading
                // and writing works or says what is wrong.
                Ok(_) | Err(_) => {
                    self.kernel_copies = false;
                    break;
                }
            }
        }
        disk.check_run(run).map_err(SinkError::Read)?;
        Ok(done)
    }

    fn copy_read(&mut self, disk: &dyn ReadAt, range: Range<u64>) -> Result<(), SinkError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK, 0);
        let mut at = range.start;
        while at < range.end {
            self.monitor.check()?;
            // Up to a multiple of the chunk, so that the next one starts on
            // a block again.
            let end = ((at / CHUNK as u64 + 1) * CHUNK as u64).min(range.end);
            let part = &mut buffer[..(end - at) as usize];
            disk.read_exact_at(at, part).map_err(SinkError::Read)?;
            self.write_data(part)?;
            self.monitor.done(end - at);
            at = end;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Writes bytes that may have blocks of zeros among them.
    fn write_data(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        if self.as_file().is_none() {
            return self.write(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            // Holes are whole blocks of the file: cut where those start.
            let head = BLOCK - (self.position % BLOCK as u64) as usize;
            let mut end = 0;
            let zero = is_zero(&rest[..head.min(rest.len())]);
            while end < rest.len() {
                let next = (if end == 0 { head } else { end + BLOCK }).min(rest.len());
                if is_zero(&rest[end..next]) != zero {
                    break;
                }
                end = next;
            }
            let (run, tail) = rest.split_at(end);
            if zero {
                self.zeros(run.len() as u64)?;
            } else {
                self.write(run)?;
            }
            rest = tail;
        }
        Ok(())
    }

    /// Has the kernel start to write what is older than `lag` bytes.
    fn write_back(&mut self, lag: u64) {
        let Kind::File(staged) = &self.to else {
            return;
        };
        let len = self.position.saturating_sub(self.written_back);
        if len < lag {
            return;
        }
        // "Not needed" starts the writing of dirty pages and keeps them while
        // that lasts. It is a hint: whether it was taken does not matter.
        let _ = fadvise(
            &staged.file,
            self.written_back,
            NonZeroU64::new(len),
            Advice::DontNeed,
        );
        self.written_back = self.position;
    }

    /// Ends the output: a file gets its length and its name. Returns how
    /// long it is.
    pub(super) fn finish(self, options: &Options) -> Result<u64, SinkError> {
        self.monitor.check()?;
        let done = match self.to {
            Kind::File(staged) => staged
                .file
                .set_len(self.position)
                .and_then(|()| staged.commit(options.force, options.sync)),
            Kind::Device(device) if options.sync => device.sync_all(),
            Kind::Device(_) => Ok(()),
            Kind::Spool(mut file, mut stream) => file
                .set_len(self.position)
                .and_then(|()| file.rewind())
                .and_then(|()| io::copy(&mut file, &mut stream))
                .and_then(|_| stream.flush()),
            Kind::Stream(mut stream) => stream.flush(),
        };
        match done {
            Ok(()) => Ok(self.position),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(SinkError::Exists(self.name.into()))
            }
            Err(e) => Err(SinkError::io(self.name, e)),
        }
    }
}

/// What a file has at a place.
enum Next {
    Hole(u64),
    Data(u64),
}

/// Whether there is a hole or data in the `len` bytes from `offset` on, and
/// how long that is. Where the file system cannot tell, all is data. A file
/// that is shorter than it was counts as a hole, too: its run is checked after
/// it was copied.
fn hole_or_data(file: &File, offset: u64, len: u64) -> Next {
    let end = offset + len;
    match seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Next::Hole(data.min(end) - offset),
        Ok(_) => match seek(file, rustix::fs::SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => Next::Data(hole.min(end) - offset),
            Ok(_) | Err(_) => Next::Data(len),
        },
        Err(Errno::NXIO) => Next::Hole(len),
        Err(_) => Next::Data(len),
    }
}
