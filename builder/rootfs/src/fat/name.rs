//! Long names and the short names that go with them (fatgen103, pages 24 and
//! 27 to 33).

use std::collections::{BTreeMap, BTreeSet};

/// A short name as it is stored: eight bytes and three, padded with spaces.
pub(super) type ShortName = [u8; 11];

/// Code units of a long name in one directory entry.
pub(super) const UNITS_PER_ENTRY: usize = 13;
/// The longest name in code units.
const MAX_UNITS: usize = 255;

/// Characters besides letters and digits that short names can have.
const SHORT_PUNCTUATION: &str = "$%'-_@~`!(){}^#&";

/// The longest path in code units: 260 less the NUL (fatgen103, page 27).
const MAX_PATH_UNITS: usize = 259;

/// Why FAT cannot hold the path as a whole, if it cannot.
pub(super) fn path_problem(path: &str) -> Option<&'static str> {
    let too_long = path.encode_utf16().count() > MAX_PATH_UNITS;
    too_long.then_some("a path of more than 259 UTF-16 code units")
}

/// Why FAT cannot hold the name, if it cannot.
pub(super) fn problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("an empty name");
    }
    if name.encode_utf16().count() > MAX_UNITS {
        return Some("a name of more than 255 UTF-16 code units");
    }
    if name.contains(|c: char| c.is_control() || "\"*/:<>?\\|".contains(c)) {
        return Some("a control character or one of \"*/:<>?\\|");
    }
    // Windows strips them; `.` and `..` are among these.
    if name.ends_with(['.', ' ']) {
        return Some("a name that ends in a dot or a space");
    }
    None
}

/// What names are compared by: upper case, character by character.
pub(super) fn fold(name: &str) -> String {
    name.chars()
        .map(|c| {
            let mut upper = c.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(single), None) => single,
                _ => c,
            }
        })
        .collect()
}

/// A volume's label as it is stored, if it is one; empty becomes `NO NAME`.
pub(super) fn label(label: &str) -> Option<ShortName> {
    let label = match label {
        "" => "NO NAME",
        label => label,
    };
    let legal = |c| is_short(c) || c == b' ';
    if label.len() > 11 || label.starts_with(' ') || !label.bytes().all(legal) {
        return None;
    }
    let mut stored = [b' '; 11];
    for (place, c) in stored.iter_mut().zip(label.bytes()) {
        *place = c.to_ascii_uppercase();
    }
    Some(stored)
}

/// The checksum that ties a long name's entries to the short name's.
pub(super) fn checksum(short: &ShortName) -> u8 {
    short
        .iter()
        .fold(0u8, |sum, c| sum.rotate_right(1).wrapping_add(*c))
}

fn is_short(c: u8) -> bool {
    c.is_ascii_alphanumeric() || SHORT_PUNCTUATION.as_bytes().contains(&c)
}

/// The short name that the long name turns into, and whether something was
/// lost that a numeric tail must make up for.
fn basis(name: &str) -> (ShortName, bool) {
    let stripped = name.trim_start_matches([' ', '.']);
    let mut lossy = stripped.len() != name.len();
    let (base, extension) = stripped.rsplit_once('.').unwrap_or((stripped, ""));
    let mut short = [b' '; 11];
    let (base_field, extension_field) = short.split_at_mut(8);
    for (field, part) in [(base_field, base), (extension_field, extension)] {
        let mut places = field.iter_mut();
        for c in part.chars() {
            if c == ' ' || c == '.' {
                lossy = true;
                continue;
            }
            let Some(place) = places.next() else {
                lossy = true;
                break;
            };
            *place = match u8::try_from(c) {
                Ok(c) if is_short(c) => c.to_ascii_uppercase(),
                _ => {
                    lossy = true;
                    b'_'
                }
            };
        }
    }
    (short, lossy)
}

/// A short name as people write it.
pub(super) fn display(short: &ShortName) -> String {
    let (base, extension) = short.split_at(8);
    let text = |part: &[u8]| String::from_utf8_lossy(part).trim_end().to_owned();
    match text(extension) {
        extension if extension.is_empty() => text(base),
        extension => format!("{}.{extension}", text(base)),
    }
}

/// Short names for all names of a directory, in their order; `None` if there
/// are more alike than tails.
///
/// The names differ under [`fold`].
pub(super) fn short_names(names: &[&str]) -> Option<Vec<ShortName>> {
    let bases: Vec<_> = names.iter().map(|name| basis(name)).collect();
    // Names that need no tail take theirs first: no tail may end up on one.
    let mut taken: BTreeSet<ShortName> = bases
        .iter()
        .filter(|(_, lossy)| !lossy)
        .map(|(short, _)| *short)
        .collect();
    let mut tails: BTreeMap<([u8; 6], [u8; 3]), u32> = BTreeMap::new();
    bases
        .into_iter()
        .map(|(short, lossy)| {
            if !lossy {
                return Some(short);
            }
            let [a, b, c, d, e, f, _, _, x, y, z] = short;
            let last = tails.entry(([a, b, c, d, e, f], [x, y, z])).or_default();
            (*last + 1..1_000_000).find_map(|n| {
                let tailed = with_tail(short, n);
                *last = n;
                taken.insert(tailed).then_some(tailed)
            })
        })
        .collect()
}

/// `LONGNAME.TXT` and 12 become `LONGN~12.TXT`.
fn with_tail(mut short: ShortName, n: u32) -> ShortName {
    let tail = format!("~{n}");
    let len = short[..8]
        .iter()
        .take_while(|&&c| c != b' ')
        .count()
        .min(8 - tail.len());
    short[len..8].fill(b' ');
    short[len..len + tail.len()].copy_from_slice(tail.as_bytes());
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_unique_and_derived_from_the_long_ones() {
        let cases: [(&[&str], &[&str]); 8] = [
            (&["BOOTX64.EFI"], &["BOOTX64.EFI"]),
            (&["loader.efi"], &["LOADER.EFI"]),
            (
                &["loader.conf", "loader.cons"],
                &["LOADER~1.CON", "LOADER~2.CON"],
            ),
            (&["longfilename", "LONGFI~1"], &["LONGFI~2", "LONGFI~1"]),
            (
                &[".config", "a b.c.d", "\u{fc}.txt"],
                &["CONFIG~1", "ABC~1.D", "_~1.TXT"],
            ),
            (&["a+b", "a,b", "a;b"], &["A_B~1", "A_B~2", "A_B~3"]),
            (&["noext"], &["NOEXT"]),
            (
                &["12345678.123", "123456789.123"],
                &["12345678.123", "123456~1.123"],
            ),
        ];
        for (long, short) in cases {
            let names = short_names(long).unwrap();
            let shown: Vec<_> = names.iter().map(display).collect();
            assert_eq!(shown, short, "{long:?}");
        }
    }

    #[test]
    fn many_alike_names_get_longer_tails() {
        let names: Vec<_> = (0..20_000)
            .map(|n| format!("linux-kernel-{n}.efi"))
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let short = short_names(&names).unwrap();
        assert_eq!(display(&short[8]), "LINUX-~9.EFI");
        assert_eq!(display(&short[9]), "LINUX~10.EFI");
        assert_eq!(display(&short[19_999]), "LI~20000.EFI");
        let unique: BTreeSet<_> = short.into_iter().collect();
        assert_eq!(unique.len(), 20_000);
    }

    #[test]
    fn names_that_fat_cannot_hold_are_refused() {
        let long = "x".repeat(256);
        for name in [
            "", ".", "..", "a.", "a ", "a/b", "a\\b", "a:b", "a\tb", "a\0b", "a\u{96}b", "a?",
            &long,
        ] {
            assert!(problem(name).is_some(), "{name:?}");
        }
        for name in [
            "a",
            " a",
            ".a",
            "a b",
            "a..b",
            "\u{1f422}",
            "+,;=[]",
            &long[..255],
        ] {
            assert_eq!(problem(name), None, "{name:?}");
        }
    }

    #[test]
    fn labels_are_upper_case_and_short() {
        assert_eq!(label("esp"), Some(*b"ESP        "));
        assert_eq!(label(""), Some(*b"NO NAME    "));
        for bad in ["twelve chars", "a.b", "\u{fc}", " x"] {
            assert_eq!(label(bad), None);
        }
    }
}
