//! The root file system in memory: inodes, names and where contents lie.
//!
//! Layers go in (`merge`), customisations are applied (`customize`), and the
//! formatters read it. The tree is an arena of [`Inode`]s; directories map
//! names to [`InodeId`]s in byte order, so walking it is deterministic.

mod directory;
mod inode;
mod merge;
mod path;
mod read;
mod walk;

use bootwright_disk::{Source, SourceId};
pub use bootwright_image::Timestamp;

pub(crate) use directory::host_file;
pub use directory::{DirectoryError, DirectoryOptions};
pub use inode::{Directory, FileContent, Inode, InodeId, Kind, Xattrs};
pub use merge::{MergeError, MergeProblem};
pub(crate) use path::{components, last_component, split};
pub use read::ReadError;
pub use walk::Walk;

/// A root file system.
#[derive(Debug, Clone)]
pub struct Tree {
    inodes: Vec<Inode>,
    sources: Vec<Source>,
    warnings: Vec<String>,
}

/// How many warnings are kept; the first ones say enough.
const MAX_WARNINGS: usize = 100;

/// Why a path could not be followed or changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// A component of the path is not there.
    #[error("no such file in the image: /{0}")]
    NotFound(String),
    /// A component of the path that should be a directory is something else.
    #[error("not a directory in the image: /{0}")]
    NotADirectory(String),
    /// More than 40 symbolic links were followed, as Linux allows.
    #[error("too many levels of symbolic links in the image: /{0}")]
    SymlinkLoop(String),
    /// A file is to take the place of a directory.
    #[error("a directory of the image is in the way: /{0}")]
    IsADirectory(String),
    /// A directory has one name only.
    #[error("a directory cannot have a further name: {0}")]
    LinkToDirectory(String),
    /// A name that no Linux file system can hold.
    #[error("bad file name in the image ({1}): /{0}")]
    BadName(String, &'static str),
}

/// Bytes of a path as readable text, for messages only.
pub fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

impl Tree {
    /// A tree with an empty root directory (mode 0755, root:root, time 0)
    /// whose file contents point into `sources`.
    pub fn new(sources: Vec<Source>) -> Self {
        let root = Inode::new(Kind::Directory(Directory::new()), 0o755);
        Self {
            inodes: vec![Inode { names: 1, ..root }],
            sources,
            warnings: Vec::new(),
        }
    }

    /// What was odd while the tree was made, in order; the first 100.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds a warning for the user.
    pub fn warn(&mut self, text: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(text);
        }
    }

    /// The root directory.
    pub fn root(&self) -> InodeId {
        InodeId(0)
    }

    /// The files that contents point into.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Adds a file that contents may point into.
    pub fn add_source(&mut self, source: Source) -> SourceId {
        // Four thousand million sources do not fit into memory.
        let id = SourceId(self.sources.len() as u32);
        self.sources.push(source);
        id
    }

    /// The inode. An inode that lost its last name is not reached from the
    /// root and may have lost its content.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.0 as usize]
    }

    /// The inode, to change its attributes. Names are changed with
    /// [`Tree::insert`], [`Tree::link`] and [`Tree::remove`] only.
    pub fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.0 as usize]
    }

    /// One more than the largest [`InodeId`]'s number; for side tables.
    pub fn inode_bound(&self) -> usize {
        self.inodes.len()
    }

    /// The entries of `dir`, if it is a directory.
    pub fn directory(&self, dir: InodeId) -> Option<&Directory> {
        match &self.inode(dir).kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The inode called `name` in `dir`; no symbolic link is followed.
    pub fn child(&self, dir: InodeId, name: &[u8]) -> Option<InodeId> {
        self.directory(dir)?.get(name).copied()
    }

    /// Puts a new inode into `dir` under `name`, in place of what was there.
    ///
    /// # Errors
    /// `dir` is no directory, or `name` is not a file name.
    pub fn insert(
        &mut self,
        dir: InodeId,
        name: &[u8],
        inode: Inode,
    ) -> Result<InodeId, TreeError> {
        // Four thousand million inodes do not fit into memory.
        let id = InodeId(self.inodes.len() as u32);
        self.put(dir, name, id)?;
        self.inodes.push(Inode { names: 1, ..inode });
        Ok(id)
    }

    /// Gives `id` a further name, in place of what was there.
    ///
    /// # Errors
    /// `dir` is no directory, `name` is not a file name, or `id` is a
    /// directory, which has one name only.
    pub fn link(&mut self, dir: InodeId, name: &[u8], id: InodeId) -> Result<(), TreeError> {
        if self.inode(id).is_directory() {
            return Err(TreeError::LinkToDirectory(display(name)));
        }
        // First, as it may be about to lose its only other name.
        self.inode_mut(id).names += 1;
        let put = self.put(dir, name, id);
        if put.is_err() {
            self.inode_mut(id).names -= 1;
        }
        put
    }

    /// Lets `name` in `dir` lead to `id`, in place of what was there.
    fn put(&mut self, dir: InodeId, name: &[u8], id: InodeId) -> Result<(), TreeError> {
        check_name(name)?;
        let Kind::Directory(entries) = &mut self.inodes[dir.0 as usize].kind else {
            return Err(TreeError::NotADirectory(display(name)));
        };
        // One search of the map, at the price of a copy of the name where the
        // name is there already.
        if let Some(old) = entries.insert(name.into(), id) {
            self.release([old]);
        }
        Ok(())
    }

    /// Takes `name` and all below it out of `dir`; says whether it was there.
    pub fn remove(&mut self, dir: InodeId, name: &[u8]) -> bool {
        let Kind::Directory(entries) = &mut self.inodes[dir.0 as usize].kind else {
            return false;
        };
        let Some(id) = entries.remove(name) else {
            return false;
        };
        self.release([id]);
        true
    }

    /// Takes all entries out of `dir`.
    pub fn clear(&mut self, dir: InodeId) {
        if let Kind::Directory(entries) = &mut self.inodes[dir.0 as usize].kind {
            let entries = std::mem::take(entries);
            self.release(entries.into_values());
        }
    }

    /// Takes one name from each inode and from all below it.
    fn release(&mut self, ids: impl IntoIterator<Item = InodeId>) {
        // A loop, not recursion: depth comes from the image.
        let mut gone: Vec<InodeId> = ids.into_iter().collect();
        while let Some(id) = gone.pop() {
            let inode = &mut self.inodes[id.0 as usize];
            inode.names = inode.names.saturating_sub(1);
            if inode.names > 0 {
                continue;
            }
            // Its content is of no use any more, and may be large.
            let old = std::mem::replace(inode, Inode::new(Kind::Fifo, 0));
            if let Kind::Directory(entries) = old.kind {
                gone.extend(entries.into_values());
            }
        }
    }
}

fn check_name(name: &[u8]) -> Result<(), TreeError> {
    let bad = |why| Err(TreeError::BadName(display(name), why));
    match name {
        b"" | b"." | b".." => bad("reserved"),
        _ if name.len() > 255 => bad("longer than 255 bytes"),
        _ if name.iter().any(|&b| b == b'/' || b == 0) => bad("contains / or NUL"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> Inode {
        Inode::directory(0o755, Timestamp::default())
    }

    #[test]
    fn removing_a_directory_takes_one_name_from_all_below() {
        let mut t = Tree::new(Vec::new());
        let d = t.insert(t.root(), b"d", dir()).unwrap();
        let f = t.insert(d, b"f", Inode::new(Kind::Fifo, 0o644)).unwrap();
        t.link(t.root(), b"g", f).unwrap();
        assert_eq!(t.inode(f).names, 2);
        assert!(t.remove(t.root(), b"d"));
        assert_eq!(t.inode(f).names, 1);
        assert!(!t.remove(t.root(), b"d"));
    }

    #[test]
    fn a_file_takes_the_place_of_the_directory_it_lies_in() {
        let mut t = Tree::new(Vec::new());
        let d = t.insert(t.root(), b"d", dir()).unwrap();
        let f = t.insert(d, b"f", Inode::new(Kind::Fifo, 0o644)).unwrap();
        t.link(t.root(), b"d", f).unwrap();
        assert_eq!(t.child(t.root(), b"d"), Some(f));
        assert_eq!((t.inode(f).names, t.inode(f).mode), (1, 0o644));
        t.link(t.root(), b"d", f).unwrap();
        assert_eq!((t.inode(f).names, t.inode(f).mode), (1, 0o644));
    }

    #[test]
    fn what_cannot_be_named_is_refused_and_changes_nothing() {
        let mut t = Tree::new(Vec::new());
        let d = t.insert(t.root(), b"d", dir()).unwrap();
        let f = t.insert(d, b"f", Inode::new(Kind::Fifo, 0o644)).unwrap();
        let before: Vec<_> = t.walk().collect();
        let long = [b'x'; 256];
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &long] {
            assert!(t.insert(d, name, dir()).is_err());
            assert!(t.link(d, name, f).is_err());
        }
        assert!(t.insert(f, b"x", dir()).is_err());
        assert!(t.link(f, b"x", f).is_err());
        assert!(t.link(d, b"d", d).is_err());
        assert_eq!(t.walk().collect::<Vec<_>>(), before);
        assert_eq!(t.inode(f).names, 1);
    }
}
