//! Looking up paths as path_resolution(7) does, with the tree as the world:
//! `/` and `..` never lead out of it.

use super::{Inode, InodeId, Kind, Tree, TreeError, display};

/// How many symbolic links one look-up follows, as in path_resolution(7).
pub(super) const MAX_SYMLINKS: u32 = 40;

/// The names in a path, without empty ones and `.`.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

/// A path's parent and last name; the parent of a lone name is empty.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Where a look-up ended.
enum Located {
    Found(InodeId),
    /// `name` is not in the directory `dir`.
    Missing {
        dir: InodeId,
        name: Box<[u8]>,
    },
}

/// A path for a message that puts a slash before it.
fn shown(path: &[u8]) -> String {
    let slashes = path.iter().take_while(|&&b| b == b'/').count();
    display(path.get(slashes..).unwrap_or_default())
}

impl Tree {
    /// The inode at `path` (relative to the root, leading slashes allowed),
    /// following symbolic links inside the tree, the last one included.
    ///
    /// # Errors
    /// A component is missing or no directory, or the links loop.
    pub fn resolve(&self, path: &[u8]) -> Result<InodeId, TreeError> {
        match self.locate(path)? {
            Located::Found(id) => Ok(id),
            Located::Missing { .. } => Err(TreeError::NotFound(shown(path))),
        }
    }

    /// The directory that `path` names an entry of, and that entry's name.
    /// Symbolic links on the way are followed; the last component is not
    /// looked at and need not exist.
    ///
    /// # Errors
    /// The directory is missing or no directory, the links loop, or the last
    /// component is `..` or absent.
    pub fn resolve_parent<'p>(&self, path: &'p [u8]) -> Result<(InodeId, &'p [u8]), TreeError> {
        let (parent, name) = last_component(path)?;
        let dir = self.resolve(parent)?;
        if !self.inode(dir).is_directory() {
            return Err(TreeError::NotADirectory(shown(parent)));
        }
        Ok((dir, name))
    }

    /// The directory at `path`, following symbolic links inside the tree;
    /// missing directories on the way become copies of `template`.
    ///
    /// # Errors
    /// A component is no directory or no file name, or the links loop.
    pub fn make_directories(
        &mut self,
        path: &[u8],
        template: &Inode,
    ) -> Result<InodeId, TreeError> {
        debug_assert!(template.is_directory());
        loop {
            match self.locate(path)? {
                Located::Found(id) if self.inode(id).is_directory() => return Ok(id),
                Located::Found(_) => return Err(TreeError::NotADirectory(shown(path))),
                Located::Missing { dir, name } => {
                    self.insert(dir, &name, template.clone())?;
                }
            }
        }
    }

    fn locate(&self, path: &[u8]) -> Result<Located, TreeError> {
        let mut links = 0;
        // Directories from the root to where we are; `..` goes back.
        let mut trail = vec![self.root()];
        let mut rest: Vec<&[u8]> = components(path).rev().collect();
        while let Some(name) = rest.pop() {
            let here = trail.last().copied().unwrap_or(self.root());
            let Some(entries) = self.directory(here) else {
                return Err(TreeError::NotADirectory(shown(path)));
            };
            if name == b".." {
                // The root is its own parent.
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let Some(&id) = entries.get(name) else {
                let name = name.into();
                return Ok(Located::Missing { dir: here, name });
            };
            if let Kind::Symlink(target) = &self.inode(id).kind {
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(TreeError::SymlinkLoop(shown(path)));
                }
                if target.starts_with(b"/") {
                    trail.truncate(1);
                }
                rest.extend(components(target).rev());
            } else {
                trail.push(id);
            }
        }
        Ok(Located::Found(trail.pop().unwrap_or(self.root())))
    }
}

/// Parent path and last name of a path that must name something in a
/// directory; trailing slashes do not count.
pub(crate) fn last_component(path: &[u8]) -> Result<(&[u8], &[u8]), TreeError> {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
    let (parent, name) = split(&path[..end]);
    match name {
        b"" | b"." | b".." => Err(TreeError::BadName(shown(path), "names no file")),
        _ => Ok((parent, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timestamp;
    use super::*;

    fn dir() -> Inode {
        Inode::directory(0o755, Timestamp::default())
    }

    fn symlink(target: &str) -> Inode {
        Inode::symlink(target.as_bytes(), Timestamp::default())
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let mut t = Tree::new(Vec::new());
        let usr = t.insert(t.root(), b"usr", dir()).unwrap();
        let bin = t.insert(usr, b"bin", dir()).unwrap();
        let sh = t.insert(bin, b"sh", Inode::new(Kind::Fifo, 0)).unwrap();
        t.insert(t.root(), b"bin", symlink("../../usr/./bin"))
            .unwrap();
        t.insert(t.root(), b"a", symlink("/b")).unwrap();
        t.insert(t.root(), b"b", symlink("a")).unwrap();
        assert_eq!(t.resolve(b"/bin/"), Ok(bin));
        assert_eq!(t.resolve(b"bin/../bin"), Ok(bin));
        assert_eq!(t.resolve(b""), Ok(t.root()));
        assert_eq!(t.resolve(b"../.."), Ok(t.root()));
        assert_eq!(t.resolve_parent(b"bin/sh"), Ok((bin, &b"sh"[..])));
        assert_eq!(t.resolve_parent(b"/bin/new//"), Ok((bin, &b"new"[..])));
        assert_eq!(t.resolve_parent(b"a"), Ok((t.root(), &b"a"[..])));
        assert!(matches!(t.resolve(b"a"), Err(TreeError::SymlinkLoop(_))));
        assert!(matches!(t.resolve(b"x/y"), Err(TreeError::NotFound(_))));
        for path in [&b"bin/sh/x"[..], b"bin/sh/.."] {
            assert!(matches!(t.resolve(path), Err(TreeError::NotADirectory(_))));
        }
        for path in [&b""[..], b"/", b"usr/..", b"usr/."] {
            assert!(matches!(
                t.resolve_parent(path),
                Err(TreeError::BadName(..))
            ));
        }
        assert_eq!(t.resolve(b"bin/sh"), Ok(sh));
    }

    #[test]
    fn missing_directories_are_made_where_links_lead() {
        let mut t = Tree::new(Vec::new());
        t.insert(t.root(), b"root", symlink("var/roothome"))
            .unwrap();
        let ssh = t.make_directories(b"/root/.ssh/../.ssh", &dir()).unwrap();
        assert_eq!(t.resolve(b"var/roothome/.ssh"), Ok(ssh));
        assert_eq!(t.make_directories(b"root/.ssh", &dir()), Ok(ssh));
        t.insert(ssh, b"f", Inode::new(Kind::Fifo, 0)).unwrap();
        assert!(matches!(
            t.make_directories(b"root/.ssh/f", &dir()),
            Err(TreeError::NotADirectory(_))
        ));
        t.insert(t.root(), b"l", symlink("l")).unwrap();
        assert!(matches!(
            t.make_directories(b"l/x", &dir()),
            Err(TreeError::SymlinkLoop(_))
        ));
    }
}
