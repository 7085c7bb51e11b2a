//! Names in the two hierarchies: those of ECMA-119 and those of Joliet.

use std::collections::BTreeSet;

/// Most UCS-2 characters of a Joliet name (Joliet, "File and directory names").
const JOLIET_NAME: usize = 64;

/// A hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// ECMA-119's, with Rock Ridge's names beside its own.
    Plain,
    /// Joliet's.
    Joliet,
}

/// The bytes of a name in a directory record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identifier(pub(super) Vec<u8>);

/// Names for the files and directories of one directory, all different. With
/// each name of the input, whether it is a file's.
pub(super) fn identifiers<'a>(
    kind: Kind,
    names: impl Iterator<Item = (&'a str, bool)>,
) -> Vec<Identifier> {
    let mut taken = BTreeSet::new();
    let mut number = 0;
    let mut given = Vec::new();
    for (name, is_file) in names {
        let mut identifier = identifier(kind, name, is_file, None);
        while !taken.insert(identifier.clone()) {
            number += 1;
            identifier = self::identifier(kind, name, is_file, Some(number));
        }
        given.push(identifier);
    }
    given
}

fn identifier(kind: Kind, name: &str, is_file: bool, number: Option<u32>) -> Identifier {
    match kind {
        Kind::Plain => plain(name, is_file, number),
        Kind::Joliet => joliet(name, number),
    }
}

/// Level 1 of interchange (ECMA-119, 10.1): eight characters, a dot, three
/// characters, and a version.
fn plain(name: &str, is_file: bool, number: Option<u32>) -> Identifier {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if is_file => (stem, extension),
        _ => (name, ""),
    };
    let number = number.map(|n| n.to_string()).unwrap_or_default();
    let mut text = of_d_characters(stem, 8 - number.len().min(8));
    text.push_str(&number);
    if text.is_empty() {
        text.push('_');
    }
    if is_file {
        text.push('.');
        text.push_str(&of_d_characters(extension, 3));
        text.push_str(";1");
    }
    Identifier(text.into_bytes())
}

/// Capital letters, digits and underscores (ECMA-119, 7.4.1).
fn of_d_characters(text: &str, most: usize) -> String {
    let characters = text.chars().map(|c| match c.to_ascii_uppercase() {
        c if c.is_ascii_uppercase() || c.is_ascii_digit() => c,
        _ => '_',
    });
    characters.take(most).collect()
}

fn joliet(name: &str, number: Option<u32>) -> Identifier {
    let number = number.map(|n| format!("~{n}")).unwrap_or_default();
    let allowed = |c: char| match c {
        '*' | '/' | ':' | ';' | '?' | '\\' => '_',
        c if c.is_control() => '_',
        c => c,
    };
    let text: String = name.chars().map(allowed).collect();
    let units: Vec<u16> = text.encode_utf16().collect();
    let (kept, _) = units.split_at(units.len().min(JOLIET_NAME - number.len()));
    let mut kept = kept.to_vec();
    // Half a pair is no character.
    kept.pop_if(|last| (0xd800..0xdc00).contains(last));
    let units = kept.into_iter().chain(number.encode_utf16());
    Identifier(units.flat_map(u16::to_be_bytes).collect())
}

/// A field of `len` bytes of a descriptor, filled up with spaces.
pub(super) fn field(kind: Kind, text: &str, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = match kind {
        Kind::Plain => text.bytes().take(len).collect(),
        Kind::Joliet => {
            let units = text.encode_utf16().take(len / 2);
            units.flat_map(u16::to_be_bytes).collect()
        }
    };
    while bytes.len() + 2 <= len && kind == Kind::Joliet {
        bytes.extend([0, b' ']);
    }
    bytes.resize(len, if kind == Kind::Plain { b' ' } else { 0 });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[(&str, bool)]) -> Vec<String> {
        let given = identifiers(Kind::Plain, names.iter().copied());
        given
            .into_iter()
            .map(|name| String::from_utf8_lossy(&name.0).into_owned())
            .collect()
    }

    #[test]
    fn plain_names_are_short_and_all_different() {
        let names = [
            ("user-data", true),
            ("user-database", true),
            ("user-data.yaml", true),
            ("latest", false),
            (".hidden", true),
            ("é", true),
        ];
        let expect = [
            "USER_DAT.;1",
            "USER_DA1.;1",
            "USER_DAT.YAM;1",
            "LATEST",
            "_.HID;1",
            "_.;1",
        ];
        assert_eq!(texts(&names), expect);
    }

    #[test]
    fn long_joliet_names_are_cut_between_characters() {
        let long = format!("{}\u{1f600}x", "a".repeat(63));
        let names = [(long.as_str(), true), (&long[..63], true)];
        let given = identifiers(Kind::Joliet, names.into_iter());
        assert_eq!(given[0].0.len(), 126);
        assert_ne!(given[0], given[1]);
        assert!(given[1].0.len() <= 128);
    }
}
