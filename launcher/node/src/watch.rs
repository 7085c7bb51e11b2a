//! Noticing that the kubelet has started again: it clears its folder for
//! plugins and makes a new socket there.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::mpsc;

use crate::NodeError;

/// What is told of names at once; more is one telling, too.
const WAITING: usize = 1;

/// Says each time that names in `folder` have come or gone, or that somebody
/// has to look.
pub(crate) fn folder(folder: &Path) -> Result<mpsc::Receiver<()>, NodeError> {
    let failed = |error: rustix::io::Errno| NodeError::Io {
        path: folder.to_owned(),
        error: error.into(),
    };
    let watch = inotify::init(CreateFlags::CLOEXEC).map_err(failed)?;
    let flags = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, folder, flags).map_err(failed)?;
    let (sender, changes) = mpsc::channel(WAITING);
    let read = move || {
        let watch = File::from(watch);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::IGNORED) {
                return;
            }
            // One that waits already says the same.
            if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("watch".into())
        .spawn(read)
        .map_err(|error: io::Error| NodeError::Io {
            path: folder.to_owned(),
            error,
        })?;
    Ok(changes)
}
