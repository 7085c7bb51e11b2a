//! A directory of the host as a tree (`dir:PATH`).
//!
//! Every name below the directory is looked at through descriptors that never
//! follow a symbolic link and never leave the directory or its file system.
//! Contents stay where they are: each file becomes a source of its own, with
//! the identity it had when it was looked at.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bootwright_disk::{Extent, Source, SourceKind};
use bootwright_image::Timestamp;
use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{Directory, FileContent, Inode, InodeId, Kind, Tree, TreeError, Xattrs};

/// Holes and data are told apart in pieces of this many bytes.
const HOLE_BLOCK: u64 = 4096;

/// With more runs of data than this, the rest of a file counts as data.
const MAX_DATA_RUNS: usize = 65_536;

/// How a directory becomes a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectoryOptions {
    /// Whether to go into file systems mounted below the directory. If not,
    /// they become empty directories, with a warning.
    pub cross_mounts: bool,
}

/// Why a directory cannot become a tree.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused; the source says why.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file of the host.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A name that does not fit into a tree.
    #[error("{path}: {source}")]
    Name {
        /// The file of the host.
        path: PathBuf,
        /// Why it does not fit.
        source: TreeError,
    },
}

impl Tree {
    /// The tree below the directory `path`, with owners, modes, times and
    /// xattrs as the host's files have them. `path` itself may be or contain
    /// a symbolic link; below it none is followed.
    ///
    /// Names become inodes and sources in byte order, so the same files give
    /// the same tree. Sockets and files mounted over files are left out, with
    /// a warning. Xattrs that speak of the host and not of the file are left
    /// out: `security.selinux`, `security.evm`, `trusted.overlay.*`, and
    /// `system.*` but for ACLs.
    ///
    /// # Errors
    /// Something cannot be read; the message names it.
    pub fn from_directory(path: &Path, options: DirectoryOptions) -> Result<Self, DirectoryError> {
        let top = std::fs::canonicalize(path).map_err(|source| DirectoryError::Io {
            action: "open",
            path: path.into(),
            source,
        })?;
        Walker {
            top,
            options,
            tree: Tree::new(Vec::new()),
            linked: HashMap::new(),
        }
        .run()
    }
}

struct Walker {
    top: PathBuf,
    options: DirectoryOptions,
    tree: Tree,
    /// Inodes with more than one name, by device and inode number of the host.
    linked: HashMap<(u64, u64), InodeId>,
}

/// A directory that is still to be read: its inode and path below the top.
struct Pending {
    id: InodeId,
    path: PathBuf,
}

/// What opening a name gave.
enum Opened {
    File(OwnedFd, Stat),
    /// Another file system begins here.
    Mount,
    /// It went away since the directory was read.
    Gone,
}

impl Walker {
    fn run(mut self) -> Result<Tree, DirectoryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(&self.top, flags, Mode::empty())
            .map_err(|e| self.error("open", Path::new(""), e))?;
        let stat = fs::fstat(&root).map_err(|e| self.error("examine", Path::new(""), e))?;
        let id = self.tree.root();
        *self.tree.inode_mut(id) = Inode {
            names: 1,
            ..self.inode(
                Kind::Directory(Directory::new()),
                &root,
                &stat,
                Path::new(""),
            )?
        };
        // A loop, not recursion: depth comes from the directory.
        let mut pending = vec![Pending {
            id,
            path: PathBuf::new(),
        }];
        while let Some(dir) = pending.pop() {
            self.read_directory(&root, &dir, &mut pending)?;
        }
        Ok(self.tree)
    }

    fn read_directory(
        &mut self,
        root: &OwnedFd,
        dir: &Pending,
        pending: &mut Vec<Pending>,
    ) -> Result<(), DirectoryError> {
        let fd = if dir.path.as_os_str().is_empty() {
            fs::openat(root, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        } else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fs::openat2(root, &dir.path, flags, Mode::empty(), self.resolve())
        }
        .map_err(|e| self.error("open directory", &dir.path, e))?;
        let mut names = Vec::new();
        let error = |e| self.error("read directory", &dir.path, e);
        for entry in fs::Dir::read_from(&fd).map_err(error)? {
            let entry = entry.map_err(error)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let before = pending.len();
        for (name, hint) in names {
            let path = dir.path.join(OsStr::from_bytes(name.to_bytes()));
            if let Some(id) = self.add(&fd, dir.id, &name, hint, &path)? {
                pending.push(Pending { id, path });
            }
        }
        // The first name is to be popped first.
        pending[before..].reverse();
        Ok(())
    }

    /// Adds one name; gives its inode if it is a directory to go into.
    fn add(
        &mut self,
        dir_fd: &OwnedFd,
        dir: InodeId,
        name: &CStr,
        hint: FileType,
        path: &Path,
    ) -> Result<Option<InodeId>, DirectoryError> {
        let (fd, stat) = match self.open(dir_fd, name, hint, path)? {
            Opened::File(fd, stat) => (fd, stat),
            Opened::Gone => return Ok(None),
            Opened::Mount => {
                self.add_mount_point(dir, name, hint, path)?;
                return Ok(None);
            }
        };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && file_type != FileType::Directory
            && let Some(&id) = self.linked.get(&identity)
        {
            self.tree
                .link(dir, name.to_bytes(), id)
                .map_err(|source| self.bad_name(path, source))?;
            return Ok(None);
        }
        let kind = match file_type {
            FileType::Directory => Kind::Directory(Directory::new()),
            FileType::RegularFile => {
                let content = content(&mut self.tree, &fd, &stat, self.top.join(path))
                    .map_err(|e| self.error("read", path, e))?;
                Kind::Regular(content)
            }
            FileType::Symlink => {
                let target = fs::readlinkat(&fd, c"", Vec::new())
                    .map_err(|e| self.error("read symbolic link", path, e))?;
                Kind::Symlink(target.to_bytes().into())
            }
            FileType::CharacterDevice => Kind::CharDevice {
                major: fs::major(stat.st_rdev),
                minor: fs::minor(stat.st_rdev),
            },
            FileType::BlockDevice => Kind::BlockDevice {
                major: fs::major(stat.st_rdev),
                minor: fs::minor(stat.st_rdev),
            },
            FileType::Fifo => Kind::Fifo,
            _ => {
                self.skip(path, "a socket lives only as long as its process");
                return Ok(None);
            }
        };
        let inode = self.inode(kind, &fd, &stat, path)?;
        let id = self
            .tree
            .insert(dir, name.to_bytes(), inode)
            .map_err(|source| self.bad_name(path, source))?;
        if stat.st_nlink > 1 && file_type != FileType::Directory {
            self.linked.insert(identity, id);
        }
        Ok((file_type == FileType::Directory).then_some(id))
    }

    /// Opens regular files and directories for reading, and anything else
    /// only to look at it: opening a fifo would wait, a device might act.
    fn open(
        &self,
        dir: &OwnedFd,
        name: &CStr,
        hint: FileType,
        path: &Path,
    ) -> Result<Opened, DirectoryError> {
        let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut flags = match hint {
            FileType::RegularFile | FileType::Directory => read,
            _ => look,
        };
        loop {
            let fd = match fs::openat2(dir, name, flags, Mode::empty(), self.resolve()) {
                Ok(fd) => fd,
                Err(Errno::XDEV) => return Ok(Opened::Mount),
                Err(Errno::NOENT) => return Ok(Opened::Gone),
                // It has become a symbolic link or a socket.
                Err(Errno::LOOP | Errno::NXIO) if flags == read => {
                    flags = look;
                    continue;
                }
                Err(e) => return Err(self.error("open", path, e)),
            };
            let stat = fs::fstat(&fd).map_err(|e| self.error("examine", path, e))?;
            let wants_reading = matches!(
                FileType::from_raw_mode(stat.st_mode),
                FileType::RegularFile | FileType::Directory
            );
            if wants_reading && flags == look {
                flags = read;
                continue;
            }
            return Ok(Opened::File(fd, stat));
        }
    }

    fn resolve(&self) -> ResolveFlags {
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        if self.options.cross_mounts {
            inside
        } else {
            inside | ResolveFlags::NO_XDEV
        }
    }

    /// An empty directory where another file system is mounted. What it
    /// covers cannot be seen, so it looks like its parent.
    fn add_mount_point(
        &mut self,
        dir: InodeId,
        name: &CStr,
        hint: FileType,
        path: &Path,
    ) -> Result<(), DirectoryError> {
        if hint != FileType::Directory {
            self.skip(path, "another file is mounted over it");
            return Ok(());
        }
        let mtime = self.tree.inode(dir).mtime;
        self.tree
            .insert(dir, name.to_bytes(), Inode::directory(0o755, mtime))
            .map_err(|source| self.bad_name(path, source))?;
        self.skip(path, "another file system is mounted on it");
        Ok(())
    }

    fn inode(
        &self,
        kind: Kind,
        fd: &OwnedFd,
        stat: &Stat,
        path: &Path,
    ) -> Result<Inode, DirectoryError> {
        let looked_at_only = !matches!(kind, Kind::Directory(_) | Kind::Regular(_));
        let xattrs = xattrs(fd, looked_at_only)
            .map_err(|e| self.error("read extended attributes of", path, e))?;
        Ok(Inode {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(stat),
            xattrs,
            ..Inode::new(kind, (stat.st_mode & 0o7777) as u16)
        })
    }

    fn skip(&mut self, path: &Path, why: &str) {
        let path = self.top.join(path);
        self.tree
            .warn(format!("{}: left out: {why}", path.display()));
    }

    fn error(&self, action: &'static str, path: &Path, error: Errno) -> DirectoryError {
        DirectoryError::Io {
            action,
            path: self.top.join(path),
            source: error.into(),
        }
    }

    fn bad_name(&self, path: &Path, source: TreeError) -> DirectoryError {
        DirectoryError::Name {
            path: self.top.join(path),
            source,
        }
    }
}

/// A file of the host that the user named, and its mode; links are followed.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub(crate) fn host_file(tree: &mut Tree, path: &Path) -> io::Result<(FileContent, u16)> {
    let path = std::fs::canonicalize(path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::open(&path, flags, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("neither a file nor a directory"));
    }
    let content = content(tree, &fd, &stat, path)?;
    Ok((content, (stat.st_mode & 0o7777) as u16))
}

/// Where the content of an open regular file lies; adds it as a source.
fn content(
    tree: &mut Tree,
    fd: &OwnedFd,
    stat: &Stat,
    path: PathBuf,
) -> rustix::io::Result<FileContent> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 {
        return Ok(FileContent::default());
    }
    let mtime = mtime(stat);
    let runs = data_runs(fd, size, stat)?;
    let source = tree.add_source(Source {
        kind: SourceKind::HostFile {
            device: stat.st_dev,
            inode: stat.st_ino,
            mtime_ns: i128::from(mtime.secs) * 1_000_000_000 + i128::from(mtime.nanos),
        },
        path,
        len: size,
    });
    let extents = runs
        .into_iter()
        .map(|(start, end)| Extent::source(start, end - start, source, start))
        .collect();
    Ok(FileContent { size, extents })
}

fn mtime(stat: &Stat) -> Timestamp {
    Timestamp {
        secs: stat.st_mtime,
        nanos: stat.st_mtime_nsec as u32,
    }
}

/// Start and end of the runs of data in a file, in whole blocks but for the
/// end of the file.
fn data_runs(fd: &OwnedFd, size: u64, stat: &Stat) -> rustix::io::Result<Vec<(u64, u64)>> {
    // All of it has blocks: no hole to look for. In units of 512 bytes,
    // as in inode(7).
    if u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512)
        >= size
    {
        return Ok(vec![(0, size)]);
    }
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        if runs.len() == MAX_DATA_RUNS {
            runs.push((at, size));
            break;
        }
        let data = match fs::seek(fd, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data up to the end.
            Err(Errno::NXIO) => break,
            // The file system knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e),
        };
        let hole = match fs::seek(fd, SeekFrom::Hole(data)) {
            Ok(hole) => hole,
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => size,
            Err(e) => return Err(e),
        };
        let start = (data - data % HOLE_BLOCK).max(at);
        let end = hole.next_multiple_of(HOLE_BLOCK).min(size);
        if end <= start {
            break;
        }
        match runs.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ => runs.push((start, end)),
        }
        at = end;
    }
    Ok(runs)
}

/// The extended attributes of an open file that speak of the file.
fn xattrs(fd: &OwnedFd, looked_at_only: bool) -> rustix::io::Result<Xattrs> {
    // Descriptors that only look at a file have no xattrs of their own, but
    // their entry in /proc leads to the file, even where it is a link.
    let path = looked_at_only.then(|| format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let list = grow(|buffer| match &path {
        Some(path) => fs::listxattr(path, buffer),
        None => fs::flistxattr(fd, buffer),
    });
    let list = match list {
        Err(Errno::OPNOTSUPP) => return Ok(Xattrs::default()),
        list => list?,
    };
    let mut xattrs = Xattrs::default();
    for name in list.split(|&b| b == 0).filter(|n| speaks_of_the_file(n)) {
        let value = grow(|buffer| match &path {
            Some(path) => fs::getxattr(path, name, buffer),
            None => fs::fgetxattr(fd, name, buffer),
        });
        match value {
            Ok(value) => xattrs.insert(name, value),
            // Gone in between, or only for a user with more rights.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(xattrs)
}

fn speaks_of_the_file(name: &[u8]) -> bool {
    match name {
        b"" | b"security.selinux" | b"security.evm" => false,
        b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => !name.starts_with(b"system.") && !name.starts_with(b"trusted.overlay."),
    }
}

/// Calls with a larger buffer until the answer fits; Linux lets lists and
/// values have at most 64 KiB.
fn grow(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match call(&mut small) {
        Ok(len) => return Ok(small.get(..len).unwrap_or(&small).to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    let mut buffer = vec![0; 65_536];
    let len = call(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}
