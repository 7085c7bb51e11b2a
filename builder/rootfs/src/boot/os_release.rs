//! What operating system an image is (os-release(5)).
//!
//! The file is a list of shell-compatible assignments. Lines that are not an
//! assignment by the rules of os-release(5) are skipped, as its readers do;
//! any bytes may come in.

use std::collections::BTreeMap;

/// The assignments of an os-release file; the last one of a name counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OsRelease {
    fields: BTreeMap<String, String>,
}

impl OsRelease {
    /// Reads an os-release file.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let fields = text.lines().filter_map(assignment).collect();
        Self { fields }
    }

    /// The value of a field such as `VERSION_ID`, if it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    /// `ID=`, or `linux`, the default of os-release(5).
    pub fn id(&self) -> &str {
        self.get("ID").unwrap_or("linux")
    }

    /// `IMAGE_ID=`, or else the ID: what tells this system from others in a
    /// boot menu (UAPI.1, `sort-key`).
    pub fn image_id(&self) -> &str {
        self.get("IMAGE_ID").unwrap_or_else(|| self.id())
    }

    /// `PRETTY_NAME=`, or else `NAME=`, or `Linux`; for people to read.
    pub fn pretty_name(&self) -> &str {
        self.get("PRETTY_NAME")
            .or_else(|| self.get("NAME"))
            .unwrap_or("Linux")
    }

    /// All fields in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let (name, value) = line.split_once('=')?;
    let mut letters = name.bytes();
    let first = letters.next()?;
    if !(first.is_ascii_alphabetic() || first == b'_')
        || !letters.all(|c| c.is_ascii_alphanumeric() || c == b'_')
    {
        return None;
    }
    Some((name.to_owned(), unquote(value)?))
}

/// The value of one shell word: `'…'`, `"…"` with backslash escapes, or bare
/// with backslash escapes. Joined quoted strings are not supported by
/// os-release(5), nor is anything after the closing quote.
fn unquote(value: &str) -> Option<String> {
    let mut chars = value.chars();
    let mut out = String::with_capacity(value.len());
    match chars.clone().next() {
        Some('\'') => {
            let (inner, rest) = value.get(1..)?.split_once('\'')?;
            return rest.is_empty().then(|| inner.to_owned());
        }
        Some('"') => {
            chars.next();
            loop {
                match chars.next()? {
                    '"' => return chars.next().is_none().then_some(out),
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\' | '$' | '`') => out.push(c),
                        c => out.extend(['\\', c]),
                    },
                    // An expansion: the file is not meant to have one.
                    '$' | '`' => return None,
                    c => out.push(c),
                }
            }
        }
        _ => {}
    }
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?),
            '"' | '\'' | '$' | '`' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => return None,
            c if c.is_whitespace() => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_read_as_a_shell_would() {
        let table: [(&str, Option<&str>); 22] = [
            ("debian", Some("debian")),
            ("", Some("")),
            ("\"\"", Some("")),
            (
                "\"Debian GNU/Linux 13 (trixie)\"",
                Some("Debian GNU/Linux 13 (trixie)"),
            ),
            ("'Single $HOME \"x\" \\'", Some("Single $HOME \"x\" \\")),
            (r#""a \"b\" \$c \\ \`d\`""#, Some(r#"a "b" $c \ `d`"#)),
            (r#""keeps \n""#, Some(r"keeps \n")),
            (r"bare\ word", Some("bare word")),
            ("\"é ünï\"", Some("é ünï")),
            ("13", Some("13")),
            ("https://www.debian.org/", Some("https://www.debian.org/")),
            // Not a single word, or not one at all.
            ("\"open", None),
            ("'open", None),
            ("\"a\"b", None),
            ("'a''b'", None),
            ("two words", None),
            ("$(reboot)", None),
            ("\"`reboot`\"", None),
            ("a;reboot", None),
            ("\\", None),
            ("\"\\", None),
            ("a'b", None),
        ];
        for (text, value) in table {
            let parsed = OsRelease::parse(format!("A={text}\n").as_bytes());
            let got = parsed.fields.get("A").map(String::as_str);
            assert_eq!(got, value, "{text}");
        }
    }

    #[test]
    fn lines_that_are_no_assignment_are_skipped() {
        let parsed = OsRelease::parse(
            b"# ID=no\n\n  ID=first\r\nID=debian\nexport X=1\n1A=2\n=3\nNAME\nPRETTY_NAME='Debian'\nB=\xff\n",
        );
        assert_eq!(parsed.id(), "debian");
        assert_eq!(parsed.pretty_name(), "Debian");
        assert_eq!(parsed.get("B"), Some("\u{fffd}"));
        assert_eq!(parsed.iter().count(), 3);
    }

    #[test]
    fn what_is_missing_has_the_defaults_of_the_manual() {
        let none = OsRelease::parse(b"ID=\n");
        assert_eq!(
            (none.id(), none.image_id(), none.pretty_name()),
            ("linux", "linux", "Linux")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_parse(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            OsRelease::parse(&bytes);
        }

        #[test]
        fn any_value_survives_double_quotes(value in "[^\\r\\n]{0,40}") {
            let mut quoted = String::new();
            for c in value.chars() {
                if "\"\\$`".contains(c) {
                    quoted.push('\\');
                }
                quoted.push(c);
            }
            let parsed = OsRelease::parse(format!("A=\"{quoted}\"").as_bytes());
            prop_assert_eq!(parsed.fields.get("A"), Some(&value));
        }
    }
}
