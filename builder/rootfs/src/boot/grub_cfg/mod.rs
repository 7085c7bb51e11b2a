//! What GRUB would start: `grub.cfg` read without GRUB.
//!
//! [`menu`] runs a configuration in GRUB's scripting language (GRUB manual,
//! "Shell-like scripting") as far as it decides what is in the menu: `set`,
//! `if`, `test`, `for`, functions, `load_env`, `source`, `blscfg`, `menuentry`
//! and `submenu`, and in those `linux` and `initrd`. All other commands do
//! nothing. Out come the entries in the order of the menu, those of submenus
//! behind their titles, and which of them is the default. Files may be
//! hostile: their size, depth, steps and variables are bounded.

mod eval;
mod lex;
mod parse;
mod test;

/// Largest configuration that is read, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// Most tokens in a file.
const MAX_TOKENS: usize = 200_000;
/// How deep blocks may nest.
const MAX_DEPTH: usize = 40;

/// What a configuration can ask its file system for.
pub trait Files {
    /// The file at `path`, from the root of the file system that the
    /// configuration is on; none if it is not there or longer than `limit`.
    fn read(&mut self, path: &str, limit: u64) -> Option<Vec<u8>>;

    /// The entries that `blscfg` finds, in the order of the menu. Their
    /// arguments may still name variables.
    fn loader_entries(&mut self) -> Vec<Item>;
}

/// An entry of the menu that starts Linux.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// What `--id` says, or the title.
    pub id: String,
    /// Title; those of submenus before it, with `>` between.
    pub title: String,
    /// Path of the kernel in the file system.
    pub linux: String,
    /// The kernel's arguments.
    pub arguments: String,
    /// Paths of the initrds.
    pub initrd: Vec<String>,
}

/// A menu.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Menu {
    /// Entries that start Linux, in order.
    pub items: Vec<Item>,
    /// Which one GRUB starts when nobody presses a key.
    pub default: usize,
}

/// Why a configuration cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrubError {
    /// It is not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// It is too long.
    #[error("it is longer than any GRUB configuration")]
    TooLong,
    /// A quote is not closed.
    #[error("a quote is not closed")]
    OpenQuote,
    /// Its structure is wrong.
    #[error("{0}")]
    Syntax(&'static str),
    /// A keyword is missing.
    #[error("{0:?} is missing")]
    Missing(&'static str),
    /// Blocks or calls nest too deep.
    #[error("it nests too deep")]
    TooDeep,
    /// It does not come to an end, or uses too much memory.
    #[error("it runs too long or its variables grow too large")]
    Endless,
}

/// Runs the configuration `text`, which is in `directory` of its file system
/// (such as `/boot/grub`).
///
/// # Errors
/// See [`GrubError`].
pub fn menu(text: &[u8], directory: &str, files: &mut dyn Files) -> Result<Menu, GrubError> {
    if text.len() as u64 > MAX_SIZE {
        return Err(GrubError::TooLong);
    }
    let script = script(text)?;
    eval::Shell::new(directory, files).menu(&script)
}

fn script(text: &[u8]) -> Result<Vec<parse::Statement>, GrubError> {
    let text = std::str::from_utf8(text).map_err(|_| GrubError::NotText)?;
    parse::parse(&lex::tokens(text)?)
}

/// The variables of an environment block (GRUB manual, "The GRUB environment
/// block").
pub fn environment(bytes: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(bytes)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Puts the values of variables in place of `$name` and `${name}`; of those
/// without one nothing stays.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, behind) = match after.strip_prefix('{').and_then(|s| s.split_once('}')) {
            Some(parts) => parts,
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        match name {
            "" => out.push('$'),
            name => out.push_str(&value(name).unwrap_or_default()),
        }
        rest = behind;
    }
    out.push_str(rest);
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
