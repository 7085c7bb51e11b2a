//! Finding the kernel and the initramfs of an image.
//!
//! Distributions keep them in a few places; all are looked at, symbolic links
//! inside the image are followed, and of several kernels the newest counts.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;

use bootwright_disk::SourceReader;

use super::content;
use super::os_release::OsRelease;
use super::pe;
use super::uki::{self, Uki};
use super::version::{self, insert_descending};
use crate::tree::{FileContent, InodeId, Kind, Tree, TreeError, display};

/// Places where kernels are looked for; for messages.
pub const PLACES: &str = "/usr/lib/modules/*/vmlinuz, /usr/lib/modules/*/Image, the same in \
     /lib/modules, /boot/vmlinuz-*, /boot/vmlinux-*, /boot/Image-*, /usr/lib/modules/*/*.efi, \
     /boot/EFI/Linux/*.efi, /efi/EFI/Linux/*.efi";

/// Where each kernel's modules have a directory of its version. They are one
/// where `/lib` is a link; what is there first counts.
const MODULES: [&[u8]; 2] = [b"/usr/lib/modules/", b"/lib/modules/"];

/// Names of a kernel beside its modules; the second is openSUSE's on ARM.
const BESIDE_MODULES: [&[u8]; 2] = [b"/vmlinuz", b"/Image"];

/// What kernels in `/boot` are called before their version, later ones first.
const IN_BOOT: [&[u8]; 3] = [b"Image-", b"vmlinux-", b"vmlinuz-"];

/// Endings of files beside kernels that are none: copies for debuggers,
/// checksums, signatures and what was there before.
const NO_KERNEL: [&[u8]; 9] = [
    b".gz", b".xz", b".zst", b".bz2", b".hmac", b".sha512", b".sig", b".old", b".bak",
];

/// Longest name of a kernel package that is read, in bytes.
const MAX_PACKAGE: u64 = 256;

/// Largest text section of a unified kernel image that is read, in bytes.
const MAX_TEXT: u64 = 64 * 1024;

/// A kernel and what it boots with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Version as in the name of its modules' directory (`uname -r`).
    pub version: String,
    /// Where it is in the image.
    pub path: String,
    /// The kernel itself.
    pub linux: FileContent,
    /// Its initramfs.
    pub initrd: Option<Initrd>,
    /// Versions of older kernels, newest first.
    pub passed_over: Vec<String>,
}

/// An initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initrd {
    /// Where it is in the image.
    pub path: String,
    /// Its content.
    pub content: FileContent,
}

/// A unified kernel image that the image brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unified {
    /// Its kernel; paths are those of the UKI.
    pub kernel: Kernel,
    /// The whole UKI.
    pub content: FileContent,
    /// Its sections.
    pub uki: Uki,
    /// Its `.osrel` section.
    pub os_release: Option<OsRelease>,
    /// Its `.cmdline` section.
    pub command_line: Option<String>,
}

/// What an image has to boot with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovered {
    /// The newest kernel that is a file of its own.
    pub kernel: Option<Kernel>,
    /// The newest unified kernel image.
    pub unified: Option<Unified>,
    /// Files that look like a UKI by their place and name, but are none.
    pub warnings: Vec<String>,
}

/// Why no kernel was found.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is none.
    #[error("no kernel in the image; looked for {PLACES}")]
    NoKernel,
    /// Symbolic links loop on the way to one.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file could not be read.
    #[error("{path} in the image: {source}")]
    Read {
        /// The file in the image.
        path: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// Looks for kernels in a tree.
///
/// # Errors
/// There is none, or a UKI cannot be read from the store.
pub fn discover(tree: &Tree, reader: &SourceReader) -> Result<Discovered, KernelError> {
    let mut found = Discovered {
        kernel: newest_kernel(tree, reader)?,
        ..Discovered::default()
    };
    newest_unified(tree, reader, &mut found)?;
    if found.kernel.is_none() && found.unified.is_none() {
        return Err(KernelError::NoKernel);
    }
    Ok(found)
}

fn newest_kernel(tree: &Tree, reader: &SourceReader) -> Result<Option<Kernel>, KernelError> {
    let mut kernels: BTreeMap<Vec<u8>, Found> = BTreeMap::new();
    for prefix in IN_BOOT {
        for name in names(tree, b"/boot")? {
            let Some(version) = name.strip_prefix(prefix) else {
                continue;
            };
            if !NO_KERNEL.iter().any(|ending| name.ends_with(ending)) {
                let path = [b"/boot/", name].concat();
                kernels.insert(version.to_vec(), Found::at(path));
            }
        }
    }
    // What is beside its modules comes before what is in /boot, and /usr
    // before /.
    for modules in MODULES.into_iter().rev() {
        for version in names(tree, modules)? {
            for name in BESIDE_MODULES.into_iter().rev() {
                let path = [modules, version, name].concat();
                if file(tree, &path)?.is_some() {
                    let package = package(tree, reader, &[modules, version].concat())?;
                    kernels.insert(version.to_vec(), Found { path, package });
                }
            }
        }
    }
    // Arch Linux names the copies in /boot by the package.
    let copies: Vec<_> = kernels.values().filter_map(|k| k.package.clone()).collect();
    kernels.retain(|version, kernel| kernel.package.is_some() || !copies.contains(version));

    let mut newest_first = Vec::new();
    for (version, kernel) in kernels {
        if let Some(linux) = file(tree, &kernel.path)? {
            let candidate = (version, kernel, linux.clone());
            insert_descending(&mut newest_first, candidate, newer);
        }
    }
    let mut rest = newest_first.into_iter();
    let Some((version, kernel, linux)) = rest.next() else {
        return Ok(None);
    };
    let initrd = match (initrd_for(tree, &version)?, &kernel.package) {
        (None, Some(package)) => initrd_for(tree, package)?,
        (found, _) => found,
    };
    Ok(Some(Kernel {
        initrd,
        version: display(&version),
        path: display(&kernel.path),
        linux,
        passed_over: rest.map(|(version, ..)| display(&version)).collect(),
    }))
}

/// A kernel that is a file of its own.
struct Found {
    path: Vec<u8>,
    /// What Arch Linux calls its package, and its files in `/boot`.
    package: Option<Vec<u8>>,
}

impl Found {
    fn at(path: Vec<u8>) -> Self {
        Self {
            path,
            package: None,
        }
    }
}

/// The package of a kernel, as `pkgbase` beside its modules says on Arch
/// Linux.
fn package(
    tree: &Tree,
    reader: &SourceReader,
    directory: &[u8],
) -> Result<Option<Vec<u8>>, KernelError> {
    let path = [directory, b"/pkgbase"].concat();
    let Some(content) = file(tree, &path)? else {
        return Ok(None);
    };
    let read = content::read(content, reader, 0..content.size.min(MAX_PACKAGE));
    let text = read.map_err(|source| KernelError::Read {
        path: display(&path),
        source,
    })?;
    Ok(Some(text.trim_ascii().to_vec()).filter(|name| !name.is_empty() && !name.contains(&b'/')))
}

/// The initramfs of a version: beside the modules, or in /boot by the names
/// of Debian, Fedora, openSUSE and Alpine.
fn initrd_for(tree: &Tree, version: &[u8]) -> Result<Option<Initrd>, TreeError> {
    let [usr, root] = MODULES;
    let places: [(&[u8], &[u8]); 8] = [
        (usr, b"/initramfs.img"),
        (usr, b"/initrd"),
        (root, b"/initramfs.img"),
        (root, b"/initrd"),
        (b"/boot/initrd.img-", b""),
        (b"/boot/initramfs-", b".img"),
        (b"/boot/initrd-", b""),
        (b"/boot/initramfs-", b""),
    ];
    for (before, after) in places {
        let path = [before, version, after].concat();
        if let Some(content) = file(tree, &path)? {
            return Ok(Some(Initrd {
                path: display(&path),
                content: content.clone(),
            }));
        }
    }
    Ok(None)
}

fn newest_unified(
    tree: &Tree,
    reader: &SourceReader,
    found: &mut Discovered,
) -> Result<(), KernelError> {
    let mut newest_first = Vec::new();
    let mut seen = Vec::new();
    let mut candidate = |version: &[u8], path: Vec<u8>| {
        // Two paths lead to one file where a directory is a link.
        let id = lookup(tree, &path)?.filter(|id| !seen.contains(id));
        if let (Some(id), Some(content)) = (id, file(tree, &path)?) {
            seen.push(id);
            let candidate = (version.to_vec(), path, content.clone());
            insert_descending(&mut newest_first, candidate, newer);
        }
        Ok::<_, TreeError>(())
    };
    for directory in [&b"/boot/EFI/Linux/"[..], b"/efi/EFI/Linux/"] {
        for name in names(tree, directory)? {
            if let Some(version) = name.strip_suffix(b".efi") {
                candidate(version, [directory, name].concat())?;
            }
        }
    }
    for modules in MODULES {
        for version in names(tree, modules)? {
            let directory = [modules, version].concat();
            for name in names(tree, &directory)? {
                if name.ends_with(b".efi") {
                    candidate(version, [&directory, &b"/"[..], name].concat())?;
                }
            }
        }
    }
    for (version, path, content) in newest_first {
        let path = display(&path);
        let version = display(&version);
        if let Some(newest) = &mut found.unified {
            newest.kernel.passed_over.push(version);
            continue;
        }
        let read = |range| {
            content::read(&content, reader, range).map_err(|source| KernelError::Read {
                path: path.clone(),
                source,
            })
        };
        match uki::parse(&read(0..pe::HEAD_SIZE)?, content.size) {
            Ok(uki) => found.unified = Some(unified(path.clone(), version, &content, uki, read)?),
            Err(error) => found
                .warnings
                .push(format!("{path} is passed over: {error}")),
        }
    }
    Ok(())
}

/// Opens a UKI. `name` stands for the version if it has no `.uname`.
fn unified(
    path: String,
    name: String,
    content: &FileContent,
    uki: Uki,
    read: impl Fn(std::ops::Range<u64>) -> Result<Vec<u8>, KernelError>,
) -> Result<Unified, KernelError> {
    let text = |section: &str| {
        let Some(section) = uki.section(section) else {
            return Ok(None);
        };
        let end = section.range().end.min(section.offset + MAX_TEXT);
        Ok::<_, KernelError>(Some(read(section.offset..end)?))
    };
    let line = |bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.trim_matches(|c: char| c == '\0' || c.is_whitespace())
            .to_owned()
    };
    let part = |name: &str| {
        uki.section(name)
            .map(|s| content::slice(content, s.range()))
    };
    let version = text(".uname")?.map(line).filter(|v| !v.is_empty());
    Ok(Unified {
        kernel: Kernel {
            version: version.unwrap_or(name),
            linux: part(".linux").unwrap_or_default(),
            initrd: part(".initrd").map(|content| Initrd {
                path: path.clone(),
                content,
            }),
            path,
            passed_over: Vec::new(),
        },
        content: content.clone(),
        os_release: text(".osrel")?.map(|bytes| OsRelease::parse(&bytes)),
        command_line: text(".cmdline")?.map(line),
        uki,
    })
}

/// Of two kernels or UKIs: which version is newer.
fn newer<P>(a: &(Vec<u8>, P, FileContent), b: &(Vec<u8>, P, FileContent)) -> Ordering {
    version::compare(&a.0, &b.0)
}

/// The names in a directory in byte order; none if it is not there.
pub(crate) fn names<'a>(tree: &'a Tree, path: &[u8]) -> Result<Vec<&'a [u8]>, TreeError> {
    let directory = lookup(tree, path)?.and_then(|id| tree.directory(id));
    Ok(directory
        .map(|entries| entries.keys().map(|name| &**name).collect())
        .unwrap_or_default())
}

/// The regular file at `path` unless it is missing or empty.
pub(crate) fn file<'a>(tree: &'a Tree, path: &[u8]) -> Result<Option<&'a FileContent>, TreeError> {
    let inode = lookup(tree, path)?.map(|id| &tree.inode(id).kind);
    Ok(match inode {
        Some(Kind::Regular(content)) if content.size > 0 => Some(content),
        _ => None,
    })
}

fn lookup(tree: &Tree, path: &[u8]) -> Result<Option<InodeId>, TreeError> {
    match tree.resolve(path) {
        Ok(id) => Ok(Some(id)),
        Err(TreeError::NotFound(_) | TreeError::NotADirectory(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
