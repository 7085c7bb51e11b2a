//! What can be done to a running guest, whoever runs it.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

/// A running guest.
pub(super) trait Guest: Debug + Send + Sync {
    /// Presses the power button.
    fn power_button(&self) -> anyhow::Result<()>;
    /// Ends it now.
    fn kill(&self) -> anyhow::Result<()>;
}

/// Hands requests to the guest, once there is one.
#[derive(Debug, Default)]
pub(super) struct Control(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    guest: Option<Arc<dyn Guest>>,
    /// It was to end before it ran.
    killed: bool,
}

impl Control {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest runs.
    pub(super) fn set_guest(&self, guest: Arc<dyn Guest>) {
        let mut state = self.state();
        state.guest = Some(Arc::clone(&guest));
        let killed = state.killed;
        drop(state);
        if killed {
            report(guest.kill());
        }
    }

    /// There is no guest any more.
    pub(super) fn clear(&self) {
        self.state().guest = None;
    }

    /// Presses the power button.
    pub(super) fn power_button(&self) {
        let guest = self.state().guest.clone();
        if let Some(guest) = guest {
            report(guest.power_button());
        }
    }

    /// Ends the guest now, or as soon as it runs.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        state.killed = true;
        let guest = state.guest.clone();
        drop(state);
        if let Some(guest) = guest {
            report(guest.kill());
        }
    }
}

fn report(result: anyhow::Result<()>) {
    if let Err(error) = result {
        eprintln!("bootwright: {}", crate::explained(&error));
    }
}
