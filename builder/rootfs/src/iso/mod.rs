//! ISO 9660: a few small files become a read-only volume.
//!
//! [`format()`] takes paths with their contents and gives the extents of a
//! volume with three sets of names: those of ECMA-119 for anybody, Rock Ridge's
//! for Linux (names of 255 bytes, modes), and Joliet's for Windows. It is what
//! virtual machines are handed data on: cloud-init's, and the files of
//! ConfigMaps and Secrets, which KubeVirt gives on such volumes, too.

mod date;
mod names;
mod record;
mod tree;

use bootwright_disk::Extent;
use bootwright_image::Timestamp;
use bytes::Bytes;

use self::date::Date;
use self::names::{Identifier, Kind};
use self::record::{Place, Susp, both16, both32};
use self::tree::Node;
use crate::volume::Volume;

/// A sector, and a logical block (ECMA-119, 6.1 and 6.2).
const SECTOR: usize = 2048;

/// Sectors before the first volume descriptor (ECMA-119, 6.2.1).
const SYSTEM_AREA: usize = 16;

/// The longest name of a file or directory: Linux's.
pub const MAX_NAME: usize = 255;

/// The longest label (ECMA-119, 8.4.7).
pub const MAX_LABEL: usize = 32;

/// The most that all files hold together.
pub const MAX_CONTENT: u64 = 256 << 20;

/// The most files and directories; path tables number directories with 16 bits.
pub const MAX_NODES: usize = 32_768;

/// A file to be put on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsoFile {
    /// Path from the root of the volume; directories are made as needed.
    pub path: String,
    /// What is in it.
    pub content: Bytes,
}

/// How to format a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The volume's label: at most [`MAX_LABEL`] printable ASCII characters.
    /// Case is kept, as Linux's tools expect it, though ECMA-119 knows capital
    /// letters only.
    pub label: String,
    /// The time of the volume and all that is on it.
    pub time: Timestamp,
}

/// Why files could not be put on a volume.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsoError {
    /// A path that the volume cannot hold.
    #[error("{path:?} cannot be a path on an ISO 9660 volume: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two files of one path, or a file where a directory is needed.
    #[error("{0:?} is twice on the ISO 9660 volume, or is a file and a directory")]
    Duplicate(String),
    /// A label that the volume cannot have.
    #[error("{0:?} cannot be a label: at most {MAX_LABEL} printable ASCII characters")]
    BadLabel(String),
    /// More than the volume can hold.
    #[error("{what} is more than an ISO 9660 volume of ours holds ({limit})")]
    TooMuch {
        /// What there is too much of.
        what: String,
        /// How much may be there.
        limit: String,
    },
}

/// Formats a volume that holds `files`.
///
/// The result depends on the set of files and the options alone, not on the
/// files' order.
///
/// # Errors
/// A path or the label is not one that a volume can have, two paths are the
/// same, or there is too much.
pub fn format(files: &[IsoFile], options: &Options) -> Result<Volume, IsoError> {
    let printable = |c: char| c.is_ascii_graphic() || c == ' ';
    if options.label.len() > MAX_LABEL || !options.label.chars().all(printable) {
        return Err(IsoError::BadLabel(options.label.clone()));
    }
    let total: u64 = files.iter().map(|file| file.content.len() as u64).sum();
    if total > MAX_CONTENT {
        return Err(IsoError::TooMuch {
            what: format!("{total} bytes"),
            limit: format!("{MAX_CONTENT} bytes"),
        });
    }
    let nodes = tree::nodes(files)?;
    Ok(Layout::of(files, &nodes, options).volume())
}

/// Where everything is, in sectors.
struct Layout<'a> {
    files: &'a [IsoFile],
    nodes: &'a [Node],
    options: &'a Options,
    date: Date,
    plain: Hierarchy,
    joliet: Hierarchy,
    /// The first sector of each node that is a file; 0 for empty ones.
    contents: Vec<u32>,
    sectors: u32,
}

/// One of the two hierarchies of directories.
#[derive(Debug, Default)]
struct Hierarchy {
    /// The name of each node; that of the root is one zero byte.
    names: Vec<Identifier>,
    /// Children of each directory, in the order of their names.
    children: Vec<Vec<usize>>,
    /// Where each directory begins, and its length in bytes.
    places: Vec<Place>,
    /// Where the sectors with what does not fit into records begin.
    overflow: u32,
    /// The tables of directories with numbers of either order.
    tables: [u32; 2],
    table_len: u32,
}

impl<'a> Layout<'a> {
    fn of(files: &'a [IsoFile], nodes: &'a [Node], options: &'a Options) -> Self {
        let mut layout = Self {
            files,
            nodes,
            options,
            date: Date::new(options.time),
            plain: Hierarchy::new(nodes, Kind::Plain),
            joliet: Hierarchy::new(nodes, Kind::Joliet),
            contents: vec![0; nodes.len()],
            // Two descriptors and their terminator.
            sectors: SYSTEM_AREA as u32 + 3,
        };
        for kind in [Kind::Plain, Kind::Joliet] {
            layout.place(kind);
        }
        for (index, node) in nodes.iter().enumerate() {
            let len = node.file.map_or(0, |file| files[file].content.len());
            if len > 0 {
                layout.contents[index] = layout.take(len);
            }
        }
        layout
    }

    fn take(&mut self, bytes: usize) -> u32 {
        let first = self.sectors;
        self.sectors += bytes.div_ceil(SECTOR) as u32;
        first
    }

    fn hierarchy(&self, kind: Kind) -> &Hierarchy {
        match kind {
            Kind::Plain => &self.plain,
            Kind::Joliet => &self.joliet,
        }
    }

    /// Gives the tables and directories of a hierarchy their sectors.
    fn place(&mut self, kind: Kind) {
        let table_len = self.table(kind, true).len();
        let tables = [self.take(table_len), self.take(table_len)];
        // Lengths do not depend on where anything is.
        let mut overflowing = Vec::new();
        let directories: Vec<usize> = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].file.is_none())
            .collect();
        let mut places = vec![Place::default(); self.nodes.len()];
        for index in directories {
            let len = self.directory(kind, index, &mut overflowing).len();
            places[index] = Place {
                sector: self.take(len),
                len: len as u32,
            };
        }
        let overflow = self.take(overflowing.len());
        let hierarchy = match kind {
            Kind::Plain => &mut self.plain,
            Kind::Joliet => &mut self.joliet,
        };
        hierarchy.tables = tables;
        hierarchy.table_len = table_len as u32;
        hierarchy.places = places;
        hierarchy.overflow = overflow;
    }

    /// Where a node's content is.
    fn node(&self, kind: Kind, index: usize) -> Place {
        match self.nodes[index].file {
            Some(file) => Place {
                sector: self.contents[index],
                len: self.files[file].content.len() as u32,
            },
            None => {
                let places = &self.hierarchy(kind).places;
                places.get(index).copied().unwrap_or_default()
            }
        }
    }

    /// The sectors of a directory (ECMA-119, 6.8). What does not fit into its
    /// records goes to `overflowing`.
    fn directory(&self, kind: Kind, index: usize, overflowing: &mut Vec<u8>) -> Vec<u8> {
        let hierarchy = self.hierarchy(kind);
        let mut bytes = Vec::new();
        let node = &self.nodes[index];
        let mut add = |name: &[u8], of: usize, susp: Option<Susp<'_>>| {
            let place = self.node(kind, of);
            let is_directory = self.nodes[of].file.is_none();
            let susp = susp.map_or_else(Vec::new, |susp| susp.encode());
            let room = record::room(name);
            let susp = match susp.len() <= room {
                true => susp,
                false => {
                    // All of it goes to the overflow, but where that is.
                    let at = overflowing.len();
                    let left = SECTOR - at % SECTOR;
                    // What is continued is within one sector (SUSP, 5.1).
                    if left < susp.len() {
                        overflowing.resize(at + left, 0);
                    }
                    let at = overflowing.len();
                    overflowing.extend(&susp);
                    let sector = hierarchy.overflow + (at / SECTOR) as u32;
                    record::continued(sector, (at % SECTOR) as u32, susp.len() as u32)
                }
            };
            let record = record::record(name, place, is_directory, self.date, &susp);
            let left = SECTOR - bytes.len() % SECTOR;
            // A record is within one sector (ECMA-119, 6.8.1.1).
            if left < record.len() {
                bytes.resize(bytes.len() + left, 0);
            }
            bytes.extend(record);
        };
        let links = |of: usize| match self.nodes[of].file {
            Some(_) => 1,
            None => 2 + self.nodes[of].directories,
        };
        let susp = |of: usize, name| {
            (kind == Kind::Plain).then(|| Susp {
                root: name == record::Named::Root,
                directory: self.nodes[of].file.is_none(),
                links: links(of),
                name,
            })
        };
        let own = match index {
            0 => record::Named::Root,
            _ => record::Named::Own,
        };
        add(&[0], index, susp(index, own));
        add(&[1], node.parent, susp(node.parent, record::Named::Parent));
        for child in &hierarchy.children[index] {
            let named = record::Named::Name(&self.nodes[*child].name);
            let name = &hierarchy.names[*child].0;
            add(name, *child, susp(*child, named));
        }
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        bytes
    }

    /// The table of directories (ECMA-119, 6.9), parents before children.
    fn table(&self, kind: Kind, little: bool) -> Vec<u8> {
        let hierarchy = self.hierarchy(kind);
        let mut bytes = Vec::new();
        let mut numbers = vec![0u16; self.nodes.len()];
        let mut level = vec![0];
        let mut number = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for index in level {
                number += 1;
                numbers[index] = number;
                let name = &hierarchy.names[index].0;
                let place = self.node(kind, index);
                let parent = numbers[self.nodes[index].parent];
                bytes.extend([name.len() as u8, 0]);
                match little {
                    true => {
                        bytes.extend(place.sector.to_le_bytes());
                        bytes.extend(parent.to_le_bytes());
                    }
                    false => {
                        bytes.extend(place.sector.to_be_bytes());
                        bytes.extend(parent.to_be_bytes());
                    }
                }
                bytes.extend(name);
                bytes.resize(bytes.len().next_multiple_of(2), 0);
                let children = hierarchy.children[index].iter().copied();
                next.extend(children.filter(|child| self.nodes[*child].file.is_none()));
            }
            level = next;
        }
        bytes
    }

    /// A volume descriptor: the primary one (ECMA-119, 8.4), or Joliet's
    /// supplementary one (8.5).
    fn descriptor(&self, kind: Kind) -> Vec<u8> {
        let hierarchy = self.hierarchy(kind);
        let text = |text: &str, len: usize| names::field(kind, text, len);
        let mut bytes = Vec::with_capacity(SECTOR);
        bytes.push(match kind {
            Kind::Plain => 1,
            Kind::Joliet => 2,
        });
        bytes.extend(b"CD001\x01\x00");
        bytes.extend(text("LINUX", 32));
        bytes.extend(text(&self.options.label, 32));
        bytes.extend([0; 8]);
        bytes.extend(both32(self.size() / SECTOR as u32));
        let mut escapes = [0; 32];
        if kind == Kind::Joliet {
            // UCS-2, level 3 (Joliet, "Escape sequences").
            escapes[..3].copy_from_slice(b"%/E");
        }
        bytes.extend(escapes);
        bytes.extend(both16(1));
        bytes.extend(both16(1));
        bytes.extend(both16(SECTOR as u16));
        bytes.extend(both32(hierarchy.table_len));
        bytes.extend(hierarchy.tables[0].to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(hierarchy.tables[1].to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(record::record(
            &[0],
            self.node(kind, 0),
            true,
            self.date,
            &[],
        ));
        for _ in 0..4 {
            bytes.extend(text("", 128));
        }
        for _ in 0..3 {
            bytes.extend(text("", 37));
        }
        let date = self.date.digits();
        bytes.extend(date);
        bytes.extend(date);
        bytes.extend(Date::NONE);
        bytes.extend(date);
        bytes.push(1);
        bytes.resize(SECTOR, 0);
        bytes
    }

    /// Length of the volume.
    fn size(&self) -> u32 {
        (self.sectors * SECTOR as u32).next_multiple_of(4096)
    }

    fn volume(mut self) -> Volume {
        let mut extents = Vec::new();
        let mut put = |sector: u32, bytes: Vec<u8>| {
            if !bytes.is_empty() {
                extents.push(Extent::literal(u64::from(sector) * SECTOR as u64, bytes));
            }
        };
        let mut descriptors = self.descriptor(Kind::Plain);
        descriptors.extend(self.descriptor(Kind::Joliet));
        descriptors.extend(b"\xffCD001\x01");
        descriptors.resize(3 * SECTOR, 0);
        put(SYSTEM_AREA as u32, descriptors);
        for kind in [Kind::Plain, Kind::Joliet] {
            let [little, big] = self.hierarchy(kind).tables;
            put(little, self.table(kind, true));
            put(big, self.table(kind, false));
            let mut overflowing = Vec::new();
            for index in 0..self.nodes.len() {
                if self.nodes[index].file.is_none() {
                    let bytes = self.directory(kind, index, &mut overflowing);
                    put(self.node(kind, index).sector, bytes);
                }
            }
            put(self.hierarchy(kind).overflow, overflowing);
        }
        for (index, sector) in std::mem::take(&mut self.contents).into_iter().enumerate() {
            if sector > 0
                && let Some(file) = self.nodes[index].file
            {
                let content = self.files[file].content.clone();
                let start = u64::from(sector) * SECTOR as u64;
                extents.push(Extent::literal(start, content));
            }
        }
        Volume {
            size: u64::from(self.size()),
            extents,
        }
    }
}

impl Hierarchy {
    fn new(nodes: &[Node], kind: Kind) -> Self {
        let mut children = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate().skip(1) {
            children[node.parent].push(index);
        }
        let mut names = vec![Identifier(vec![0]); nodes.len()];
        for siblings in &mut children {
            let texts = siblings.iter().map(|child| {
                let node = &nodes[*child];
                (node.name.as_str(), node.file.is_some())
            });
            let given = names::identifiers(kind, texts);
            for (child, name) in siblings.iter().zip(given) {
                names[*child] = name;
            }
            siblings.sort_by(|a, b| names[*a].cmp(&names[*b]));
        }
        Self {
            names,
            children,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
