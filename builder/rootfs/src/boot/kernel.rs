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
pub const PLACES: &str = "/usr/lib/modules/*/vmlinuz, /boot/vmlinuz-*, /boot/vmlinux-*, \
     /usr/lib/modules/*/*.efi, /boot/EFI/Linux/*.efi";

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
        kernel: newest_kernel(tree)?,
        ..Discovered::default()
    };
    newest_unified(tree, reader, &mut found)?;
    if found.kernel.is_none() && found.unified.is_none() {
        return Err(KernelError::NoKernel);
    }
    Ok(found)
}

fn newest_kernel(tree: &Tree) -> Result<Option<Kernel>, TreeError> {
    // By version; what is under /usr comes first and stays.
    let mut kernels: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for name in names(tree, b"/boot")? {
        for prefix in ["vmlinuz-", "vmlinux-"] {
            if let Some(version) = name.strip_prefix(prefix.as_bytes()) {
                kernels.insert(version.to_vec(), [b"/boot/", name].concat());
            }
        }
    }
    for version in names(tree, b"/usr/lib/modules")? {
        let path = [b"/usr/lib/modules/", version, b"/vmlinuz"].concat();
        if file(tree, &path)?.is_some() {
            kernels.insert(version.to_vec(), path);
        }
    }
    let mut newest_first = Vec::new();
    for (version, path) in kernels {
        if let Some(linux) = file(tree, &path)? {
            let candidate = (version, path, linux.clone());
            insert_descending(&mut newest_first, candidate, newer);
        }
    }
    let mut rest = newest_first.into_iter();
    let Some((version, path, linux)) = rest.next() else {
        return Ok(None);
    };
    Ok(Some(Kernel {
        initrd: initrd_for(tree, &version)?,
        version: display(&version),
        path: display(&path),
        linux,
        passed_over: rest.map(|(version, ..)| display(&version)).collect(),
    }))
}

/// The initramfs of a version: beside the modules, or in /boot by the names
/// of Debian, Fedora, openSUSE and Alpine.
fn initrd_for(tree: &Tree, version: &[u8]) -> Result<Option<Initrd>, TreeError> {
    let places: [(&[u8], &[u8]); 6] = [
        (b"/usr/lib/modules/", b"/initramfs.img"),
        (b"/usr/lib/modules/", b"/initrd"),
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
    let mut candidate = |version: &[u8], path: Vec<u8>| {
        if let Some(content) = file(tree, &path)? {
            let candidate = (version.to_vec(), path, content.clone());
            insert_descending(&mut newest_first, candidate, newer);
        }
        Ok::<_, TreeError>(())
    };
    for name in names(tree, b"/boot/EFI/Linux")? {
        if let Some(version) = name.strip_suffix(b".efi") {
            candidate(version, [b"/boot/EFI/Linux/", name].concat())?;
        }
    }
    for version in names(tree, b"/usr/lib/modules")? {
        let directory = [b"/usr/lib/modules/", version].concat();
        for name in names(tree, &directory)? {
            if name.ends_with(b".efi") {
                candidate(version, [&directory, &b"/"[..], name].concat())?;
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

/// A kernel or UKI: its version, path and content.
type Candidate = (Vec<u8>, Vec<u8>, FileContent);

fn newer(a: &Candidate, b: &Candidate) -> Ordering {
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
