//! The kernel command line: reading, changing and composing it.
//!
//! Arguments are separated and quoted as the kernel does it (`next_arg` in
//! Linux' lib/cmdline.c): white space separates, double quotes keep it
//! together, there is no escape for a quote. Defaults come first, then the
//! image's kargs.d, then what the user appends.

use std::fmt;

use uuid::Uuid;

use super::architecture::Architecture;

/// One argument as it is written on the command line, quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument(String);

impl Argument {
    /// What is before the first `=`, without quotes.
    pub fn key(&self) -> &str {
        let text = self.bare();
        text.split_once('=').map_or(text, |(key, _)| key)
    }

    /// What is after the first `=`, without the quotes around it.
    pub fn value(&self) -> Option<&str> {
        let (_, value) = self.bare().split_once('=')?;
        let Some(inner) = value.strip_prefix('"') else {
            return Some(value);
        };
        Some(inner.strip_suffix('"').unwrap_or(inner))
    }

    /// The argument without quotes around all of it.
    fn bare(&self) -> &str {
        match self.0.strip_prefix('"') {
            Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
            None => &self.0,
        }
    }

    /// Whether it has this key. `-` and `_` are the same in a key
    /// (`parameq` in Linux' kernel/params.c).
    fn has_key(&self, key: &str) -> bool {
        let same = |a: u8, b: u8| a == b || (b"-_".contains(&a) && b"-_".contains(&b));
        let mine = self.key();
        mine.len() == key.len() && mine.bytes().zip(key.bytes()).all(|(a, b)| same(a, b))
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why some text is no kernel command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandLineError {
    /// A double quote that nothing closes.
    #[error("{origin}: a double quote is not closed in {text:?}")]
    OpenQuote {
        /// Where the text is from.
        origin: String,
        /// The text.
        text: String,
    },
    /// A character that no command line can carry.
    #[error("{origin}: {text:?} contains the control character {character:?}")]
    Control {
        /// Where the text is from.
        origin: String,
        /// The text.
        text: String,
        /// The character.
        character: char,
    },
    /// The text has no argument in it.
    #[error("{origin}: the argument is empty")]
    Empty {
        /// Where the text is from.
        origin: String,
    },
    /// The whole is longer than the kernel reads.
    #[error(
        "the kernel command line has {len} bytes, but a kernel for {architecture} reads {max}: {start}…"
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// Most that the kernel reads.
        max: usize,
        /// The machine.
        architecture: Architecture,
        /// How it begins.
        start: String,
    },
}

/// Splits text into arguments. `origin` says in errors where it is from.
///
/// # Errors
/// An open quote or a control character other than tab and line feed, which
/// separate as a space does.
pub fn parse(origin: &str, text: &str) -> Result<Vec<Argument>, CommandLineError> {
    let bad = |character| CommandLineError::Control {
        origin: origin.to_owned(),
        text: text.to_owned(),
        character,
    };
    let mut arguments = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            ' ' | '\t' | '\n' if !quoted => {
                if !current.is_empty() {
                    arguments.push(Argument(std::mem::take(&mut current)));
                }
            }
            c if c.is_control() => return Err(bad(c)),
            c => {
                quoted ^= c == '"';
                current.push(c);
            }
        }
    }
    if quoted {
        return Err(CommandLineError::OpenQuote {
            origin: origin.to_owned(),
            text: text.to_owned(),
        });
    }
    if !current.is_empty() {
        arguments.push(Argument(current));
    }
    Ok(arguments)
}

/// What a command line is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The machine: names the serial console and bounds the length.
    pub architecture: Architecture,
    /// UUID of the root file system.
    pub root: Uuid,
    /// What the image asks for, in order.
    pub image: &'a [Argument],
    /// What the user deletes from the defaults and the image's arguments: a
    /// key, or `key=value` for only that value.
    pub delete: &'a [String],
    /// What the user appends.
    pub append: &'a [String],
}

/// A composed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// The text, arguments separated by one space.
    pub text: String,
    /// Deletions that found nothing to delete.
    pub warnings: Vec<String>,
}

/// Composes the command line: `root=UUID=… rw` and the consoles, then the
/// image's arguments, less the deleted ones, then the appended ones.
///
/// A default is left out when the image or the user sets the same: `root`,
/// `console`, or one of `ro` and `rw`.
///
/// # Errors
/// Bad quoting in what the user gave, or a result that is too long.
pub fn compose(parts: Parts<'_>) -> Result<Composed, CommandLineError> {
    let given = |option: &str, text: &String| {
        let arguments = parse(option, text)?;
        if arguments.is_empty() {
            return Err(CommandLineError::Empty {
                origin: option.to_owned(),
            });
        }
        Ok(arguments)
    };
    let mut appended = Vec::new();
    for text in parts.append {
        appended.extend(given("--karg", text)?);
    }

    let set = |keys: &[&str]| {
        let mut all = parts.image.iter().chain(&appended);
        all.any(|a| keys.iter().any(|key| a.has_key(key)))
    };
    let mut arguments = Vec::new();
    if !set(&["root"]) {
        arguments.push(Argument(format!("root=UUID={}", parts.root)));
    }
    if !set(&["ro", "rw"]) {
        arguments.push(Argument("rw".to_owned()));
    }
    if !set(&["console"]) {
        // The last one becomes /dev/console.
        arguments.push(Argument("console=tty0".to_owned()));
        let serial = parts.architecture.serial_console();
        arguments.push(Argument(format!("console={serial}")));
    }
    arguments.extend_from_slice(parts.image);

    let mut warnings = Vec::new();
    for text in parts.delete {
        for target in given("--karg-delete", text)? {
            let before = arguments.len();
            arguments.retain(|a| {
                !(a.has_key(target.key())
                    && (target.value().is_none() || a.value() == target.value()))
            });
            if arguments.len() == before {
                warnings.push(format!(
                    "--karg-delete {target}: the kernel command line has no such argument"
                ));
            }
        }
    }
    arguments.append(&mut appended);

    let text = arguments
        .iter()
        .map(|a| a.0.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    check_length(parts.architecture, &text)?;
    Ok(Composed { text, warnings })
}

/// Refuses a command line that the kernel would cut off.
pub(super) fn check_length(architecture: Architecture, text: &str) -> Result<(), CommandLineError> {
    let (len, max) = (text.len(), architecture.command_line_max());
    if len <= max {
        return Ok(());
    }
    Err(CommandLineError::TooLong {
        len,
        max,
        architecture,
        start: text.chars().take(60).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: Uuid = Uuid::from_u128(0x11111111_2222_4333_8444_555555555555);

    fn line(image: &str, delete: &[&str], append: &[&str]) -> Result<Composed, CommandLineError> {
        let owned = |v: &[&str]| v.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        compose(Parts {
            architecture: Architecture::X86_64,
            root: ROOT,
            image: &parse("image", image).unwrap(),
            delete: &owned(delete),
            append: &owned(append),
        })
    }

    #[test]
    fn arguments_are_split_as_the_kernel_splits_them() {
        type Row<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);
        let table: [Row; 8] = [
            ("", &[]),
            ("  quiet \t\n splash ", &[("quiet", None), ("splash", None)]),
            ("a=b=c", &[("a", Some("b=c"))]),
            (
                r#"dyndbg="file a.c +p" x"#,
                &[("dyndbg", Some("file a.c +p")), ("x", None)],
            ),
            (r#""key=two words""#, &[("key", Some("two words"))]),
            ("a=", &[("a", Some(""))]),
            (r#"a="""#, &[("a", Some(""))]),
            ("a=\"b\"\"c d\"", &[("a", Some("b\"\"c d"))]),
        ];
        for (text, expect) in table {
            let arguments = parse("test", text).unwrap();
            let got: Vec<_> = arguments.iter().map(|a| (a.key(), a.value())).collect();
            assert_eq!(got, expect, "{text}");
        }
        assert!(matches!(
            parse("test", "a=\"b c"),
            Err(CommandLineError::OpenQuote { .. })
        ));
        assert!(matches!(
            parse("test", "a\0b"),
            Err(CommandLineError::Control {
                character: '\0',
                ..
            })
        ));
    }

    #[test]
    fn the_parts_come_in_order_and_override_the_defaults() {
        let root = format!("root=UUID={ROOT}");
        let consoles = "console=tty0 console=ttyS0,115200";
        type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], String);
        let table: [Row; 10] = [
            ("", &[], &[], format!("{root} rw {consoles}")),
            (
                "quiet a=1",
                &[],
                &["a=2", "b c"],
                format!("{root} rw {consoles} quiet a=1 a=2 b c"),
            ),
            ("console=hvc0", &[], &[], format!("{root} rw console=hvc0")),
            (
                "",
                &[],
                &["console=hvc0"],
                format!("{root} rw console=hvc0"),
            ),
            ("", &[], &["ro"], format!("{root} {consoles} ro")),
            (
                "",
                &[],
                &["root=/dev/vda2"],
                format!("rw {consoles} root=/dev/vda2"),
            ),
            (
                "quiet a=1 a=2",
                &["quiet", "a=1"],
                &[],
                format!("{root} rw {consoles} a=2"),
            ),
            (
                "a=1 a=2",
                &["a"],
                &["a=3"],
                format!("{root} rw {consoles} a=3"),
            ),
            (
                "log_buf_len=1M x=\"1 2\"",
                &["log-buf-len", "\"x=1 2\""],
                &[],
                format!("{root} rw {consoles}"),
            ),
            (
                "",
                &["console=tty0"],
                &[],
                format!("{root} rw console=ttyS0,115200"),
            ),
        ];
        for (image, delete, append, expect) in table {
            let composed = line(image, delete, append).unwrap();
            assert_eq!(composed.text, expect, "{image} -{delete:?} +{append:?}");
            assert_eq!(composed.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn deleting_what_is_not_there_is_said() {
        let composed = line("", &["quiet", "rw=1"], &["quiet"]).unwrap();
        assert_eq!(
            composed.warnings,
            [
                "--karg-delete quiet: the kernel command line has no such argument",
                "--karg-delete rw=1: the kernel command line has no such argument"
            ]
        );
        assert!(composed.text.ends_with(" quiet"));
    }

    #[test]
    fn what_the_kernel_would_cut_off_is_refused() {
        let fits = 2047 - line("", &[], &["a="]).unwrap().text.len();
        let append = |n: usize| format!("a={}", "x".repeat(n));
        assert_eq!(line("", &[], &[&append(fits)]).unwrap().text.len(), 2047);
        let error = line("", &[], &[&append(fits + 1)]).unwrap_err().to_string();
        assert!(error.contains("has 2048 bytes"), "{error}");
        assert!(error.contains("amd64 reads 2047"), "{error}");
        let error = line("", &[], &[" "]).unwrap_err().to_string();
        assert_eq!(error, "--karg: the argument is empty");
    }

    proptest! {
        #[test]
        fn what_is_parsed_reads_the_same_when_it_is_written(text in "[ab= \"_-]{0,30}") {
            if let Ok(arguments) = parse("test", &text) {
                let written: Vec<_> = arguments.iter().map(|a| a.to_string()).collect();
                prop_assert_eq!(parse("test", &written.join(" ")).unwrap(), arguments);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = parse("test", &text);
        }
    }
}
