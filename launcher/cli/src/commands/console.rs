//! `console`, its end in a pod, and `logs`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::vms::{find, find_running};
use crate::args::{LogsArgs, NameArgs};
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::run::attach;
use crate::vms::reach;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// `bootwright console`.
pub(crate) fn console(args: &NameArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let place = find_running(&args.name)?;
    let socket = place.runtime.join("console.sock");
    attach::look(&socket, &Messages::new(false), interrupt)
}

/// `bootwright console-proxy`: the end in the pod of `kubectl bootwright
/// console`. Nobody is left connected when standard input ends: that is all
/// that is seen here of a connection that breaks.
pub(crate) fn proxy(name: &str) -> anyhow::Result<()> {
    let socket = find_running(name)?.runtime.join("console.sock");
    let stream = UnixStream::connect(&socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    reach::relay(stream, Shutdown::Both)
}

/// `bootwright logs`.
pub(crate) fn logs(args: &LogsArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let place = find(&args.name)?;
    let path = place.state.join(match args.machine {
        true => "vm.log",
        false => "console.log",
    });
    let context = || format!("cannot read {}", path.display());
    let mut file = File::open(&path).with_context(context)?;
    let mut stdout = io::stdout();
    let mut shown = 0;
    loop {
        // Before the rest is read, or its last words could be missed.
        let over = !args.follow || !place.is_locked()?;
        shown += io::copy(&mut (&mut file).take(u64::MAX), &mut stdout)?;
        stdout.flush()?;
        if over || interrupt.raised() {
            return Ok(());
        }
        thread::sleep(LOOK);
        // It may have been begun anew.
        if file.metadata()?.len() < shown || File::open(&path)?.metadata()?.len() < shown {
            file = File::open(&path).with_context(context)?;
            file.seek(SeekFrom::Start(0))?;
            shown = 0;
        }
    }
}
