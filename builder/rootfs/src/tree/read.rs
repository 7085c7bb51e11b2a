//! Reading small files out of a tree: configuration, os-release, passwd.

use std::io;

use bootwright_disk::{Content, SourceReader};

use super::{InodeId, Kind, Tree};

/// Why a file of a tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Only regular files have content.
    #[error("not a regular file")]
    NotAFile,
    /// The file is larger than the caller wants to hold in memory.
    #[error("the file has {size} bytes, more than the {limit} that are read")]
    TooLarge {
        /// Length in bytes.
        size: u64,
        /// The most the caller takes, in bytes.
        limit: u64,
    },
    /// The file's extents are not sorted, overlap, or reach past its end.
    #[error("the file's extents do not fit its size of {0} bytes")]
    BadExtents(u64),
    /// A pack or host file could not be read; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Tree {
    /// The whole content of a regular file of at most `limit` bytes; holes
    /// read as zeros. `reader` must be over this tree's [`Tree::sources`].
    ///
    /// # Errors
    /// `id` is no regular file, it is larger than `limit`, or a source cannot
    /// be read.
    pub fn read(
        &self,
        id: InodeId,
        limit: u64,
        reader: &SourceReader,
    ) -> Result<Vec<u8>, ReadError> {
        let Kind::Regular(file) = &self.inode(id).kind else {
            return Err(ReadError::NotAFile);
        };
        let size = file.size;
        if size > limit {
            return Err(ReadError::TooLarge { size, limit });
        }
        let bad = || ReadError::BadExtents(size);
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| bad())?];
        for extent in &file.extents {
            let range = extent.start as usize..extent.end() as usize;
            let part = bytes.get_mut(range).ok_or_else(bad)?;
            match &extent.content {
                Content::Literal(literal) if literal.len() == part.len() => {
                    part.copy_from_slice(literal);
                }
                Content::Literal(_) => return Err(bad()),
                Content::Source { id, offset } => reader.read_exact_at(*id, *offset, part)?,
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bootwright_disk::{Extent, Source, SourceId, SourceKind};

    use super::super::{FileContent, Inode};
    use super::*;

    #[test]
    fn literals_sources_and_holes_become_one_content() {
        let mut pack = tempfile::NamedTempFile::new().unwrap();
        pack.write_all(b"0123456789").unwrap();
        let mut tree = Tree::new(vec![Source {
            kind: SourceKind::Pack {
                diff_id: "sha256:00".into(),
            },
            path: pack.path().into(),
            len: 10,
        }]);
        let file = Inode::new(
            Kind::Regular(FileContent {
                size: 10,
                extents: vec![
                    Extent::literal(1, &b"ab"[..]),
                    Extent::source(4, 3, SourceId(0), 7),
                ],
            }),
            0o644,
        );
        let id = tree.insert(tree.root(), b"f", file).unwrap();
        let reader = SourceReader::new(tree.sources().to_vec());
        assert_eq!(
            tree.read(id, 10, &reader).unwrap(),
            b"\0ab\x00789\0\0\0",
            "holes read as zeros"
        );
        assert!(matches!(
            tree.read(id, 9, &reader),
            Err(ReadError::TooLarge { size: 10, limit: 9 })
        ));
        assert!(matches!(
            tree.read(tree.root(), 9, &reader),
            Err(ReadError::NotAFile)
        ));
    }

    #[test]
    fn extents_outside_the_file_are_an_error() {
        let mut tree = Tree::new(Vec::new());
        for extent in [
            Extent::literal(3, &b"ab"[..]),
            Extent::source(u64::MAX, 2, SourceId(0), 0),
            Extent::source(0, 1, SourceId(7), 0),
        ] {
            let content = FileContent {
                size: 4,
                extents: vec![extent],
            };
            let id = tree
                .insert(tree.root(), b"f", Inode::new(Kind::Regular(content), 0o644))
                .unwrap();
            let reader = SourceReader::new(Vec::new());
            assert!(tree.read(id, 99, &reader).is_err());
        }
    }
}
