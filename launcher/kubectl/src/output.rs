//! Results on standard output.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::Result;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::args::Output;
use crate::target::Kind;

/// Prints bytes.
pub(crate) fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Prints a line.
pub(crate) fn line(text: &str) -> io::Result<()> {
    print(format!("{text}\n").as_bytes())
}

/// Prints a value as JSON.
pub(crate) fn json(value: &Value) -> Result<()> {
    Ok(line(&unobtrusive(&serde_json::to_string_pretty(value)?))?)
}

/// JSON in one line.
pub(crate) fn json_line(value: &Value) -> io::Result<()> {
    line(&unobtrusive(&value.to_string()))
}

/// JSON in which no text changes the terminal. JSON itself escapes what is
/// below U+0020 (RFC 8259, section 7), and the others stand in strings only.
fn unobtrusive(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match is_unsafe(c) && c != '\n' {
            true => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            false => text.push(c),
        }
    }
    text
}

/// Prints what was done to an object, in the form that is asked for.
pub(crate) fn done(
    output: Option<Output>,
    (kind, name): (Kind, &str),
    what: &str,
    object: &DynamicObject,
) -> Result<()> {
    let resource = kind.resource();
    match output {
        None => line(&printable(&format!("{resource}/{name} {what}")))?,
        Some(Output::Name) => line(&format!("{resource}/{name}"))?,
        Some(Output::Json) => json(&serde_json::to_value(object)?)?,
    }
    Ok(())
}

/// Columns that are as wide as what is in them, with three spaces between.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<_>> = (rows.iter())
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let mut widths = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// How long ago something was, as kubectl has it: two digits are enough.
pub(crate) fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else {
        return "<unknown>".to_owned();
    };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What others have written, in one line, without what would change the
/// terminal or the order of what is on it.
pub(crate) fn printable(text: &str) -> String {
    let safe = |c: char| if is_unsafe(c) { ' ' } else { c };
    text.chars().map(safe).collect()
}

/// Whether a terminal may do something else with it than to show it: controls,
/// separators of lines, and those of the Unicode Bidirectional Algorithm (UAX
/// 9, table 4).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// Whether an error is that the reader of our output went away, which is the
/// reader's business and needs no message.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["NAME", "STATUS"]), row(["a-long-name", "Running"])]);
        assert_eq!(text, "NAME          STATUS\na-long-name   Running\n");
    }

    #[test]
    fn nothing_that_is_shown_changes_the_terminal() {
        let text = "a\u{1b}[2J\u{9b}1mb\n\u{202e}c\u{7f}";
        assert_eq!(printable(text), "a [2J 1mb  c ");
        let row = vec![text.to_owned(), "end".to_owned()];
        assert_eq!(table(&[row]), "a [2J 1mb  c    end\n");
        let value = serde_json::json!({ "message": text });
        let json = unobtrusive(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!json.contains(|c| is_unsafe(c) && c != '\n'), "{json:?}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
    }

    #[test]
    fn ages_are_short() {
        let now: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        for (since, text) in [
            ("2026-11-28T11:59:30Z", "30s"),
            ("2026-11-28T11:00:00Z", "60m"),
            ("2026-11-27T12:00:00Z", "24h"),
            ("2026-11-01T12:00:00Z", "27d"),
            // Clocks differ.
            ("2026-11-28T12:00:09Z", "0s"),
        ] {
            assert_eq!(age(Some(since.parse().unwrap()), now), text);
        }
    }
}
