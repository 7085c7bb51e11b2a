//! SIGINT and SIGTERM as a flag that long work looks at.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Says whether the user wants the command to stop. The first signal raises
/// the flag so that the command can tidy up; a second one ends it at once.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts catching signals.
    ///
    /// # Errors
    /// The system refuses to install a handler.
    pub(crate) fn install() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Starts catching signals; not even the second one ends the process by
    /// itself.
    ///
    /// # Errors
    /// The system refuses to install a handler.
    pub(crate) fn patient() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Calls `what` for each signal that comes from now on, on a thread of its
    /// own, for as long as it says so; at once if one has come before.
    ///
    /// # Errors
    /// The system refuses to install a handler.
    pub(crate) fn each(&self, what: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        let (mut reader, writer) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        if self.raised() && !what() {
            return Ok(());
        }
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || while reader.read_exact(&mut [0]).is_ok() && what() {})?;
        Ok(())
    }

    /// Whether a signal came.
    pub(crate) fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for those who look at it often.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// The flag itself, for those who keep it.
    pub(crate) fn shared(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
