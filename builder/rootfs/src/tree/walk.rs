//! Walking a tree from the root, parents before children, names in byte order.

use super::{InodeId, Kind, Tree};

/// Yields every name of a tree: its path (no leading slash; empty for the
/// root) and inode. Hard links come once a name.
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    // One level a directory on the way down; no recursion, as depth comes
    // from the image.
    levels: Vec<Level<'a>>,
    path: Vec<u8>,
    root: Option<InodeId>,
}

#[derive(Debug)]
struct Level<'a> {
    /// Length of the directory's own path.
    path_len: usize,
    entries: std::collections::btree_map::Iter<'a, Box<[u8]>, InodeId>,
}

impl Tree {
    /// Every name below and with `dir`, depth first; paths are relative to it.
    pub fn walk_from(&self, dir: InodeId) -> Walk<'_> {
        Walk {
            tree: self,
            levels: Vec::new(),
            path: Vec::new(),
            root: Some(dir),
        }
    }

    /// Every name of the tree, depth first, the root first.
    pub fn walk(&self) -> Walk<'_> {
        self.walk_from(self.root())
    }
}

impl<'a> Walk<'a> {
    fn enter(&mut self, id: InodeId) {
        if let Kind::Directory(entries) = &self.tree.inode(id).kind {
            self.levels.push(Level {
                path_len: self.path.len(),
                entries: entries.iter(),
            });
        }
    }

    /// As [`Iterator::next`], with a path that lives until the next call.
    pub fn next_borrowed(&mut self) -> Option<(&[u8], InodeId)> {
        if let Some(root) = self.root.take() {
            self.enter(root);
            return Some((&self.path, root));
        }
        loop {
            let level = self.levels.last_mut()?;
            self.path.truncate(level.path_len);
            let Some((name, &id)) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            self.enter(id);
            return Some((&self.path, id));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, InodeId);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_borrowed().map(|(path, id)| (path.to_vec(), id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Inode, Timestamp};
    use super::*;

    #[test]
    fn a_walk_visits_parents_first_and_names_in_order() {
        let mut t = Tree::new(Vec::new());
        let dir = || Inode::directory(0o755, Timestamp::default());
        let b = t.insert(t.root(), b"b", dir()).unwrap();
        t.insert(t.root(), b"a", dir()).unwrap();
        let c = t.insert(b, b"c", dir()).unwrap();
        let f = t.insert(c, b"f", Inode::new(Kind::Fifo, 0o644)).unwrap();
        t.link(t.root(), b"z", f).unwrap();
        let paths: Vec<_> = t
            .walk()
            .map(|(p, _)| String::from_utf8(p).unwrap())
            .collect();
        assert_eq!(paths, ["", "a", "b", "b/c", "b/c/f", "z"]);
        assert_eq!(t.walk_from(c).count(), 2);
    }
}
