//! Placing files on a volume.

use bootwright_disk::Extent;
use bytes::Bytes;

use super::directory::{Context, Directories, Directory, ENTRY};
use super::geometry::{FATS, Geometry, ROOT_CLUSTER, fat};
use super::time::FatTime;
use super::{DEFAULT_SIZE, FatError, FatFile, Options, name};
use crate::volume::Volume;

/// Formats a FAT32 volume that holds `files`.
///
/// The result depends on the set of files and the options alone, not on the
/// files' order. Directories come first, then the files in order of their
/// paths, each in one run; free space follows.
///
/// # Errors
/// A path or the label is not one that FAT can hold, two paths are the same
/// to FAT, or a file or all together are too large.
pub fn format(files: &[FatFile], options: &Options) -> Result<Volume, FatError> {
    let label =
        name::label(&options.label).ok_or_else(|| FatError::BadLabel(options.label.clone()))?;
    let mut files: Vec<&FatFile> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let sizes = files
        .iter()
        .map(|file| file_size(file))
        .collect::<Result<Vec<u32>, _>>()?;
    let directories = Directories::new(&files)?.list;

    let size = options
        .size
        .unwrap_or_else(|| default_size(&directories, &sizes));
    let geometry = Geometry::new(size)?;
    let mut allocator = Allocator {
        clusters: geometry.clusters,
        used: 0,
    };
    let paths = directories
        .iter()
        .map(|d| &d.path)
        .chain(files.iter().map(|f| &f.path));
    let lens: Vec<u64> = lens(&directories, &sizes)
        .map(|len| len.div_ceil(geometry.cluster))
        .collect();
    let mut firsts = Vec::with_capacity(lens.len());
    for (path, &len) in paths.zip(&lens) {
        firsts.push(allocator.take(len).ok_or_else(|| FatError::NoSpace {
            path: path.clone(),
            size,
            needed: needed_size(&directories, &sizes),
        })?);
    }
    let (directory_clusters, file_clusters) = firsts.split_at(directories.len());

    let places: Vec<(u32, u32)> = file_clusters.iter().copied().zip(sizes).collect();
    let context = Context {
        directories: directory_clusters,
        files: &places,
        label: (!options.label.is_empty()).then_some(label),
        time: FatTime::new(options.time),
    };
    let used = allocator.used as u32;
    let chains: Bytes = fat(lens.iter().map(|&len| len as u32)).into();
    let mut extents = vec![Extent::literal(
        0,
        geometry.boot_sectors(options.volume_id, &label, used),
    )];
    extents.extend((0..FATS).map(|n| Extent::literal(geometry.fat(n), chains.clone())));
    for (index, directory) in directories.iter().enumerate() {
        let bytes = directory.encode(index, &context);
        if !bytes.is_empty() {
            extents.push(Extent::literal(
                geometry.offset(directory_clusters[index]),
                bytes,
            ));
        }
    }
    for (file, &(cluster, _)) in files.iter().zip(&places) {
        if cluster == 0 {
            continue;
        }
        let start = geometry.offset(cluster);
        let parts = file.content.extents.iter();
        let parts = parts.filter_map(|extent| extent.slice(0..file.content.size));
        extents.extend(parts.map(|mut extent| {
            extent.start += start;
            extent
        }));
    }
    Ok(Volume { size, extents })
}

fn file_size(file: &FatFile) -> Result<u32, FatError> {
    u32::try_from(file.content.size).map_err(|_| FatError::FileTooLarge {
        path: file.path.clone(),
        size: file.content.size,
    })
}

/// Bytes that each directory and each file needs, in the order in which they
/// are placed.
fn lens<'a>(directories: &'a [Directory<'_>], sizes: &'a [u32]) -> impl Iterator<Item = u64> + 'a {
    let directories = directories.iter().map(|d| (d.entries() * ENTRY) as u64);
    directories.chain(sizes.iter().map(|&size| size.into()))
}

/// Bytes taken, with the largest clusters there are.
fn content(directories: &[Directory<'_>], sizes: &[u32]) -> u64 {
    lens(directories, sizes)
        .map(|len| len.next_multiple_of(32 << 10))
        .sum()
}

/// See [`DEFAULT_SIZE`].
fn default_size(directories: &[Directory<'_>], sizes: &[u32]) -> u64 {
    with_fats(content(directories, sizes).saturating_mul(3)).max(DEFAULT_SIZE)
}

fn needed_size(directories: &[Directory<'_>], sizes: &[u32]) -> u64 {
    with_fats(content(directories, sizes)).max(super::MIN_SIZE)
}

/// The size of a volume that has room for `content` bytes: the FATs take 8
/// bytes for each cluster, so at most a 64th of the whole.
fn with_fats(content: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    let mib = content.div_ceil(MIB);
    (mib.saturating_mul(66) / 64 + 2).saturating_mul(MIB)
}

/// Hands out clusters one after the other.
#[derive(Debug)]
struct Allocator {
    clusters: u64,
    used: u64,
}

impl Allocator {
    /// The first of `count` clusters, or `None` if there are not so many;
    /// 0 for none, as directory entries have it.
    fn take(&mut self, count: u64) -> Option<u32> {
        if count == 0 {
            return Some(0);
        }
        let first = u64::from(ROOT_CLUSTER) + self.used;
        self.used = self
            .used
            .checked_add(count)
            .filter(|&used| used <= self.clusters)?;
        // Geometry keeps volumes under 2^32 sectors.
        Some(first as u32)
    }
}
