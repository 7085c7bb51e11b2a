//! Directories in the making and as bytes (fatgen103, pages 22 to 30).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::name::{self, ShortName, UNITS_PER_ENTRY};
use super::time::FatTime;
use super::{FatError, FatFile};

pub(super) const ENTRY: usize = 32;
/// The most entries that a directory has, long names' included.
pub(super) const MAX_ENTRIES: usize = 65_536;

pub(super) const ATTR_VOLUME_ID: u8 = 0x08;
pub(super) const ATTR_DIRECTORY: u8 = 0x10;
const ATTR_ARCHIVE: u8 = 0x20;
pub(super) const ATTR_LONG_NAME: u8 = 0x0f;
/// Marks the first stored, which is the last part of a long name.
pub(super) const LAST_LONG_ENTRY: u8 = 0x40;

/// A directory; names it by its place in [`Directories`].
#[derive(Debug)]
pub(super) struct Directory<'a> {
    pub(super) path: String,
    parent: usize,
    /// By folded name, which is the order in which entries are stored.
    children: BTreeMap<String, Child<'a>>,
    short_names: Vec<ShortName>,
}

#[derive(Debug)]
struct Child<'a> {
    name: &'a str,
    node: Node,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
enum Node {
    Directory(usize),
    File(usize),
}

/// All directories of a volume, the root first, each after its parent.
#[derive(Debug)]
pub(super) struct Directories<'a> {
    pub(super) list: Vec<Directory<'a>>,
}

impl<'a> Directories<'a> {
    /// The directories that hold `files`, which are sorted by path.
    pub(super) fn new(files: &[&'a FatFile]) -> Result<Self, FatError> {
        let mut all = Self {
            list: vec![Directory::new(String::new(), 0)],
        };
        for (index, file) in files.iter().enumerate() {
            all.insert(index, &file.path)?;
        }
        for directory in &mut all.list {
            let names: Vec<&str> = directory.children.values().map(|c| c.name).collect();
            let short_names = name::short_names(&names);
            directory.short_names = short_names
                .filter(|_| directory.entries() <= MAX_ENTRIES)
                .ok_or_else(|| FatError::DirectoryTooLarge {
                    path: directory.path.clone(),
                })?;
        }
        Ok(all)
    }

    fn insert(&mut self, index: usize, path: &'a str) -> Result<(), FatError> {
        let mut names: Vec<&str> = path.split('/').collect();
        let problem = name::path_problem(path);
        if let Some(reason) = problem.or_else(|| names.iter().find_map(|n| name::problem(n))) {
            let path = path.to_owned();
            return Err(FatError::BadPath { path, reason });
        }
        let name = names.pop().unwrap_or_default();
        let mut here = 0;
        for name in names {
            here = self.subdirectory(here, name, path)?;
        }
        let Directory {
            path: parent,
            children,
            ..
        } = &mut self.list[here];
        match children.entry(name::fold(name)) {
            Entry::Vacant(place) => {
                let node = Node::File(index);
                place.insert(Child { name, node });
                Ok(())
            }
            Entry::Occupied(there) => Err(FatError::Duplicate {
                path: path.to_owned(),
                other: join(parent, there.get().name),
            }),
        }
    }

    /// The directory called `name` in directory `here`, made if missing; for
    /// a file at `path`.
    fn subdirectory(&mut self, here: usize, name: &'a str, path: &str) -> Result<usize, FatError> {
        let next = self.list.len();
        let Directory {
            path: parent,
            children,
            ..
        } = &mut self.list[here];
        match children.entry(name::fold(name)) {
            Entry::Vacant(place) => {
                let node = Node::Directory(next);
                place.insert(Child { name, node });
                let directory = Directory::new(join(parent, name), here);
                self.list.push(directory);
                Ok(next)
            }
            Entry::Occupied(there) => match there.get().node {
                Node::Directory(index) => Ok(index),
                Node::File(_) => Err(FatError::Duplicate {
                    path: path.to_owned(),
                    other: join(parent, there.get().name),
                }),
            },
        }
    }
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        _ => format!("{directory}/{name}"),
    }
}

/// What the entries of a directory need to know of the rest of the volume.
#[derive(Debug)]
pub(super) struct Context<'a> {
    /// First cluster of each directory.
    pub(super) directories: &'a [u32],
    /// First cluster and size of each file.
    pub(super) files: &'a [(u32, u32)],
    /// The label's entry in the root directory.
    pub(super) label: Option<ShortName>,
    pub(super) time: FatTime,
}

impl Directory<'_> {
    fn new(path: String, parent: usize) -> Self {
        Self {
            path,
            parent,
            children: BTreeMap::new(),
            short_names: Vec::new(),
        }
    }

    /// An upper bound, reached unless names need no long form, of the number
    /// of entries, two for the label or `.` and `..` included.
    pub(super) fn entries(&self) -> usize {
        let names = self.children.values();
        2 + names
            .map(|c| 1 + c.name.encode_utf16().count().div_ceil(UNITS_PER_ENTRY))
            .sum::<usize>()
    }

    /// The directory's bytes; `index` is its place in [`Directories`].
    pub(super) fn encode(&self, index: usize, context: &Context<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries() * ENTRY);
        let mut put = |name: &ShortName, attributes, cluster, size| {
            out.extend_from_slice(&entry(name, attributes, cluster, size, context.time));
        };
        if index == 0 {
            if let Some(label) = &context.label {
                put(label, ATTR_VOLUME_ID, 0, 0);
            }
        } else {
            let parent = match self.parent {
                0 => 0, // the root is 0 here, whatever its cluster
                parent => context.directories[parent],
            };
            put(
                b".          ",
                ATTR_DIRECTORY,
                context.directories[index],
                0,
            );
            put(b"..         ", ATTR_DIRECTORY, parent, 0);
        }
        for (child, short) in self.children.values().zip(&self.short_names) {
            if name::display(short) != child.name {
                long_entries(&mut out, child.name, name::checksum(short));
            }
            let (attributes, (cluster, size)) = match child.node {
                Node::Directory(index) => (ATTR_DIRECTORY, (context.directories[index], 0)),
                Node::File(index) => (ATTR_ARCHIVE, context.files[index]),
            };
            out.extend_from_slice(&entry(short, attributes, cluster, size, context.time));
        }
        out
    }
}

fn entry(name: &ShortName, attributes: u8, cluster: u32, size: u32, t: FatTime) -> [u8; ENTRY] {
    let mut b = [0; ENTRY];
    b[0..11].copy_from_slice(name);
    b[11] = attributes;
    b[13] = t.tenth;
    b[14..16].copy_from_slice(&t.time.to_le_bytes());
    b[16..18].copy_from_slice(&t.date.to_le_bytes());
    b[18..20].copy_from_slice(&t.date.to_le_bytes());
    b[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
    b[22..24].copy_from_slice(&t.time.to_le_bytes());
    b[24..26].copy_from_slice(&t.date.to_le_bytes());
    b[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
    b[28..32].copy_from_slice(&size.to_le_bytes());
    b
}

/// Where the code units of a long name lie in an entry.
pub(super) const UNIT_OFFSETS: [usize; UNITS_PER_ENTRY] =
    [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A long name's entries, its last part first.
fn long_entries(out: &mut Vec<u8>, name: &str, checksum: u8) {
    let units: Vec<u16> = name.encode_utf16().collect();
    let parts = units.chunks(UNITS_PER_ENTRY);
    let count = parts.len() as u8; // at most 20, for 255 units
    for (order, part) in (1..=count).zip(parts).rev() {
        let mut b = [0; ENTRY];
        b[0] = order | if order == count { LAST_LONG_ENTRY } else { 0 };
        b[11] = ATTR_LONG_NAME;
        b[13] = checksum;
        // A part that is not full ends in NUL and is padded with 0xFFFF.
        let padded = part
            .iter()
            .copied()
            .chain([0])
            .chain(std::iter::repeat(0xffff));
        for (at, unit) in UNIT_OFFSETS.into_iter().zip(padded) {
            b[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        out.extend_from_slice(&b);
    }
}
