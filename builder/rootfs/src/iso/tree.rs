//! From paths to files and directories.

use std::collections::BTreeMap;

use super::{IsoError, IsoFile, MAX_NAME, MAX_NODES};

/// A file or directory; the first of a list is the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Its name; the root's is empty.
    pub(super) name: String,
    /// The directory that it is in; the root's is the root.
    pub(super) parent: usize,
    /// Which file it is, if it is one.
    pub(super) file: Option<usize>,
    /// How many directories are in it.
    pub(super) directories: u32,
}

/// Makes the nodes of `files`, each directory before what is in it, in the
/// order of their paths.
pub(super) fn nodes(files: &[IsoFile]) -> Result<Vec<Node>, IsoError> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by(|a, b| files[*a].path.cmp(&files[*b].path));
    let mut nodes = vec![Node {
        name: String::new(),
        parent: 0,
        file: None,
        directories: 0,
    }];
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for index in order {
        let path = files[index].path.as_str();
        let bad = |reason| IsoError::BadPath {
            path: path.to_owned(),
            reason,
        };
        let mut parent = 0;
        let mut depth = 0;
        let mut end = 0;
        for name in path.split('/') {
            end += name.len() + usize::from(depth > 0);
            depth += 1;
            if name.is_empty() || name == "." || name == ".." {
                return Err(bad("a name in it is empty, . or .."));
            }
            if name.len() > MAX_NAME {
                return Err(bad("a name in it is longer than 255 bytes"));
            }
            if name.contains('\0') {
                return Err(bad("there is a NUL in it"));
            }
            // ECMA-119, 6.8.2.1: the root is the first of eight levels.
            if depth > 8 {
                return Err(bad("it is deeper than eight levels"));
            }
            let here = path.get(..end).unwrap_or(path);
            let last = end == path.len();
            parent = match known.get(here) {
                Some(at) if !last && nodes[*at].file.is_none() => *at,
                Some(_) => return Err(IsoError::Duplicate(here.to_owned())),
                None => {
                    nodes.push(Node {
                        name: name.to_owned(),
                        parent,
                        file: last.then_some(index),
                        directories: 0,
                    });
                    if !last {
                        nodes[parent].directories += 1;
                    }
                    known.insert(here, nodes.len() - 1);
                    nodes.len() - 1
                }
            };
        }
        if nodes.len() > MAX_NODES {
            return Err(IsoError::TooMuch {
                what: format!("more than {} files and directories", nodes.len() - 1),
                limit: format!("{MAX_NODES} files and directories"),
            });
        }
    }
    Ok(nodes)
}
