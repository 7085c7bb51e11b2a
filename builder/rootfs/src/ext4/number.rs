//! Inode numbers: who gets which, and how many names lead to it.

use crate::tree::{InodeId, Kind, Tree};

/// The root directory.
pub(super) const ROOT: u32 = 2;
/// `/lost+found`, which e2fsck wants to be there; the first inode that is not
/// reserved.
pub(super) const LOST_FOUND: u32 = 11;
/// Its name.
pub(super) const LOST_FOUND_NAME: &[u8] = b"lost+found";

/// An inode that is in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// In the tree; none for a `/lost+found` that is not in it.
    pub(super) id: Option<InodeId>,
    /// Number of the directory it lies in, for directories.
    pub(super) parent: u32,
    /// Names, with `.` and `..`.
    pub(super) links: u32,
    /// One more than the place of its attribute block among these; 0 for
    /// none.
    pub(super) xattr_block: u32,
    /// Whether it is a directory with an index.
    pub(super) indexed: bool,
}

/// All inodes of the volume but the journal's.
#[derive(Debug)]
pub(super) struct Numbering {
    /// By number: 2, 11, 12, and so on.
    pub(super) nodes: Vec<Node>,
    numbers: Vec<u32>,
}

/// The inode number of a node.
pub(super) fn number(index: usize) -> u32 {
    match index {
        0 => ROOT,
        _ => LOST_FOUND - 1 + index as u32,
    }
}

fn index(number: u32) -> usize {
    match number {
        ROOT => 0,
        _ => (number - LOST_FOUND + 1) as usize,
    }
}

impl Numbering {
    /// Numbers what is reached from the root: parents before what they hold,
    /// names in byte order. A `/lost+found` must be a directory if it exists.
    pub(super) fn new(tree: &Tree) -> Self {
        let mut this = Self {
            nodes: Vec::with_capacity(tree.inode_bound() + 1),
            numbers: vec![0; tree.inode_bound()],
        };
        let lost_found = tree.child(tree.root(), LOST_FOUND_NAME);
        this.add(Some(tree.root()), ROOT, 1);
        this.add(lost_found, ROOT, 0);
        this.name(ROOT);
        if lost_found.is_none() {
            // `.`, its name, and its `..` in the root.
            this.nodes[1].links = 2;
            this.name(ROOT);
        }
        let children = |id: InodeId| tree.directory(id).into_iter().flatten();
        // A list, not recursion: depth comes from the image.
        let mut open = vec![(ROOT, children(tree.root()))];
        while let Some((parent, entries)) = open.last_mut() {
            let parent = *parent;
            let Some((_, &id)) = entries.next() else {
                open.pop();
                continue;
            };
            let number = match this.numbers[id.0 as usize] {
                0 => this.add(Some(id), parent, 0),
                number => number,
            };
            this.name(number);
            if let Kind::Directory(_) = tree.inode(id).kind {
                // `.` here and `..` to the parent.
                this.name(number);
                this.name(parent);
                open.push((number, children(id)));
            }
        }
        this
    }

    fn add(&mut self, id: Option<InodeId>, parent: u32, links: u32) -> u32 {
        let number = number(self.nodes.len());
        self.nodes.push(Node {
            id,
            parent,
            links,
            xattr_block: 0,
            indexed: false,
        });
        if let Some(id) = id {
            self.numbers[id.0 as usize] = number;
        }
        number
    }

    fn name(&mut self, number: u32) {
        self.nodes[index(number)].links += 1;
    }

    /// The node with this number.
    pub(super) fn node(&self, number: u32) -> &Node {
        &self.nodes[index(number)]
    }

    /// The number of an inode of the tree; 0 if it is not reached.
    pub(super) fn of(&self, id: InodeId) -> u32 {
        self.numbers[id.0 as usize]
    }

    /// The largest number in use.
    pub(super) fn last(&self) -> u32 {
        number(self.nodes.len() - 1)
    }
}
