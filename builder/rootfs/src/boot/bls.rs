//! Boot loader entries (UAPI.1, Boot Loader Specification).
//!
//! An [`Entry`] is one thing that can be started: a file in
//! `loader/entries/` (type #1) or a unified kernel image in `EFI/Linux/`
//! (type #2). Entries are written for new disks and read back from disks that
//! exist, whose files may hold anything.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::os_release::OsRelease;
use super::version;

/// Largest entry file that is read, in bytes.
pub const MAX_SIZE: u64 = 64 * 1024;

/// Something that a boot loader can start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// File name without its suffix and without boot counting.
    pub id: String,
    /// Boot counting, if it is on for this entry.
    pub tries: Option<Tries>,
    /// For people to read.
    pub title: Option<String>,
    /// For people and for sorting; usually the kernel's version.
    pub version: Option<String>,
    /// Sorts before everything else if it is there.
    pub sort_key: Option<String>,
    /// The machine ID that the entry is for.
    pub machine_id: Option<String>,
    /// The machine, in EFI's terms: `x64`, `aa64`.
    pub architecture: Option<String>,
    /// Path of the kernel from the root of the entry's file system, without
    /// a leading slash.
    pub linux: Option<String>,
    /// Paths of the initrds in order, written as `linux` is.
    pub initrd: Vec<String>,
    /// Path of an EFI program, written as `linux` is. Type #2 entries have
    /// themselves here.
    pub efi: Option<String>,
    /// The kernel command line.
    pub options: Option<String>,
}

/// Boot counting (UAPI.1, "Boot counting").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Attempts left; at 0 the entry is bad.
    pub left: u32,
    /// Attempts made that did not succeed.
    pub done: u32,
}

/// Why a file is no boot loader entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BlsError {
    /// The name does not end in `.conf`, or has nothing before it.
    #[error("{0:?} is no name of a boot loader entry: it does not end in .conf")]
    Name(String),
    /// It is longer than [`MAX_SIZE`].
    #[error("boot loader entry {name} has {len} bytes, more than {MAX_SIZE}")]
    TooLong {
        /// File name.
        name: String,
        /// Its length.
        len: usize,
    },
    /// It is not UTF-8.
    #[error("boot loader entry {0} is not UTF-8 text")]
    NotText(String),
    /// Neither `linux` nor `efi` is there.
    #[error("boot loader entry {0} has neither a linux nor an efi line")]
    NothingToStart(String),
    /// A path that leads out of the file system, or to nothing.
    #[error("boot loader entry {name} has a bad path in line {line}: {path:?}")]
    BadPath {
        /// File name.
        name: String,
        /// Line number from 1.
        line: usize,
        /// The path.
        path: String,
    },
}

/// Reads a type #1 entry. Keys that are not known are passed over, of a key
/// that may be there once the last one counts.
///
/// # Errors
/// See [`BlsError`].
pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Entry, BlsError> {
    let name = || file_name.to_owned();
    let (id, tries) = split_name(file_name, ".conf").ok_or_else(|| BlsError::Name(name()))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(BlsError::TooLong {
            name: name(),
            len: bytes.len(),
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BlsError::NotText(name()))?;
    let mut entry = Entry {
        id,
        tries,
        ..Entry::default()
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let Some((key, value)) = line.split_once([' ', '\t']) else {
            continue;
        };
        let value = value.trim_start();
        let path = || {
            normal_path(value).ok_or_else(|| BlsError::BadPath {
                name: name(),
                line: number + 1,
                path: value.to_owned(),
            })
        };
        let value = || Some(value.to_owned());
        match key {
            "title" => entry.title = value(),
            "version" => entry.version = value(),
            "sort-key" => entry.sort_key = value(),
            "machine-id" => entry.machine_id = value(),
            "architecture" => entry.architecture = value(),
            "linux" => entry.linux = Some(path()?),
            "initrd" => entry.initrd.push(path()?),
            "efi" => entry.efi = Some(path()?),
            "options" => {
                let more = value().unwrap_or_default();
                entry.options = Some(match entry.options.take() {
                    Some(options) => format!("{options} {more}"),
                    None => more,
                });
            }
            _ => {}
        }
    }
    if entry.linux.is_none() && entry.efi.is_none() {
        return Err(BlsError::NothingToStart(name()));
    }
    Ok(entry)
}

impl Entry {
    /// A type #2 entry: the unified kernel image at `path` in its file
    /// system, which holds this os-release and command line.
    pub fn unified(path: &str, os: &OsRelease, options: Option<String>) -> Self {
        let file_name = path.rsplit('/').next().unwrap_or(path);
        let (id, tries) =
            split_name(file_name, ".efi").unwrap_or_else(|| (file_name.to_owned(), None));
        let version = ["IMAGE_VERSION", "VERSION_ID", "BUILD_ID"]
            .into_iter()
            .find_map(|field| os.get(field));
        Self {
            id,
            tries,
            title: Some(os.pretty_name().to_owned()),
            version: version.map(str::to_owned),
            sort_key: Some(os.image_id().to_owned()),
            efi: Some(path.trim_start_matches('/').to_owned()),
            options,
            ..Self::default()
        }
    }

    /// Whether boot counting has given the entry up.
    pub fn is_bad(&self) -> bool {
        self.tries.is_some_and(|t| t.left == 0)
    }

    /// The text of a type #1 entry. Control characters in values become
    /// spaces, so that a value cannot start a line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            let value = value.replace(char::is_control, " ");
            // Writing to a String does not fail.
            let _ = writeln!(text, "{key} {}", value.trim());
        };
        let mut optional = |key: &str, value: &Option<String>| {
            if let Some(value) = value {
                line(key, value);
            }
        };
        optional("title", &self.title);
        optional("version", &self.version);
        optional("machine-id", &self.machine_id);
        optional("sort-key", &self.sort_key);
        optional("architecture", &self.architecture);
        let absolute = |path: &String| format!("/{path}");
        optional("efi", &self.efi.as_ref().map(absolute));
        optional("linux", &self.linux.as_ref().map(absolute));
        for path in &self.initrd {
            line("initrd", &absolute(path));
        }
        if let Some(options) = &self.options {
            line("options", options);
        }
        text
    }

    /// The order of a boot menu: what should be started first is less
    /// (UAPI.1, "Sorting").
    fn menu_order(&self, other: &Self) -> Ordering {
        let version = |a: &str, b: &str| version::compare(b.as_bytes(), a.as_bytes());
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let by_keys = match (&self.sort_key, &other.sort_key) {
            (Some(a), Some(b)) => a
                .cmp(b)
                .then_with(|| text(&self.machine_id).cmp(&text(&other.machine_id)))
                .then_with(|| version(&text(&self.version), &text(&other.version))),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        let done = |e: &Self| e.tries.map_or(0, |t| t.done);
        self.is_bad()
            .cmp(&other.is_bad())
            .then(by_keys)
            .then_with(|| version(&self.id, &other.id))
            .then_with(|| done(self).cmp(&done(other)))
    }
}

/// Puts entries in the order of a boot menu: the first one is started
/// (UAPI.1, "Sorting").
pub fn sort(entries: &mut Vec<Entry>) {
    let mut sorted = Vec::with_capacity(entries.len());
    for entry in entries.drain(..) {
        // Descending by the reverse order is ascending.
        version::insert_descending(&mut sorted, entry, |a, b| b.menu_order(a));
    }
    *entries = sorted;
}

/// File name characters that UAPI.1 allows.
fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+-_.".contains(c)
}

/// `text` as a part of a file name on an EFI system partition: other
/// characters than UAPI.1 allows become `_`, and it is neither empty, nor
/// hidden, nor longer than 100 bytes.
pub(crate) fn file_token(text: &str) -> String {
    let token: String = text
        .chars()
        .map(|c| if is_name_char(c) { c } else { '_' })
        .take(100)
        .collect();
    // FAT drops dots at the end of a name (fatgen103, "Long Directory Entries").
    match token.trim_matches('.') {
        "" => "_".to_owned(),
        token => token.to_owned(),
    }
}

/// An entry's name made of a system and a version, that cannot be mistaken
/// for one with boot counting.
pub(crate) fn entry_id(system: &str, version: &str) -> String {
    let id = format!("{}-{}", file_token(system), file_token(version));
    match split_tries(&id) {
        Some(_) => id.replace('+', "_"),
        None => id,
    }
}

/// Parts a file name into name and boot counting.
fn split_name(file_name: &str, suffix: &str) -> Option<(String, Option<Tries>)> {
    let at = file_name.len().checked_sub(suffix.len())?;
    let (stem, end) = file_name.split_at_checked(at)?;
    if stem.is_empty() || !end.eq_ignore_ascii_case(suffix) {
        return None;
    }
    Some(match split_tries(stem) {
        Some((id, tries)) => (id.to_owned(), Some(tries)),
        None => (stem.to_owned(), None),
    })
}

/// Parts `name+LEFT` or `name+LEFT-DONE`.
fn split_tries(stem: &str) -> Option<(&str, Tries)> {
    let (id, counters) = stem.rsplit_once('+')?;
    let number = |s: &str| {
        let digits = !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
        digits.then(|| s.parse().ok()).flatten()
    };
    let (left, done) = counters.split_once('-').unwrap_or((counters, "0"));
    let tries = Tries {
        left: number(left)?,
        done: number(done)?,
    };
    (!id.is_empty()).then_some((id, tries))
}

/// A path without leading, double or trailing slashes; none if it leads out
/// of its file system or nowhere.
fn normal_path(path: &str) -> Option<String> {
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let normal = parts.join("/");
    let good = !normal.is_empty()
        && normal.trim() == normal
        && !parts.contains(&"..")
        && !normal.contains(char::is_control);
    good.then_some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(name: &str, keys: &str) -> Entry {
        parse(name, format!("{keys}\nlinux /l\n").as_bytes()).unwrap()
    }

    #[test]
    fn an_entry_of_the_specification_is_read() {
        let text = "# a comment\n\
            title        Fedora 19 (Rawhide)\n\
            sort-key\tfedora\r\n\
            machine-id   6a9857a393724b7a981ebb5b8495b9ea\n\
            version      3.8.0-2.fc19.x86_64\n\
            options      root=UUID=6d3376e4 quiet\n\
            options rw\n\
            frobnicate yes\n\
            architecture x64\n\
            linux        /6a98/3.8.0/linux\n\
            initrd       6a98//3.8.0/./initrd\n\
            initrd       /ucode\n";
        let entry = parse("6a98-3.8.0+3-1.conf", text.as_bytes()).unwrap();
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            entry,
            Entry {
                id: "6a98-3.8.0".into(),
                tries: Some(Tries { left: 3, done: 1 }),
                title: some("Fedora 19 (Rawhide)"),
                version: some("3.8.0-2.fc19.x86_64"),
                sort_key: some("fedora"),
                machine_id: some("6a9857a393724b7a981ebb5b8495b9ea"),
                architecture: some("x64"),
                linux: some("6a98/3.8.0/linux"),
                initrd: vec!["6a98/3.8.0/initrd".into(), "ucode".into()],
                efi: None,
                options: some("root=UUID=6d3376e4 quiet rw"),
            }
        );
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let table: [(&str, &[u8], &str); 8] = [
            ("a.txt", b"linux /l", "does not end in .conf"),
            (".conf", b"linux /l", "does not end in .conf"),
            ("é", b"linux /l", "does not end in .conf"),
            ("a.conf", b"title x", "neither a linux nor an efi line"),
            ("a.conf", b"linux", "neither a linux nor an efi line"),
            ("a.conf", b"title x\nlinux /../x", "bad path in line 2"),
            ("a.conf", b"efi /", "bad path in line 1"),
            ("a.conf", b"linux /\xff", "not UTF-8"),
        ];
        for (name, text, message) in table {
            let error = parse(name, text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let long = vec![b' '; MAX_SIZE as usize + 1];
        assert!(matches!(
            parse("a.conf", &long),
            Err(BlsError::TooLong { .. })
        ));
    }

    #[test]
    fn boot_counting_is_read_from_the_name() {
        let table = [
            ("a+3.conf", "a", Some((3, 0))),
            ("a+0-7.conf", "a", Some((0, 7))),
            ("a.CONF", "a", None),
            ("a+.conf", "a+", None),
            ("a+b-1.conf", "a+b-1", None),
            ("a+1-.conf", "a+1-", None),
            ("a++1.conf", "a+", Some((1, 0))),
            ("+1.conf", "+1", None),
            ("a+99999999999.conf", "a+99999999999", None),
            ("6.1+deb13+2-1.conf", "6.1+deb13", Some((2, 1))),
        ];
        for (name, id, tries) in table {
            let entry = entry(name, "");
            let tries = tries.map(|(left, done)| Tries { left, done });
            assert_eq!((entry.id.as_str(), entry.tries), (id, tries), "{name}");
        }
    }

    #[test]
    fn the_menu_is_in_the_order_of_the_specification() {
        let sorted = [
            entry("x.conf", "sort-key a\nversion 2"),
            entry("y.conf", "sort-key a\nversion 1"),
            entry("y+1.conf", "sort-key a\nversion 1\nmachine-id 1"),
            entry("a-9.conf", "sort-key b\nversion 6.9"),
            entry("a-6.10.conf", ""),
            entry("a-6.9.conf", ""),
            entry("a-6.9+0-1.conf", "sort-key a"),
            entry("a-6.11+0-1.conf", ""),
            entry("a-6.11+0-2.conf", ""),
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(a.menu_order(b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
        let mut entries: Vec<_> = sorted.iter().rev().cloned().collect();
        sort(&mut entries);
        assert_eq!(entries, sorted);
    }

    #[test]
    fn names_keep_to_the_characters_of_the_specification() {
        let table = [
            (
                ("debian", "6.12.9+deb13-amd64"),
                "debian-6.12.9+deb13-amd64",
            ),
            (("a b/c", "6.1\u{e9}"), "a_b_c-6.1_"),
            (("..", ""), "_-_"),
            (("x", "6.1+2"), "x-6.1_2"),
            (("x", "6.1+2-3."), "x-6.1_2-3"),
        ];
        for ((system, version), id) in table {
            assert_eq!(entry_id(system, version), id);
        }
        assert_eq!(file_token(&"é".repeat(300)).len(), 100);
    }

    #[test]
    fn a_value_cannot_start_a_line() {
        let mut entry = entry("a.conf", "");
        entry.title = Some("x\nlinux /evil".into());
        assert_eq!(entry.text(), "title x linux /evil\nlinux /l\n");
    }

    proptest! {
        #[test]
        fn any_file_is_parsed_or_refused(
            name in "[a+0-9.conf-]{0,12}", bytes in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let _ = parse(&name, &bytes);
        }

        #[test]
        fn what_is_parsed_is_written_and_read_the_same(
            lines in prop::collection::vec("(title|version|linux|initrd|options|sort-key|efi) [a-z/ .=]{1,9}", 0..8)
        ) {
            if let Ok(entry) = parse("a.conf", lines.join("\n").as_bytes()) {
                prop_assert_eq!(parse("a.conf", entry.text().as_bytes()).unwrap(), entry);
            }
        }
    }
}
