//! The user's terminal in raw mode, and back.

use std::io::{self, IsTerminal as _, Stdin};
use std::os::fd::AsFd as _;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// A terminal that passes on every key as it is. Dropped, also by a panic, it
/// is as it was.
#[derive(Debug)]
pub(super) struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    /// Puts standard input into raw mode; `None` if it is no terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        // Lines of this program's own messages still start at the left.
        raw.output_modes = before.output_modes;
        tcsetattr(stdin.as_fd(), OptionalActions::Flush, &raw)?;
        Ok(Some(Self { stdin, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(self.stdin.as_fd(), OptionalActions::Drain, &self.before);
    }
}
