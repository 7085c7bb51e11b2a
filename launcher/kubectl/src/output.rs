//! Results on standard output.

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
    Ok(line(&serde_json::to_string_pretty(value)?)?)
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
        None => line(&format!("{resource}/{name} {what}"))?,
        Some(Output::Name) => line(&format!("{resource}/{name}"))?,
        Some(Output::Json) => json(&serde_json::to_value(object)?)?,
    }
    Ok(())
}

/// Columns that are as wide as what is in them, with three spaces between.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
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

/// What others have written, without what would change the terminal.
pub(crate) fn printable(text: &str) -> String {
    let safe = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(safe).collect()
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
