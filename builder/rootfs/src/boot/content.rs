//! File contents as extents: cutting and reading the small ones.

use std::io;
use std::ops::Range;

use bootwright_disk::{Content, SourceReader};

use crate::tree::FileContent;

/// `range` of `content` as a content of its own; the part that exists, if
/// the range reaches past the end.
pub(crate) fn slice(content: &FileContent, range: Range<u64>) -> FileContent {
    let end = range.end.min(content.size);
    let start = range.start.min(end);
    let extents = content
        .extents
        .iter()
        .filter_map(|e| e.slice(start..end))
        .map(|mut e| {
            e.start -= start;
            e
        })
        .collect();
    FileContent {
        size: end - start,
        extents,
    }
}

/// Reads `range` of `content`, or the part of it that exists.
///
/// # Errors
/// A source cannot be read; the message names it.
pub(crate) fn read(
    content: &FileContent,
    reader: &SourceReader,
    range: Range<u64>,
) -> io::Result<Vec<u8>> {
    let part = slice(content, range);
    let size = usize::try_from(part.size).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    for extent in &part.extents {
        let (start, end) = (extent.start as usize, extent.end() as usize);
        let Some(target) = bytes.get_mut(start..end) else {
            return Err(io::Error::other("an extent lies outside its file"));
        };
        match &extent.content {
            Content::Literal(literal) if literal.len() == target.len() => {
                target.copy_from_slice(literal);
            }
            Content::Literal(_) => return Err(io::Error::other("an extent is not its literal")),
            Content::Source { id, offset } => reader.read_exact_at(*id, *offset, target)?,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bootwright_disk::Extent;

    use super::*;

    #[test]
    fn a_slice_of_extents_and_holes_reads_like_the_bytes() {
        let content = FileContent {
            size: 10,
            extents: vec![
                Extent::literal(1, &b"abc"[..]),
                Extent::literal(6, &b"de"[..]),
            ],
        };
        let all = b"\0abc\0\0de\0\0";
        let reader = SourceReader::new(Vec::new());
        for start in 0..12u64 {
            for end in start..12 {
                let expect = &all[start.min(10) as usize..end.min(10).max(start.min(10)) as usize];
                assert_eq!(read(&content, &reader, start..end).unwrap(), expect);
            }
        }
    }
}
