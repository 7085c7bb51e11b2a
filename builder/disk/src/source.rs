//! Reading a plan's source files.
//!
//! A [`SourceReader`] takes the plan's table of sources and gives the bytes
//! at any offset of any of them, from any number of threads. Files are opened
//! on first use and only so many stay open; each is checked to be the file
//! that the plan was made of, so that a changed host file ends a read with an
//! error instead of ending up half old and half new on a disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};

use crate::plan::{Source, SourceId, SourceKind};

/// How many files a [`SourceReader`] keeps open unless told otherwise: far
/// below the usual limit of 1024 descriptors, more than most plans have packs.
pub const DEFAULT_OPEN_FILES: usize = 256;

/// Opens sources on first use and reads them at any offset.
#[derive(Debug)]
pub struct SourceReader {
    sources: Arc<[Source]>,
    open: Mutex<OpenFiles>,
}

/// The open files, the least recently used one leaving first.
#[derive(Debug)]
struct OpenFiles {
    limit: usize,
    clock: u64,
    files: BTreeMap<u32, (u64, Arc<File>)>,
    by_use: BTreeMap<u64, u32>,
}

impl OpenFiles {
    fn get(&mut self, id: SourceId) -> Option<Arc<File>> {
        let (used, file) = self.files.get_mut(&id.0)?;
        self.clock += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.clock, id.0);
        *used = self.clock;
        Some(Arc::clone(file))
    }

    fn put(&mut self, id: SourceId, file: Arc<File>) {
        if self.get(id).is_some() {
            return;
        }
        while self.files.len() >= self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            self.files.remove(&oldest);
        }
        self.clock += 1;
        self.by_use.insert(self.clock, id.0);
        self.files.insert(id.0, (self.clock, file));
    }
}

impl SourceReader {
    /// A reader of the given table of sources; nothing is opened yet.
    pub fn new(sources: impl Into<Arc<[Source]>>) -> Self {
        Self::with_open_files(sources, DEFAULT_OPEN_FILES)
    }

    /// The same, keeping at most `limit` files open (at least one).
    pub fn with_open_files(sources: impl Into<Arc<[Source]>>, limit: usize) -> Self {
        Self {
            sources: sources.into(),
            open: Mutex::new(OpenFiles {
                limit: limit.max(1),
                clock: 0,
                files: BTreeMap::new(),
                by_use: BTreeMap::new(),
            }),
        }
    }

    /// Fills `buf` from byte `offset` of source `id`.
    ///
    /// # Errors
    /// The file is gone, is not the one that the plan was made of, changed
    /// while it was read, or cannot be read; the message names it.
    pub fn read_exact_at(&self, id: SourceId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let file = self.file(id)?;
        let source = self.source(id)?;
        file.read_exact_at(buf, offset)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => changed(&source.path, "it became shorter"),
                _ => naming(&source.path, e),
            })?;
        self.check(id, &file)
    }

    /// The open file of source `id`, checked. What is read from it is only
    /// good after [`check`](Self::check) said so again.
    ///
    /// # Errors
    /// As for [`read_exact_at`](Self::read_exact_at).
    pub fn file(&self, id: SourceId) -> io::Result<Arc<File>> {
        if let Some(file) = self.lock().get(id) {
            return Ok(file);
        }
        // Opened outside the lock: a slow file system holds up nobody else.
        let source = self.source(id)?;
        // NONBLOCK, so that a fifo put in the file's place cannot hang us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file: File = open(&source.path, flags, Mode::empty())
            .map_err(|e| naming(&source.path, e.into()))?
            .into();
        check(source, &file)?;
        let file = Arc::new(file);
        self.lock().put(id, Arc::clone(&file));
        Ok(file)
    }

    /// Checks that a host file is still what it was when the plan was made,
    /// which makes what was read before good. Packs never change.
    ///
    /// # Errors
    /// It is not; the message names the file.
    pub fn check(&self, id: SourceId, file: &File) -> io::Result<()> {
        let source = self.source(id)?;
        match source.kind {
            SourceKind::Pack { .. } => Ok(()),
            SourceKind::HostFile { .. } => check(source, file),
        }
    }

    fn source(&self, id: SourceId) -> io::Result<&Source> {
        self.sources.get(id.0 as usize).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("source {} of a plan with {}", id.0, self.sources.len()),
            )
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenFiles> {
        // A panic elsewhere leaves the table whole: it is a cache.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(source: &Source, file: &File) -> io::Result<()> {
    let path = &source.path;
    let stat = fstat(file).map_err(|e| naming(path, e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(changed(path, "it is not a regular file any more"));
    }
    if let SourceKind::HostFile {
        device,
        inode,
        mtime_ns,
    } = source.kind
    {
        if (stat.st_dev, stat.st_ino) != (device, inode) {
            return Err(changed(path, "another file is in its place"));
        }
        if mtime_of(&stat) != mtime_ns {
            return Err(changed(path, "it has another modification time"));
        }
    }
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    if len != source.len {
        let detail = format!("it has {len} bytes, not {}", source.len);
        return Err(match source.kind {
            SourceKind::HostFile { .. } => changed(path, &detail),
            SourceKind::Pack { ref diff_id } => io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{}: the pack of layer {diff_id} is damaged: {detail}",
                    path.display()
                ),
            ),
        });
    }
    Ok(())
}

/// The modification time in nanoseconds since 1970, as
/// [`SourceKind::HostFile`] has it.
pub fn mtime_of(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn changed(path: &Path, detail: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{} changed while it was being read: {detail}",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn host_file(path: &Path) -> Source {
        let stat = fstat(File::open(path).unwrap()).unwrap();
        Source {
            kind: SourceKind::HostFile {
                device: stat.st_dev,
                inode: stat.st_ino,
                mtime_ns: mtime_of(&stat),
            },
            path: path.into(),
            len: stat.st_size as u64,
        }
    }

    fn first_byte(reader: &SourceReader) -> io::Result<u8> {
        let mut byte = [0];
        reader.read_exact_at(SourceId(0), 0, &mut byte)?;
        Ok(byte[0])
    }

    #[test]
    fn a_host_file_that_is_no_longer_the_same_is_refused_by_name() {
        type Change = fn(&Path);
        let cases: [(&str, Change, &str); 6] = [
            ("gone", |p| std::fs::remove_file(p).unwrap(), "No such file"),
            (
                "grown",
                |p| {
                    let mut f = File::options().append(true).open(p).unwrap();
                    let before = f.metadata().unwrap().modified().unwrap();
                    f.write_all(b"x").unwrap();
                    f.set_modified(before).unwrap();
                },
                "has 5 bytes, not 4",
            ),
            (
                "replaced",
                |p| {
                    let other = p.with_extension("new");
                    std::fs::write(&other, "moin").unwrap();
                    std::fs::rename(other, p).unwrap();
                },
                "another file",
            ),
            (
                "touched",
                |p| {
                    let f = File::options().write(true).open(p).unwrap();
                    f.set_modified(std::time::UNIX_EPOCH).unwrap();
                },
                "modification time",
            ),
            (
                "a symlink",
                |p| {
                    let other = p.with_extension("new");
                    std::fs::rename(p, &other).unwrap();
                    std::os::unix::fs::symlink(other, p).unwrap();
                },
                "symbolic link",
            ),
            (
                "a fifo",
                |p| {
                    std::fs::remove_file(p).unwrap();
                    rustix::fs::mknodat(
                        rustix::fs::CWD,
                        p,
                        FileType::Fifo,
                        Mode::from_raw_mode(0o600),
                        0,
                    )
                    .unwrap();
                },
                "not a regular file",
            ),
        ];
        for (name, change, message) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            std::fs::write(&path, "moin").unwrap();
            let source = host_file(&path);
            assert_eq!(
                first_byte(&SourceReader::new(vec![source.clone()])).unwrap(),
                b'm'
            );
            change(&path);
            let error = first_byte(&SourceReader::new(vec![source]))
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{name}: {error}");
            assert!(error.contains("/file"), "{name}: {error}");
        }
    }

    #[test]
    fn a_change_under_an_open_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "moin").unwrap();
        let reader = SourceReader::new(vec![host_file(&path)]);
        first_byte(&reader).unwrap();
        std::fs::write(&path, "more than that").unwrap();
        let error = first_byte(&reader).unwrap_err().to_string();
        assert!(error.contains("changed while it was being read"), "{error}");
    }

    #[test]
    fn a_pack_of_another_length_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack");
        std::fs::write(&path, "moin").unwrap();
        let reader = SourceReader::new(vec![Source {
            kind: SourceKind::Pack {
                diff_id: "sha256:12".into(),
            },
            path,
            len: 4096,
        }]);
        let error = first_byte(&reader).unwrap_err().to_string();
        assert!(error.contains("sha256:12 is damaged"), "{error}");
    }

    #[test]
    fn only_so_many_files_are_open_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let sources: Vec<Source> = (0..300u32)
            .map(|i| {
                let path = dir.path().join(i.to_string());
                std::fs::write(&path, i.to_le_bytes()).unwrap();
                host_file(&path)
            })
            .collect();
        let reader = SourceReader::with_open_files(sources, 7);
        for i in (0..300u32).chain(0..300) {
            let mut buf = [0; 4];
            reader.read_exact_at(SourceId(i), 0, &mut buf).unwrap();
            assert_eq!(u32::from_le_bytes(buf), i);
            let open = reader.lock();
            assert!(open.files.len() <= 7);
            assert_eq!(open.files.len(), open.by_use.len());
        }
        assert!(reader.lock().get(SourceId(299)).is_some());
        assert!(reader.lock().get(SourceId(0)).is_none());
    }
}
