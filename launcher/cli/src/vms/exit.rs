//! Why a machine ended, and the exit status that says so.
//!
//! The numbers are crosvm's where it has one.

use bootwright_vmm::vm::{Crash, Exit};
use serde::{Deserialize, Serialize};

/// A machine could not be started.
pub(crate) const NOT_STARTED: u8 = 35;

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub(crate) enum End {
    /// The guest turned itself off.
    PowerOff,
    /// The guest asked for a reset, and that was to end it.
    Reset,
    /// The guest cannot go on.
    Crash(String),
    /// The guest's kernel panicked.
    Panic,
    /// Someone ended it.
    Killed,
    /// Its time was up.
    TimeUp,
}

impl End {
    /// The exit status of `run`.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Killed => 0,
            Self::Reset => 32,
            Self::Crash(_) => 33,
            Self::Panic => 34,
            Self::TimeUp => 36,
        }
    }

    /// In words, where the user should know.
    pub(crate) fn message(&self) -> Option<String> {
        Some(match self {
            Self::PowerOff | Self::Killed => return None,
            Self::Reset => "the guest asked for a reset".to_owned(),
            Self::Crash(what) => what.clone(),
            Self::Panic => "the guest's kernel panicked".to_owned(),
            Self::TimeUp => "the time given by --timeout is up".to_owned(),
        })
    }
}

impl From<Exit> for End {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::PowerOff => Self::PowerOff,
            Exit::Reset => Self::Reset,
            Exit::Panicked => Self::Panic,
            Exit::Killed => Self::Killed,
            Exit::Crashed(crash) => Self::Crash(match crash {
                Crash::Emulation => crash.to_string(),
                other => format!("the guest crashed: {other}"),
            }),
        }
    }
}
