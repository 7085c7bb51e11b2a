//! Disks of a machine, and the two views of a disk.
//!
//! The monitor works on a [`Backend`], which says where bytes lie; readers and
//! the NBD server work on [`ReadAt`] and [`WriteAt`], which move them.
//! [`FileBase`] makes the first of the second, [`Disk`] the second of the
//! first.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use bootwright_disk::nbd::WriteAt;
use bootwright_disk::reader::{self, DiskFormat, Run as ReaderRun};
use bootwright_disk::{PlanBuilder, ReadAt};
use bootwright_vmm::block::{
    self, Backend, BaseId, FileRun, HostFile, Limits, Overlay, PlanDisk, RawDisk, Run,
};
use bytes::Bytes;

use super::place::Place;
use super::spec::{self, Base, Writes};
use super::{qcow2, stored_plan};

/// The file of what a guest has written.
const OVERLAY: &str = "root.overlay";

/// The copy of a disk that could not be read where it was.
pub(crate) const COPY: &str = "root.raw";

/// What is read at once where bytes have to be read.
const CHUNK: u64 = 256 << 10;

/// The serial number of a machine's disk by its position.
pub(crate) fn serial(n: usize) -> String {
    match n {
        0 => "root".to_owned(),
        n => format!("disk{n}"),
    }
}

/// A disk that somebody made, to be read.
#[derive(Debug)]
struct FileBase {
    disk: reader::DiskFile,
    /// Holds the lock against writers.
    _locked: RawDisk,
    /// The file of the last run: most runs are of one.
    last: Mutex<Option<(Arc<std::fs::File>, Arc<HostFile>)>>,
}

impl FileBase {
    fn host_file(&self, file: &Arc<std::fs::File>) -> io::Result<Arc<HostFile>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, host)) = &*last
            && Arc::ptr_eq(known, file)
        {
            return Ok(Arc::clone(host));
        }
        let host = Arc::new(HostFile::new(file.try_clone()?, self.disk.path()));
        *last = Some((Arc::clone(file), Arc::clone(&host)));
        Ok(host)
    }
}

impl Backend for FileBase {
    fn size(&self) -> u64 {
        self.disk.size() / block::SECTOR * block::SECTOR
    }

    fn limits(&self) -> Limits {
        Limits {
            read_only: true,
            physical_block: 4096,
            discard: None,
        }
    }

    fn read(&self, range: Range<u64>) -> io::Result<Run> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 || range.end > self.size() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.disk.is_known_zero(range.clone()) {
            return Ok(Run::Zeros(len));
        }
        match self.disk.next_run(range.clone())? {
            ReaderRun::File(run) => Ok(Run::File(FileRun {
                file: self.host_file(&run.file)?,
                offset: run.offset,
                len: run.len.min(len),
                gaps: Vec::new(),
                sparse_end: false,
                source: None,
            })),
            ReaderRun::Read(some) => {
                let some = some.min(len).min(CHUNK);
                let mut bytes = vec![0; some as usize];
                self.disk.read_exact_at(range.start, &mut bytes)?;
                Ok(Run::Literal(Bytes::from(bytes)))
            }
        }
    }

    fn prepare_write(&self, _range: Range<u64>) -> io::Result<FileRun> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_zeroes(&self, _range: Range<u64>, _unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn discard(&self, _range: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A back end for those who want bytes.
#[derive(Debug)]
pub(crate) struct Disk(pub Arc<dyn Backend>);

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.0.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buf.is_empty() {
            return Ok(());
        }
        block::read_at(&*self.0, offset, buf)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.0.size();
        let mut at = from;
        while at < size {
            match self.0.read(at..size)? {
                Run::Zeros(len) => at += len,
                run => return Ok(Some(at..at + run.len())),
            }
        }
        Ok(None)
    }
}

impl WriteAt for Disk {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        block::write_at(&*self.0, offset, bytes)
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(range, unmap)
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.0.discard(range)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A disk of a machine, opened.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// The disk.
    pub disk: Arc<dyn Backend>,
    /// What the guest reads as its serial number.
    pub serial: String,
    /// Whether it still is what its plan says.
    pub fresh: bool,
    /// Folders of files that are opened when the guest reads them.
    pub folders: Vec<PathBuf>,
}

/// Opens a disk of the machine in `place`; `backing` as for [`open_base`].
pub(crate) fn open(
    disk: &spec::Disk,
    backing: &[PathBuf],
    place: &Place,
) -> anyhow::Result<Opened> {
    let opened = |backend: Arc<dyn Backend>, fresh, folders| Opened {
        disk: backend,
        serial: disk.serial.clone(),
        fresh,
        folders,
    };
    if disk.writes == Writes::Through {
        return Ok(opened(
            open_to_write(&disk.base, backing)?,
            false,
            Vec::new(),
        ));
    }
    let mut folders = Vec::new();
    let (base, id): (Arc<dyn Backend>, BaseId) = match &disk.base {
        Base::Plan(folder) => {
            let (plan, id) = stored_plan::load(folder)?;
            let disk = PlanDisk::new(plan).context(
                "if the layer was removed from the store, remove the machine and run the image again",
            )?;
            folders = disk.folders();
            (Arc::new(disk), id)
        }
        Base::File(path) => open_base(path, backing)?,
        Base::Raw(path) => {
            let raw = RawDisk::open(path, true)?;
            let id = raw.identity();
            let id = id.with_context(|| format!("cannot read {}", path.display()))?;
            (Arc::new(raw), id)
        }
        Base::Nothing => {
            let size = disk.size.context("an empty disk has a size")?;
            let plan = PlanBuilder::new(Vec::new()).finish(size)?;
            let id = BaseId::of_plan(&plan);
            (Arc::new(PlanDisk::new(plan)?), id)
        }
    };
    if disk.writes == Writes::Refused {
        return Ok(opened(base, true, folders));
    }
    let size = disk.size.unwrap_or_else(|| base.size());
    if size < base.size() {
        bail!(
            "--size: the disk has {} bytes already, and cannot be made smaller",
            base.size()
        );
    }
    if disk.writes == Writes::Dropped {
        let overlay = Overlay::ephemeral(Some(&place.state), base, size)?;
        return Ok(opened(Arc::new(overlay), true, folders));
    }
    let path = place.state.join(OVERLAY);
    let (overlay, fresh) = match path.try_exists()? {
        true => (Overlay::open(&path, base, id)?, false),
        false => (Overlay::create(&path, base, id, size)?, true),
    };
    Ok(opened(Arc::new(overlay), fresh, folders))
}

/// Opens a disk file that is not written, of whatever format; `backing` are the
/// files that a qcow2 may lie over.
pub(crate) fn open_base(
    path: &Path,
    backing: &[PathBuf],
) -> anyhow::Result<(Arc<dyn Backend>, BaseId)> {
    // Whatever the format, the file is locked as a raw one is.
    let raw = RawDisk::open(path, true)?;
    let id = raw
        .identity()
        .with_context(|| format!("cannot read {}", path.display()))?;
    if qcow2::is_qcow2(path)? {
        // Both hold the same lock, which readers share.
        return Ok((Arc::new(qcow2::open(path, true, backing)?), id));
    }
    let disk = reader::open_disk(path)?;
    if disk.format() == DiskFormat::Raw {
        return Ok((Arc::new(raw), id));
    }
    let base = FileBase {
        disk,
        _locked: raw,
        last: Mutex::default(),
    };
    Ok((Arc::new(base), id))
}

/// Opens what the guest itself writes to; `backing` as for [`open_base`].
fn open_to_write(base: &Base, backing: &[PathBuf]) -> anyhow::Result<Arc<dyn Backend>> {
    let path = match base {
        Base::Raw(path) => return Ok(Arc::new(RawDisk::open(path, false)?)),
        Base::File(path) => path,
        Base::Plan(_) | Base::Nothing => bail!("there is no file to write to"),
    };
    if qcow2::is_qcow2(path)? {
        return Ok(Arc::new(qcow2::open(path, false, backing)?));
    }
    match reader::open_disk(path)?.format() {
        DiskFormat::Raw => Ok(Arc::new(RawDisk::open(path, false)?)),
        other => bail!(
            "--disk {}: {} disks can only be read; add :ro, or convert it to raw or qcow2",
            path.display(),
            other.name()
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn a_disk_reads_what_was_written_and_the_rest_of_its_base() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.raw");
        fs::write(&path, vec![3; 1 << 20]).unwrap();
        let (base, _) = open_base(&path, &[]).unwrap();
        let disk = Disk(Arc::new(Overlay::ephemeral(None, base, 4 << 20).unwrap()));
        disk.write_all_at(4096, &[9; 512]).unwrap();
        disk.write_zeroes(8192..16_384, true).unwrap();
        let mut bytes = vec![1; 20_480];
        disk.read_exact_at(0, &mut bytes).unwrap();
        assert!(bytes[..4096].iter().all(|b| *b == 3));
        assert!(bytes[4096..4608].iter().all(|b| *b == 9));
        assert!(bytes[8192..16_384].iter().all(|b| *b == 0));
        assert!(bytes[16_384..].iter().all(|b| *b == 3));
        assert_eq!(disk.next_data(2 << 20).unwrap(), None);
        assert!(disk.read_exact_at(4 << 20, &mut bytes[..1]).is_err());
    }

    #[test]
    fn an_empty_disk_and_one_that_looks_like_another_format_are_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            state: dir.path().to_owned(),
            runtime: dir.path().to_owned(),
        };
        let path = dir.path().join("disk.img");
        // A guest may write what it wants on its own disk.
        let mut bytes = vec![0; 1 << 20];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        fs::write(&path, &bytes).unwrap();
        let mut disk = spec::Disk {
            serial: "data".to_owned(),
            base: Base::Raw(path.clone()),
            size: None,
            writes: Writes::Through,
        };
        let opened = open(&disk, &[], &place).unwrap();
        let view = Disk(opened.disk);
        view.write_all_at(4096, &[7; 512]).unwrap();
        view.flush().unwrap();
        drop(view);
        assert!(fs::read(&path).unwrap()[4096..4608].iter().all(|b| *b == 7));
        disk.writes = Writes::Dropped;
        let view = Disk(open(&disk, &[], &place).unwrap().disk);
        view.write_all_at(4096, &[8; 512]).unwrap();
        assert_eq!(fs::read(&path).unwrap()[4096], 7);
        disk.base = Base::Nothing;
        disk.size = Some(1 << 30);
        let view = Disk(open(&disk, &[], &place).unwrap().disk);
        assert_eq!(view.size(), 1 << 30);
        assert_eq!(view.next_data(0).unwrap(), None);
        disk.writes = Writes::Through;
        assert!(open(&disk, &[], &place).is_err());
    }

    #[test]
    fn a_disk_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.raw");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        let place = Place {
            state: dir.path().to_owned(),
            runtime: dir.path().to_owned(),
        };
        let open = |writes| {
            let disk = spec::Disk {
                serial: "disk1".to_owned(),
                base: Base::File(path.clone()),
                size: None,
                writes,
            };
            open(&disk, &[], &place)
        };
        let first = open(Writes::Through).unwrap();
        for writes in [Writes::Through, Writes::Refused] {
            let error = open(writes).unwrap_err().to_string();
            assert!(error.contains("in use by another process"), "{error}");
        }
        drop(first);
        let readers = [(); 2].map(|()| open(Writes::Refused).unwrap());
        assert!(open(Writes::Through).is_err());
        drop(readers);
    }
}
