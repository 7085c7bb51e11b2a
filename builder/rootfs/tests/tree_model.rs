//! Random stacks of layers, merged by the tree and by a model that knows
//! nothing of arenas: a map from whole paths to what is there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "it is all tests")]

mod tree_notation;

use std::collections::{BTreeMap, VecDeque};

use bootwright_image::EntryKind;
use bootwright_rootfs::tree::{MergeError, Tree};
use proptest::prelude::*;

type Path = Vec<String>;

#[derive(Debug, Clone, PartialEq)]
enum What {
    Dir,
    File(u64),
    Link(String),
    Fifo,
}

/// One name. Names of the same file have the same number.
#[derive(Debug, Clone)]
struct Node {
    what: What,
    mode: u16,
    secs: i64,
    number: usize,
    layer: usize,
}

/// The model: nothing but paths. The root directory has the empty path.
#[derive(Clone)]
struct Model {
    nodes: BTreeMap<Path, Node>,
    numbers: usize,
}

/// An entry that no tree can take.
#[derive(Debug)]
struct Refused;

fn comps(path: &str) -> Path {
    path.split('/')
        .filter(|c| !c.is_empty() && *c != ".")
        .map(str::to_owned)
        .collect()
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            numbers: 0,
        };
        model.add(Vec::new(), What::Dir, 0o755, 0, 0);
        model
    }

    fn add(&mut self, path: Path, what: What, mode: u16, secs: i64, layer: usize) {
        self.drop_all(&path);
        let number = self.numbers;
        self.numbers += 1;
        let node = Node {
            what,
            mode,
            secs,
            number,
            layer,
        };
        self.nodes.insert(path, node);
    }

    fn drop_all(&mut self, path: &[String]) {
        self.nodes.retain(|p, _| !p.starts_with(path));
    }

    /// Applies a layer; an error is the number of the line refused.
    fn layer(&mut self, lines: &[String], layer: usize) -> Result<(), usize> {
        let is_whiteout = |line: &&String| {
            let path = line.split(' ').nth(1).unwrap();
            path.rsplit('/').next().unwrap().starts_with(".wh.")
        };
        for line in lines.iter().filter(is_whiteout) {
            let mut path = comps(line.split(' ').nth(1).unwrap());
            let name = path.pop().unwrap();
            if name == ".wh..wh..opq" {
                self.nodes
                    .retain(|p, _| p.len() <= path.len() || !p.starts_with(&path));
            } else {
                path.push(name.strip_prefix(".wh.").unwrap().to_owned());
                self.drop_all(&path);
            }
        }
        for (n, line) in lines.iter().enumerate() {
            if !is_whiteout(&line) {
                self.entry(line, layer).map_err(|Refused| n)?;
            }
        }
        Ok(())
    }

    /// Applies a layer without the lines refused.
    fn mend(&mut self, lines: &mut Vec<String>, layer: usize) {
        loop {
            let mut attempt = self.clone();
            match attempt.layer(lines, layer) {
                Ok(()) => return *self = attempt,
                Err(line) => drop(lines.remove(line)),
            }
        }
    }

    fn entry(&mut self, line: &str, layer: usize) -> Result<(), Refused> {
        let entry = tree_notation::entry(line);
        let (mode, secs) = (entry.mode, entry.mtime.secs);
        let mut path = comps(str::from_utf8(entry.path).unwrap());
        if let Some(name) = path.pop() {
            path = self.directory(path, layer, secs)?;
            path.push(name);
        }
        let what = match entry.kind {
            EntryKind::Directory => match self.nodes.get_mut(&path) {
                Some(node) if node.what == What::Dir => {
                    (node.mode, node.secs) = (mode, secs);
                    return Ok(());
                }
                _ => What::Dir,
            },
            EntryKind::Regular { segments, .. } => {
                What::File(segments.first().map_or(0, |s| s.pack_offset / 4096))
            }
            EntryKind::Symlink { target } => What::Link(String::from_utf8_lossy(target).into()),
            EntryKind::Fifo => What::Fifo,
            EntryKind::Hardlink { target } => {
                let target = self.existing(comps(str::from_utf8(target).unwrap()))?;
                let node = self.nodes[&target].clone();
                if node.what == What::Dir {
                    return Err(Refused);
                }
                if self
                    .nodes
                    .get(&path)
                    .is_none_or(|old| old.number != node.number)
                {
                    self.drop_all(&path);
                    if !self.nodes.values().any(|n| n.number == node.number) {
                        return Err(Refused);
                    }
                    self.nodes.insert(path, node);
                }
                return Ok(());
            }
            other => panic!("{other:?}"),
        };
        self.add(path, what, mode, secs, layer);
        Ok(())
    }

    /// The directory that a parent path means to a layer.
    fn directory(&mut self, path: Path, layer: usize, secs: i64) -> Result<Path, Refused> {
        let mut todo = VecDeque::from(path);
        let mut at = Path::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            match self.nodes.get(&at) {
                Some(node) if node.what == What::Dir => {}
                Some(node) if node.layer == layer => {
                    let What::Link(target) = &node.what else {
                        return Err(Refused);
                    };
                    links += 1;
                    if links > 40 {
                        return Err(Refused);
                    }
                    at.pop();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    for name in comps(target).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                _ => self.add(at.clone(), What::Dir, 0o755, secs, layer),
            }
        }
        Ok(at)
    }

    /// The path of something that is there, links before its last name
    /// followed.
    fn existing(&self, path: Path) -> Result<Path, Refused> {
        let mut todo = VecDeque::from(path);
        let last = todo.pop_back().unwrap();
        let mut at = Path::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            match &self.nodes.get(&at).ok_or(Refused)?.what {
                What::Dir => {}
                What::Link(target) => {
                    links += 1;
                    if links > 40 {
                        return Err(Refused);
                    }
                    at.pop();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    for name in comps(target).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                _ => return Err(Refused),
            }
        }
        at.push(last);
        match self.nodes.contains_key(&at) {
            true => Ok(at),
            false => Err(Refused),
        }
    }

    /// In the notation.
    fn dump(&self) -> Vec<String> {
        let mut first = BTreeMap::new();
        let mut lines = Vec::new();
        for (path, node) in &self.nodes {
            let path = match path.join("/") {
                root if root.is_empty() => ".".to_owned(),
                path => path,
            };
            if let Some(first) = first.get(&node.number) {
                lines.push(format!("h {path} {first}"));
                continue;
            }
            let (mut line, usual) = match &node.what {
                What::Dir => (format!("d {path}"), 0o755),
                What::File(content) => (format!("f {path} {content}"), 0o644),
                What::Link(target) => (format!("s {path} {target}"), 0o777),
                What::Fifo => (format!("p {path}"), 0o644),
            };
            if node.mode != usual {
                line += &format!(" ={:o}", node.mode);
            }
            if node.secs != 0 {
                line += &format!(" @{}", node.secs);
            }
            if line != "d ." {
                lines.push(line);
            }
            first.insert(node.number, path);
        }
        lines
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a-", "ab"])
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"))
}

/// A symbolic link's target: relative or absolute, now and then upwards.
fn target() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => name(), 1 => Just(".."), 1 => Just(".")];
    (any::<bool>(), prop::collection::vec(part, 1..4)).prop_map(|(absolute, parts)| {
        let slash = if absolute { "/" } else { "" };
        format!("{slash}{}", parts.join("/"))
    })
}

fn whiteout(path: String) -> String {
    match path.rsplit_once('/') {
        Some((parent, name)) => format!("f {parent}/.wh.{name} 0"),
        None => format!("f .wh.{path} 0"),
    }
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (path(), 0..4u64, 0..3).prop_map(|(p, c, t)| format!("f {p} {c} @{t}")),
        6 => (path(), 0..3, 0..2).prop_map(|(p, t, m)| format!("d {p} @{t} ={}", 754 + m)),
        3 => (path(), target()).prop_map(|(p, t)| format!("s {p} {t}")),
        3 => (path(), path()).prop_map(|(p, t)| format!("h {p} {t}")),
        1 => (path(), name()).prop_map(|(p, n)| format!("h {p} {p}/{n}")),
        1 => path().prop_map(|p| format!("p {p} =600")),
        1 => (0..2).prop_map(|m| format!("d . ={}", 754 + m)),
        3 => path().prop_map(whiteout),
        1 => path().prop_map(|p| format!("f {p}/.wh..wh..opq 0")),
        1 => Just("f .wh..wh..opq 0".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_layers_merge_as_in_the_model(
        mut layers in prop::collection::vec(prop::collection::vec(line(), 0..12), 1..6)
    ) {
        let mut model = Model::new();
        for (n, lines) in layers.iter_mut().enumerate() {
            model.mend(lines, n + 1);
        }
        match merge(&layers) {
            Ok(tree) => prop_assert_eq!(tree_notation::dump(&tree), model.dump()),
            Err(e) => panic!("only the tree refuses: {e}"),
        }
    }

    #[test]
    fn what_the_model_refuses_the_tree_refuses(
        layers in prop::collection::vec(prop::collection::vec(line(), 0..6), 1..4)
    ) {
        let mut model = Model::new();
        let refused = layers
            .iter()
            .enumerate()
            .any(|(n, lines)| model.layer(lines, n + 1).is_err());
        let merged = merge(&layers).map(|tree| tree_notation::dump(&tree));
        prop_assert_eq!(merged.is_err(), refused, "{:?}", merged);
    }
}

fn merge(layers: &[Vec<String>]) -> Result<Tree, MergeError> {
    let lines: Vec<Vec<&str>> = layers
        .iter()
        .map(|layer| layer.iter().map(String::as_str).collect())
        .collect();
    let slices: Vec<&[&str]> = lines.iter().map(Vec::as_slice).collect();
    tree_notation::merge(&slices)
}
