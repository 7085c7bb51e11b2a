//! Kernel arguments that an image asks for: `/usr/lib/bootc/kargs.d/*.toml`.
//!
//! The format is bootc's: `kargs`, a list of arguments, and
//! `match-architectures`, a list of machines by Rust's names that the file is
//! for. Unknown keys are refused, so that a typing error does not silently
//! boot another command line.

use serde::Deserialize;

use super::architecture::Architecture;
use super::command_line::{self, Argument, CommandLineError};

/// Where images keep the files.
pub const DIRECTORY: &str = "/usr/lib/bootc/kargs.d";

/// Largest file that is read, in bytes.
pub const MAX_SIZE: u64 = 64 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    kargs: Vec<String>,
    match_architectures: Option<Vec<String>>,
}

/// Why a kargs.d file is refused.
#[derive(Debug, thiserror::Error)]
pub enum KargsError {
    /// It is not UTF-8.
    #[error("{path} in the image is not UTF-8 text")]
    NotText {
        /// The file in the image.
        path: String,
    },
    /// It is not TOML, has an unknown key, or a value of the wrong type.
    #[error("{path} in the image: {source}")]
    Toml {
        /// The file in the image.
        path: String,
        /// What is wrong and on which line.
        source: Box<toml::de::Error>,
    },
    /// An argument is not one.
    #[error(transparent)]
    Argument(#[from] CommandLineError),
}

/// The arguments in one file; none if it is for other machines.
///
/// # Errors
/// The file breaks the format; the message names `path`.
pub fn parse(
    path: &str,
    text: &[u8],
    architecture: Architecture,
) -> Result<Vec<Argument>, KargsError> {
    let text = std::str::from_utf8(text).map_err(|_| KargsError::NotText { path: path.into() })?;
    let file: File = toml::from_str(text).map_err(|source| KargsError::Toml {
        path: path.into(),
        source: Box::new(source),
    })?;
    let matches = file
        .match_architectures
        .is_none_or(|names| names.iter().any(|name| name == architecture.rust()));
    let mut arguments = Vec::new();
    // Checked for every machine, so that an error does not wait for another.
    for text in &file.kargs {
        arguments.extend(command_line::parse(path, text)?);
    }
    Ok(if matches { arguments } else { Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_is_for_the_machines_it_names() {
        let text = br#"
            kargs = ["console=ttyS0", "quiet splash", "x=\"a b\""]
            match-architectures = ["x86_64", "riscv64"]
        "#;
        for (architecture, count) in [
            (Architecture::X86_64, 4),
            (Architecture::Riscv64, 4),
            (Architecture::Aarch64, 0),
        ] {
            let arguments = parse("a.toml", text, architecture).unwrap();
            assert_eq!(arguments.len(), count, "{architecture}");
        }
        let all = parse("a.toml", b"kargs = ['nosmt']", Architecture::Aarch64).unwrap();
        assert_eq!(all[0].to_string(), "nosmt");
    }

    #[test]
    fn what_breaks_the_format_is_refused_by_name() {
        let table: [(&[u8], &str); 7] = [
            (
                b"kargs = ['a']\nmatch-architecture = ['x86_64']",
                "unknown field",
            ),
            (b"kernel = ['a']", "unknown field"),
            (b"", "missing field `kargs`"),
            (b"kargs = 'a'", "invalid type"),
            (b"kargs = ['a", "line 1"),
            (b"kargs = ['a=\"b']", "not closed"),
            (b"\xff", "not UTF-8"),
        ];
        for (text, message) in table {
            let error = parse("/k/a.toml", text, Architecture::X86_64).unwrap_err();
            let error = format!("{error}");
            assert!(error.contains(message), "{error}");
            assert!(error.contains("/k/a.toml"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(
            head in "(kargs *= *)?", rest in prop::collection::vec(any::<u8>(), 0..60)
        ) {
            let bytes = [head.as_bytes(), &rest].concat();
            let _ = parse("a.toml", &bytes, Architecture::X86_64);
        }
    }
}
