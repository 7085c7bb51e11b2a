//! Files of the host for the tree: `SRC:DEST[:MODE]`.
//!
//! Owner, time and umask of the host must not show: everything belongs to
//! root, has the build's time, and is 0755 (directories, and files that their
//! owner may execute) or 0644.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use bootwright_disk::{Content, SourceId};
use bootwright_image::Timestamp;

use super::CustomizeError;
use crate::tree::{
    DirectoryOptions, FileContent, Inode, InodeId, Kind, Tree, TreeError, display, host_file,
    last_component, split,
};

/// Files up to this size are copied when the tree is made; larger ones stay
/// where they are until the disk is written.
const MAX_LITERAL: u64 = 64 * 1024;

/// A file or directory of the host and its place in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// The file or directory of the host; symbolic links are followed.
    pub source: PathBuf,
    /// Absolute path in the tree. A file goes into a directory that is there
    /// or ends in `/`; a directory's entries go into a directory.
    pub destination: Vec<u8>,
    /// Permission bits of the file, or of all files of the directory.
    pub mode: Option<u16>,
}

/// A text that is no `SRC:DEST[:MODE]`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not SRC:DEST[:MODE] with an absolute DEST and an octal MODE up to 7777")]
pub struct FileSpecError(pub String);

impl FileSpec {
    /// Reads `SRC:DEST[:MODE]`. SRC may contain colons, DEST may not.
    ///
    /// # Errors
    /// SRC is empty, DEST is not absolute, or MODE is not octal.
    pub fn parse(text: &std::ffi::OsStr) -> Result<Self, FileSpecError> {
        let error = || FileSpecError(text.to_string_lossy().into_owned());
        let colon = |text: &[u8]| text.iter().rposition(|&b| b == b':').ok_or_else(error);
        let mut rest = text.as_bytes();
        let at = colon(rest)?;
        let mut last = &rest[at + 1..];
        rest = &rest[..at];
        let mut mode = None;
        if !last.starts_with(b"/") {
            let digits = str::from_utf8(last).map_err(|_| error())?;
            if !matches!(digits.len(), 1..=4) || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(error());
            }
            mode = Some(u16::from_str_radix(digits, 8).map_err(|_| error())?);
            let at = colon(rest)?;
            last = &rest[at + 1..];
            rest = &rest[..at];
        }
        if rest.is_empty() || !last.starts_with(b"/") || last.contains(&0) {
            return Err(error());
        }
        Ok(Self {
            source: std::ffi::OsString::from_vec(rest.to_vec()).into(),
            destination: last.to_vec(),
            mode,
        })
    }
}

/// Puts what `spec` names into the tree.
pub(super) fn add(tree: &mut Tree, spec: &FileSpec, time: Timestamp) -> Result<(), CustomizeError> {
    let failed = |problem: &dyn fmt::Display| CustomizeError::File {
        path: spec.source.clone(),
        problem: problem.to_string(),
    };
    let is_dir = std::fs::metadata(&spec.source)
        .map_err(|e| failed(&e))?
        .is_dir();
    if is_dir {
        add_directory(tree, spec, time).map_err(|e| failed(&e))
    } else {
        add_file(tree, spec, time).map_err(|e| failed(&e))
    }
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn add_file(tree: &mut Tree, spec: &FileSpec, time: Timestamp) -> Outcome<()> {
    let (content, host_mode) = if std::fs::metadata(&spec.source)?.len() > MAX_LITERAL {
        host_file(tree, &spec.source)?
    } else {
        // Sources that nothing points into would be in the plan for nothing.
        let mut scratch = Tree::new(Vec::new());
        let (content, mode) = host_file(&mut scratch, &spec.source)?;
        (literal(&spec.source, &content)?, mode)
    };
    let mut path = spec.destination.clone();
    let into = path.ends_with(b"/")
        || tree
            .resolve(&path)
            .is_ok_and(|id| tree.inode(id).is_directory());
    if into {
        let name = spec.source.file_name().ok_or("it has no name")?;
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
    }
    let (parent, name) = last_component(&path)?;
    let dir = tree.make_directories(parent, &Inode::directory(0o755, time))?;
    let mode = spec.mode.unwrap_or(plain_mode(host_mode));
    put(tree, dir, name, Inode::file(content, mode, time))?;
    Ok(())
}

fn add_directory(tree: &mut Tree, spec: &FileSpec, time: Timestamp) -> Outcome<()> {
    let host = Tree::from_directory(&spec.source, DirectoryOptions::default())?;
    host.warnings().iter().for_each(|w| tree.warn(w.clone()));
    let template = Inode::directory(0o755, time);
    tree.make_directories(&spec.destination, &template)?;
    // Where the host's sources are in the tree; none for those copied.
    let mut sources: Vec<Option<SourceId>> = vec![None; host.sources().len()];
    let mut walk = host.walk();
    // Directories are entered with a path: the tree's own links to
    // directories (`/lib -> usr/lib`) stay.
    let base = spec.destination.as_slice();
    while let Some((path, id)) = walk.next_borrowed() {
        if path.is_empty() {
            continue;
        }
        let (parent, name) = split(path);
        let dir = tree.make_directories(&join(base, parent), &template)?;
        let inode = host.inode(id);
        let new = match &inode.kind {
            Kind::Directory(_) => {
                tree.make_directories(&join(base, path), &template)?;
                continue;
            }
            Kind::Symlink(target) => Inode::symlink(target, time),
            Kind::Regular(content) => {
                let content = take_over(tree, &host, &mut sources, content)?;
                let mode = spec.mode.unwrap_or(plain_mode(inode.mode));
                Inode::file(content, mode, time)
            }
            _ => {
                let path = display(path);
                return Err(format!("/{path} is a device or fifo").into());
            }
        };
        put(tree, dir, name, new)?;
    }
    Ok(())
}

/// Puts a file in place of another, but not of a directory and all in it.
fn put(tree: &mut Tree, dir: InodeId, name: &[u8], inode: Inode) -> Result<InodeId, TreeError> {
    if let Some(id) = tree.child(dir, name)
        && tree.inode(id).is_directory()
    {
        return Err(TreeError::IsADirectory(display(name)));
    }
    tree.insert(dir, name, inode)
}

/// The host's content for the tree: copied if small, else with its source.
fn take_over(
    tree: &mut Tree,
    host: &Tree,
    sources: &mut [Option<SourceId>],
    content: &FileContent,
) -> Outcome<FileContent> {
    let mut content = content.clone();
    for extent in &mut content.extents {
        let Content::Source { id, .. } = &mut extent.content else {
            continue;
        };
        let at = id.0 as usize;
        let (Some(source), Some(new)) = (host.sources().get(at), sources.get_mut(at)) else {
            return Err("a file without a source".into());
        };
        if source.len <= MAX_LITERAL {
            return Ok(literal(&source.path, &content)?);
        }
        *id = *new.get_or_insert_with(|| tree.add_source(source.clone()));
    }
    Ok(content)
}

/// A copy of a small file's content.
fn literal(path: &Path, content: &FileContent) -> io::Result<FileContent> {
    use io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_LITERAL + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 != content.size {
        return Err(io::Error::other("it changes while it is read"));
    }
    Ok(FileContent::literal(bytes))
}

fn plain_mode(host: u16) -> u16 {
    if host & 0o100 != 0 { 0o755 } else { 0o644 }
}

fn join(base: &[u8], path: &[u8]) -> Vec<u8> {
    [base, b"/", path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_read_from_its_end() {
        for (text, source, destination, mode) in [
            ("a:/b", "a", "/b", None),
            ("a:/b:644", "a", "/b", Some(0o644)),
            ("C:x:/b/:4755", "C:x", "/b/", Some(0o4755)),
            ("/a:/b:/c", "/a:/b", "/c", None),
        ] {
            let spec = FileSpec::parse(text.as_ref()).unwrap();
            assert_eq!(spec.source, Path::new(source));
            assert_eq!(spec.destination, destination.as_bytes());
            assert_eq!(spec.mode, mode);
        }
        for text in [
            "",
            "a",
            "a:",
            ":/b",
            "a:b",
            "a:/b:8",
            "a:/b:77777",
            "a:/b:rwx",
            "a:b:644",
            "a:/b:",
        ] {
            assert!(FileSpec::parse(text.as_ref()).is_err(), "{text}");
        }
    }
}
