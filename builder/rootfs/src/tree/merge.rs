//! Merging layers: the rules of the OCI image specification, layer.md,
//! "Applying Changesets" and "Whiteouts".
//!
//! Entries of one layer go in, lowest layer first; the tree afterwards is what
//! a container of the image would see. Whiteouts count before anything else of
//! their layer, wherever they stand in it; other entries count in tar order.
//! Where the specification is silent the tree follows what containers show
//! (layers as overlayfs directories); docs/src/formats/tree.md lists the cases.

use std::collections::BTreeSet;

use bootwright_disk::{Extent, SourceId, SourceKind};
use bootwright_image::{Entry, EntryKind, Segment, Timestamp};

use super::path::{MAX_SYMLINKS, components, split};
use super::{FileContent, Inode, InodeId, Kind, Tree, TreeError, Xattrs, display};

/// What whiteouts' names start with.
const WHITEOUT: &[u8] = b".wh.";
/// What names of aufs' own files start with: not part of the image.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Hides what lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// As long as Linux lets a path be (PATH_MAX); also bounds the work of one
/// entry.
const MAX_PATH: usize = 4096;

/// Why a layer cannot be merged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("layer {layer}: /{path}: {problem}")]
pub struct MergeError {
    /// The layer's diff id.
    pub layer: String,
    /// Path of the entry, for messages.
    pub path: String,
    /// What is wrong with it.
    pub problem: MergeProblem,
}

/// What is wrong with a layer's entry. Paths are for messages.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MergeProblem {
    /// The file to link to does not exist in this layer or one below.
    #[error("hard link to /{0}, which is not there")]
    HardlinkToNothing(String),
    /// A directory can have only one name.
    #[error("hard link to /{0}, which is a directory")]
    HardlinkToDirectory(String),
    /// Something other than a directory wants to be `/`.
    #[error("the root of the file system must be a directory")]
    RootNotADirectory,
    /// A component of the path is a file of the same layer.
    #[error("/{0} is not a directory")]
    ParentNotADirectory(String),
    /// The symbolic links on the way lead in circles.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
    /// A file name no Linux file system can hold, or one that OCI reserves.
    #[error("bad file name: {0}")]
    BadName(&'static str),
    /// The content's segments overlap, or leave the file or the pack.
    #[error("its content does not fit its size of {0} bytes")]
    BadSegments(u64),
    /// There is no such source in the tree.
    #[error("no pack {0}")]
    NoSource(u32),
}

impl Tree {
    /// Puts a layer, whose files' contents lie in `source`, on top.
    ///
    /// # Errors
    /// An entry that cannot be applied; the tree is of no use afterwards.
    pub fn apply_layer<'a>(
        &mut self,
        source: SourceId,
        entries: impl IntoIterator<Item = Entry<'a>>,
    ) -> Result<(), MergeError> {
        let mut layer = Layer {
            source,
            source_len: self.sources.get(source.0 as usize).map_or(0, |s| s.len),
            first_own: self.inodes.len() as u32,
            last_parent: None,
            xattrs: BTreeSet::new(),
            tree: self,
        };
        // "`a/.wh..wh..opq` is applied first, […] regardless of the ordering
        // in which the whiteout file was encountered": what they hide can
        // then only be of lower layers.
        let mut own = Vec::new();
        for entry in entries {
            match layer.whiteout(entry.path) {
                Ok(Whiteout::No) => own.push(entry),
                Ok(Whiteout::Yes) => {}
                Err(problem) => return Err(layer.error(entry.path, problem)),
            }
        }
        for entry in own {
            layer
                .apply(&entry)
                .map_err(|problem| layer.error(entry.path, problem))?;
        }
        Ok(())
    }
}

enum Whiteout {
    /// An entry like any other.
    No,
    /// Done with.
    Yes,
}

/// A layer while it is merged.
struct Layer<'t> {
    tree: &'t mut Tree,
    source: SourceId,
    source_len: u64,
    /// Number of the first inode that this layer makes.
    first_own: u32,
    /// Path and inode of the directory of the entry before: tars list the
    /// entries of a directory one after the other. Forgotten when a name is
    /// taken away, which may be that of a symbolic link on its path.
    last_parent: Option<(Vec<u8>, InodeId)>,
    /// The xattrs of this layer, to share equal ones.
    xattrs: BTreeSet<Xattrs>,
}

impl Layer<'_> {
    fn error(&self, path: &[u8], problem: MergeProblem) -> MergeError {
        MergeError {
            layer: self.name(),
            path: display(path),
            problem,
        }
    }

    fn name(&self) -> String {
        match self.tree.sources.get(self.source.0 as usize) {
            Some(source) => match &source.kind {
                SourceKind::Pack { diff_id } => diff_id.clone(),
                SourceKind::HostFile { .. } => source.path.display().to_string(),
            },
            None => self.source.0.to_string(),
        }
    }

    /// Applies the entry if it is a whiteout, whatever its type.
    fn whiteout(&mut self, path: &[u8]) -> Result<Whiteout, MergeProblem> {
        if path.len() > MAX_PATH {
            return Err(MergeProblem::BadName("path longer than 4096 bytes"));
        }
        let (parent, name) = split(path);
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(Whiteout::No);
        };
        if name.starts_with(WHITEOUT_META) && name != OPAQUE {
            return Ok(Whiteout::Yes);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(MergeProblem::BadName("a whiteout of no file"));
        }
        // No link is followed: a lower link as parent would be replaced by a
        // directory of this layer, in which there is nothing to hide.
        let mut dir = self.tree.root();
        for name in components(parent) {
            match self.tree.child(dir, name) {
                Some(id) => dir = id,
                None => return Ok(Whiteout::Yes),
            }
        }
        if name == OPAQUE {
            self.tree.clear(dir);
        } else {
            self.tree.remove(dir, hidden);
        }
        Ok(Whiteout::Yes)
    }

    fn apply(&mut self, entry: &Entry<'_>) -> Result<(), MergeProblem> {
        if entry.path.is_empty() {
            let root = self.tree.root();
            return match entry.kind {
                EntryKind::Directory => {
                    self.set_attributes(root, entry);
                    Ok(())
                }
                _ => Err(MergeProblem::RootNotADirectory),
            };
        }
        let (parent, name) = split(entry.path);
        let Some(dir) = self.parent(parent, entry.mtime)? else {
            return Ok(());
        };
        let old = self.tree.child(dir, name);
        if let EntryKind::Hardlink { target } = entry.kind {
            return self.link(dir, name, old, target);
        }
        let kind = match &entry.kind {
            EntryKind::Directory => {
                if let Some(old) = old.filter(|&id| self.tree.inode(id).is_directory()) {
                    self.set_attributes(old, entry);
                    return Ok(());
                }
                Kind::Directory(Default::default())
            }
            EntryKind::Regular { size, segments } => Kind::Regular(self.content(*size, segments)?),
            EntryKind::Symlink { target } => Kind::Symlink((*target).into()),
            &EntryKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            &EntryKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            EntryKind::Fifo => Kind::Fifo,
            // Handled above.
            EntryKind::Hardlink { .. } => return Ok(()),
        };
        let inode = Inode {
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: self.shared_xattrs(entry),
            ..Inode::new(kind, entry.mode)
        };
        self.insert(dir, name, old, inode, entry.path)?;
        Ok(())
    }

    /// Gives the file at `target` the further name `name` in `dir`. What the
    /// entry says of owner, mode, time and xattrs is the target's already.
    fn link(
        &mut self,
        dir: InodeId,
        name: &[u8],
        old: Option<InodeId>,
        target: &[u8],
    ) -> Result<(), MergeProblem> {
        let nothing = || MergeProblem::HardlinkToNothing(display(target));
        let found = match self.tree.resolve_parent(target) {
            Ok((dir, name)) => self.tree.child(dir, name),
            // The root has no name.
            Err(TreeError::BadName(..)) => Some(self.tree.root()),
            Err(TreeError::SymlinkLoop(_)) => return Err(MergeProblem::SymlinkLoop),
            Err(_) => None,
        };
        let id = found.ok_or_else(nothing)?;
        if self.tree.inode(id).is_directory() {
            return Err(MergeProblem::HardlinkToDirectory(display(target)));
        }
        // GNU tar writes a file named twice on its command line as a link to
        // itself.
        if old == Some(id) {
            return Ok(());
        }
        if old.is_some() {
            self.last_parent = None;
            self.tree.remove(dir, name);
            // It was below the directory that it should replace.
            if self.tree.inode(id).names == 0 {
                return Err(nothing());
            }
        }
        self.tree.link(dir, name, id).map_err(problem)
    }

    /// The directory at `path`, made if it is missing; none if the entries in
    /// it are not part of the image.
    fn parent(&mut self, path: &[u8], mtime: Timestamp) -> Result<Option<InodeId>, MergeProblem> {
        if let Some((last, id)) = &self.last_parent
            && last == path
        {
            return Ok(Some(*id));
        }
        let mut dir = self.tree.root();
        let mut rest = components(path);
        for name in rest.by_ref() {
            if name.starts_with(WHITEOUT) {
                return if name.starts_with(WHITEOUT_META) {
                    Ok(None)
                } else {
                    Err(MergeProblem::BadName("a whiteout is no directory"))
                };
            }
            match self.tree.child(dir, name) {
                Some(id) if self.tree.inode(id).is_directory() => dir = id,
                _ => {
                    dir = self.make_parent(path, mtime)?;
                    break;
                }
            }
        }
        let mut last = self.last_parent.take().map_or(Vec::new(), |(last, _)| last);
        last.clear();
        last.extend_from_slice(path);
        self.last_parent = Some((last, dir));
        Ok(Some(dir))
    }

    /// As [`Layer::parent`], where something on the way is no directory.
    ///
    /// Symbolic links of this layer are followed inside the tree, its other
    /// files are an error. What lower layers have in the way gives way, as
    /// below an overlay.
    fn make_parent(&mut self, path: &[u8], mtime: Timestamp) -> Result<InodeId, MergeProblem> {
        let mut links = 0;
        let mut trail = vec![self.tree.root()];
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        while let Some(name) = rest.pop() {
            if name == b".." {
                // The root is its own parent.
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let dir = trail.last().copied().unwrap_or(self.tree.root());
            let old = self.tree.child(dir, &name);
            match old.map(|id| (id, &self.tree.inode(id).kind)) {
                Some((id, Kind::Directory(_))) => trail.push(id),
                Some((id, Kind::Symlink(target))) if id.0 >= self.first_own => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(MergeProblem::SymlinkLoop);
                    }
                    if target.starts_with(b"/") {
                        trail.truncate(1);
                    }
                    rest.extend(components(target).rev().map(<[u8]>::to_vec));
                }
                Some((id, _)) if id.0 >= self.first_own => {
                    return Err(MergeProblem::ParentNotADirectory(display(path)));
                }
                _ => {
                    let inode = Inode::directory(0o755, mtime);
                    trail.push(self.insert(dir, &name, old, inode, path)?);
                }
            }
        }
        Ok(trail.pop().unwrap_or(self.tree.root()))
    }

    /// Puts a new inode in place of what is there, `old`.
    fn insert(
        &mut self,
        dir: InodeId,
        name: &[u8],
        old: Option<InodeId>,
        inode: Inode,
        path: &[u8],
    ) -> Result<InodeId, MergeProblem> {
        if inode.is_directory()
            && let Some(old) = old.filter(|old| old.0 < self.first_own)
            && matches!(self.tree.inode(old).kind, Kind::Symlink(_))
        {
            self.warn_of_replaced_link(name, path);
        }
        if old.is_some() {
            self.last_parent = None;
        }
        self.tree.insert(dir, name, inode).map_err(problem)
    }

    /// A layer that was not built on the ones below it can turn `/lib ->
    /// usr/lib` into a directory, and then little works any more.
    fn warn_of_replaced_link(&mut self, name: &[u8], path: &[u8]) {
        let text = format!(
            "layer {}: /{}: the symbolic link {} of a lower layer becomes a directory, \
             as it does in a container",
            self.name(),
            display(path),
            display(name)
        );
        self.tree.warn(text);
    }

    fn set_attributes(&mut self, id: InodeId, entry: &Entry<'_>) {
        let xattrs = self.shared_xattrs(entry);
        let inode = self.tree.inode_mut(id);
        inode.mode = entry.mode;
        inode.uid = entry.uid;
        inode.gid = entry.gid;
        inode.mtime = entry.mtime;
        inode.xattrs = xattrs;
    }

    fn shared_xattrs(&mut self, entry: &Entry<'_>) -> Xattrs {
        if entry.xattrs.is_empty() {
            return Xattrs::default();
        }
        let xattrs: Xattrs = entry.xattrs.iter().copied().collect();
        if let Some(known) = self.xattrs.get(&xattrs) {
            return known.clone();
        }
        self.xattrs.insert(xattrs.clone());
        xattrs
    }

    fn content(&self, size: u64, segments: &[Segment]) -> Result<FileContent, MergeProblem> {
        if self.source.0 as usize >= self.tree.sources.len() {
            return Err(MergeProblem::NoSource(self.source.0));
        }
        let mut end = 0;
        let mut extents = Vec::with_capacity(segments.len());
        for segment in segments {
            let &Segment {
                file_offset,
                pack_offset,
                len,
            } = segment;
            let ends_by = |start: u64, limit| start.checked_add(len).is_some_and(|e| e <= limit);
            if len == 0
                || file_offset < end
                || !ends_by(file_offset, size)
                || !ends_by(pack_offset, self.source_len)
            {
                return Err(MergeProblem::BadSegments(size));
            }
            end = file_offset + len;
            extents.push(Extent::source(file_offset, len, self.source, pack_offset));
        }
        Ok(FileContent { size, extents })
    }
}

fn problem(error: TreeError) -> MergeProblem {
    match error {
        TreeError::BadName(_, why) => MergeProblem::BadName(why),
        TreeError::SymlinkLoop(_) => MergeProblem::SymlinkLoop,
        TreeError::IsADirectory(name) | TreeError::LinkToDirectory(name) => {
            MergeProblem::HardlinkToDirectory(name)
        }
        TreeError::NotFound(path) | TreeError::NotADirectory(path) => {
            MergeProblem::ParentNotADirectory(path)
        }
    }
}
