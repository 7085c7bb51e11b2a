//! Changing small text files of a tree.

use bootwright_disk::SourceReader;
use bootwright_image::Timestamp;

use crate::tree::{FileContent, Inode, InodeId, Kind, ReadError, Tree, TreeError, display};

/// Larger files are not configuration.
const MAX_FILE: u64 = 1 << 20;

/// Why a file of the image cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Its path leads nowhere.
    #[error(transparent)]
    Path(#[from] TreeError),
    /// It cannot be read.
    #[error("cannot change /{path} of the image: {problem}")]
    Read {
        /// Path in the image, for messages.
        path: String,
        /// Why not.
        problem: ReadError,
    },
}

/// A tree whose small files are being changed.
pub(super) struct Editor<'t> {
    pub(super) tree: &'t mut Tree,
    pub(super) time: Timestamp,
    reader: SourceReader,
}

impl<'t> Editor<'t> {
    pub(super) fn new(tree: &'t mut Tree, time: Timestamp) -> Self {
        let reader = SourceReader::new(tree.sources().to_vec());
        Self { tree, time, reader }
    }

    /// Whether `path` leads to anything, links followed.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.tree.resolve(path.as_bytes()).is_ok()
    }

    /// The inode called `path`, no last link followed.
    pub(super) fn named(&self, path: &str) -> Option<InodeId> {
        let (dir, name) = self.tree.resolve_parent(path.as_bytes()).ok()?;
        self.tree.child(dir, name)
    }

    /// The regular file at `path`, links followed; none if there is none.
    ///
    /// # Errors
    /// The links loop.
    pub(super) fn file(&self, path: &str) -> Result<Option<InodeId>, EditError> {
        match self.tree.resolve(path.as_bytes()) {
            Ok(id) => Ok(matches!(self.tree.inode(id).kind, Kind::Regular(_)).then_some(id)),
            Err(TreeError::NotFound(_) | TreeError::NotADirectory(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The content of the regular file at `path`; none if there is none.
    ///
    /// # Errors
    /// It is too large or cannot be read.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, EditError> {
        match self.file(path)? {
            Some(id) => self.read_inode(id, path).map(Some),
            None => Ok(None),
        }
    }

    /// The content of a regular file; `path` is for messages.
    ///
    /// # Errors
    /// It is too large or cannot be read.
    pub(super) fn read_inode(&self, id: InodeId, path: &str) -> Result<Vec<u8>, EditError> {
        self.tree
            .read(id, MAX_FILE, &self.reader)
            .map_err(|problem| EditError::Read {
                path: display(path.trim_start_matches('/').as_bytes()),
                problem,
            })
    }

    /// Gives the file at `path` a new content; owner, mode and xattrs stay.
    /// A file that is not there, or is a link to nothing, is made, owned by
    /// root and with `mode`.
    ///
    /// # Errors
    /// `path` is a directory, or leads through something that is none.
    pub(super) fn write(
        &mut self,
        path: &str,
        content: impl Into<bytes::Bytes>,
        mode: u16,
    ) -> Result<InodeId, EditError> {
        let content = FileContent::literal(content);
        if let Some(id) = self.file(path)? {
            let time = self.time;
            let inode = self.tree.inode_mut(id);
            inode.kind = Kind::Regular(content);
            inode.mtime = time;
            return Ok(id);
        }
        let (parent, name) = crate::tree::last_component(path.as_bytes())?;
        let dir = self.directory(parent)?;
        if let Some(id) = self.tree.child(dir, name)
            && self.tree.inode(id).is_directory()
        {
            return Err(TreeError::IsADirectory(display(path.as_bytes())).into());
        }
        let inode = Inode::file(content, mode, self.time);
        Ok(self.tree.insert(dir, name, inode)?)
    }

    /// The directory at `path`, links followed; missing ones are made, owned
    /// by root and with mode 0755.
    ///
    /// # Errors
    /// Something on the way is no directory.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<InodeId, EditError> {
        let template = Inode::directory(0o755, self.time);
        Ok(self.tree.make_directories(path, &template)?)
    }

    /// Removes what is called `path`, no last link followed.
    pub(super) fn remove(&mut self, path: &str) {
        if let Ok((dir, name)) = self.tree.resolve_parent(path.as_bytes()) {
            self.tree.remove(dir, name);
        }
    }

    /// Days since 1970 as in shadow(5), where 0 would ask for a new password
    /// at the next login: then empty.
    pub(super) fn days(&self) -> String {
        match self.time.secs.div_euclid(86_400) {
            days @ 1.. => days.to_string(),
            _ => String::new(),
        }
    }
}

/// The text with a line end after its last line.
pub(super) fn whole_lines(mut text: Vec<u8>) -> Vec<u8> {
    if text.last().is_some_and(|&b| b != b'\n') {
        text.push(b'\n');
    }
    text
}

/// The lines of a file, without line ends.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    // An empty text has no line, not an empty one.
    let empty = text.is_empty();
    text.split(|&b| b == b'\n').filter(move |_| !empty)
}
