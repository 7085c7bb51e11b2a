//! Inodes: what a file is and its attributes, without its names.

use std::collections::BTreeMap;
use std::sync::Arc;

use bootwright_disk::Extent;
use bootwright_image::Timestamp;

/// Names an [`Inode`] of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub(crate) u32);

/// The entries of a directory: name (1 to 255 bytes, no `/`, no NUL) to inode.
pub type Directory = BTreeMap<Box<[u8]>, InodeId>;

/// A regular file's content: extents in the file's own address space, sorted,
/// not overlapping. Bytes that no extent covers are a hole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileContent {
    /// Length in bytes.
    pub size: u64,
    /// Where the bytes are.
    pub extents: Vec<Extent>,
}

impl FileContent {
    /// A file that holds these bytes.
    pub fn literal(bytes: impl Into<bytes::Bytes>) -> Self {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        let extents = if bytes.is_empty() {
            Vec::new()
        } else {
            vec![Extent::literal(0, bytes)]
        };
        Self { size, extents }
    }
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory, without `.` and `..`.
    Directory(Directory),
    /// A regular file.
    Regular(FileContent),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// An inode: everything but its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; also serves as access and change time.
    pub mtime: Timestamp,
    /// Extended attributes. POSIX ACLs have the kernel's user-space form
    /// (version 2), as in a tar.
    pub xattrs: Xattrs,
    /// How many names lead to it; 1 for directories.
    pub names: u32,
}

impl Inode {
    /// An inode with no names, owned by root, with time 0 and no xattrs.
    pub fn new(kind: Kind, mode: u16) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::default(),
            names: 0,
        }
    }

    /// An empty directory owned by root.
    pub fn directory(mode: u16, mtime: Timestamp) -> Self {
        Self {
            mtime,
            ..Self::new(Kind::Directory(Directory::new()), mode)
        }
    }

    /// A regular file owned by root.
    pub fn file(content: FileContent, mode: u16, mtime: Timestamp) -> Self {
        Self {
            mtime,
            ..Self::new(Kind::Regular(content), mode)
        }
    }

    /// A symbolic link owned by root.
    pub fn symlink(target: &[u8], mtime: Timestamp) -> Self {
        Self {
            mtime,
            ..Self::new(Kind::Symlink(target.into()), 0o777)
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }
}

/// Extended attributes by full name (`security.capability`), in byte order of
/// the names.
///
/// Most inodes have none and many share the same ones (SELinux labels), so
/// the list is one pointer wide and shared until it is changed.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattrs(Option<Arc<Vec<Xattr>>>);

type Xattr = (Box<[u8]>, Box<[u8]>);

impl Xattrs {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list().len()
    }

    /// Names and values, in byte order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + Clone {
        self.list().iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of the attribute `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let at = self.find(name).ok()?;
        self.list().get(at).map(|(_, value)| &**value)
    }

    /// Sets the attribute `name`, in place of its old value.
    pub fn insert(&mut self, name: impl Into<Box<[u8]>>, value: impl Into<Box<[u8]>>) {
        let (name, value) = (name.into(), value.into());
        let at = self.find(&name);
        let list = Arc::make_mut(self.0.get_or_insert_default());
        match at {
            Ok(at) => list[at].1 = value,
            Err(at) => list.insert(at, (name, value)),
        }
    }

    /// Takes the attribute `name` away; says whether it was there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let (Ok(at), Some(list)) = (self.find(name), &mut self.0) else {
            return false;
        };
        Arc::make_mut(list).remove(at);
        if list.is_empty() {
            self.0 = None;
        }
        true
    }

    fn list(&self) -> &[Xattr] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.list().binary_search_by(|(n, _)| (**n).cmp(name))
    }
}

/// Of several values for one name the last counts.
impl<N: Into<Box<[u8]>>, V: Into<Box<[u8]>>> FromIterator<(N, V)> for Xattrs {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        let iter = iter.into_iter();
        let mut list: Vec<Xattr> = Vec::with_capacity(iter.size_hint().0);
        for (name, value) in iter {
            let (name, value) = (name.into(), value.into());
            // Callers mostly give them in order, so the end is tried first.
            if list.last().is_none_or(|(last, _)| *last < name) {
                list.push((name, value));
                continue;
            }
            match list.binary_search_by(|(n, _)| n.cmp(&name)) {
                Ok(at) => list[at].1 = value,
                Err(at) => list.insert(at, (name, value)),
            }
        }
        Self((!list.is_empty()).then(|| Arc::new(list)))
    }
}

impl<'a> IntoIterator for &'a Xattrs {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl std::fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        f.debug_map()
            .entries(self.iter().map(|(n, v)| (text(n), text(v))))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xattrs_are_kept_in_name_order_and_the_last_value_counts() {
        let pairs: [(&[u8], &[u8]); 4] = [
            (b"user.b", b"1"),
            (b"user.a", b"2"),
            (b"user.c", b""),
            (b"user.b", b"3"),
        ];
        let collected: Xattrs = pairs.into_iter().collect();
        let mut inserted = Xattrs::default();
        pairs
            .into_iter()
            .for_each(|(name, value)| inserted.insert(name, value));
        assert_eq!(collected, inserted);
        let list: Vec<_> = collected.iter().collect();
        assert_eq!(
            list,
            [
                (&b"user.a"[..], &b"2"[..]),
                (b"user.b", b"3"),
                (b"user.c", b"")
            ]
        );
    }

    #[test]
    fn changing_a_copy_of_xattrs_leaves_the_original() {
        let one: Xattrs = [(&b"user.a"[..], &b"1"[..])].into_iter().collect();
        let mut two = one.clone();
        assert!(two.remove(b"user.a"));
        assert!(!two.remove(b"user.a"));
        assert_eq!(two, Xattrs::default());
        assert_eq!(one.get(b"user.a"), Some(&b"1"[..]));
    }

    #[test]
    fn an_inode_takes_at_most_96_bytes() {
        assert!(size_of::<Inode>() <= 96, "{}", size_of::<Inode>());
    }
}
