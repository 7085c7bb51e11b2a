//! What a process said before it ended, as its log has it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::progress::printable;

/// How much of a log's end is read, in bytes: an error and what led to it.
const MOST: u64 = 1024;

/// The lines at the end of `log`, without empty ones and those that begin
/// before the last kibibyte. None of a log that cannot be read: how the process
/// ended is told all the same.
pub(crate) fn last_lines(log: &Path) -> Vec<String> {
    let (end, whole) = read_end(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let begun = usize::from(!whole && text.contains('\n'));
    text.lines()
        .skip(begun)
        .map(|line| printable(line.trim_end()))
        .filter(|line| !line.is_empty())
        .collect()
}

/// How a process ended, with the end of its log if there is one.
pub(crate) fn told(how: &str, log: &Path) -> String {
    match last_lines(log).join("; ").as_str() {
        "" => how.to_owned(),
        words => format!("{how}; its last words: {words}"),
    }
}

/// The end of a file, and whether that is all of it.
fn read_end(log: &Path) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(MOST);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(MOST).read_to_end(&mut end)?;
    Ok((end, start == 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    fn lines(text: impl AsRef<[u8]>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("vm.log");
        fs::write(&log, text).unwrap();
        last_lines(&log)
    }

    #[test]
    fn the_end_of_a_log_is_told_in_whole_lines() {
        assert_eq!(lines("one\n\n  \ntwo\r\n"), ["one", "two"]);
        let long = format!("{}\nlast\n", "x".repeat(2000));
        assert_eq!(lines(long), ["last"]);
        let endless = "x".repeat(2000);
        assert_eq!(lines(endless), ["x".repeat(1024)]);
    }

    #[test]
    fn a_log_does_not_steer_the_terminal() {
        assert_eq!(lines(b"\x1b[2Jgone\xff\n"), ["\u{fffd}[2Jgone\u{fffd}"]);
    }

    #[test]
    fn without_a_log_only_the_status_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            told("exit status: 1", &dir.path().join("none")),
            "exit status: 1"
        );
        let log = dir.path().join("vm.log");
        fs::write(&log, "error: no\n").unwrap();
        assert_eq!(
            told("exit status: 1", &log),
            "exit status: 1; its last words: error: no"
        );
    }
}
