//! The pod's word on whether its guest stands still.
//!
//! The controller writes it as an annotation of the pod, and the kubelet
//! brings it, within a minute or so, into a file beside the machine's. What
//! changes there is passed on to the machine's control socket.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::commands;
use crate::progress::Messages;
use crate::vms::client;
use crate::vms::place::Place;

/// How often the file is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest word that is read, in bytes.
const MAX_WORD: u64 = 64;

/// Follows what `file` says for as long as this process lives. Without a word
/// in it the guest is as it was started.
pub(super) fn follow(file: PathBuf, place: Place) -> io::Result<()> {
    let follow = move || {
        let messages = Messages::new(false);
        let (mut told, mut complained) = (None, String::new());
        loop {
            thread::sleep(INTERVAL);
            let word = commands::read_limited(&file, MAX_WORD).unwrap_or_default();
            let (paused, request) = match word.trim_ascii() {
                b"true" => (true, "/v1/vm/pause"),
                b"false" => (false, "/v1/vm/resume"),
                _ => continue,
            };
            if told == Some(paused) {
                continue;
            }
            match client::request(&place, "POST", request, None) {
                Ok(_) => {
                    told = Some(paused);
                    messages.note(match paused {
                        true => "the guest stands still, as the pod's annotation asks",
                        false => "the guest goes on, as the pod's annotation asks",
                    });
                }
                // Tried again, as the guest may not have started yet.
                Err(error) => {
                    let error = crate::explained(&error);
                    if error != complained {
                        messages.warn(&format!("{request}: {error}"));
                        complained = error;
                    }
                }
            }
        }
    };
    let thread = thread::Builder::new().name("pause".into());
    thread.spawn(follow).map(drop)
}
