//! The pod's word on how large its machine is.
//!
//! The controller changes the machine in the pod's annotation, and the kubelet
//! brings it, within a minute or so, into the file that the launcher has
//! started from. Other processors or more or less memory there are passed on
//! to the machine's control socket; all else is for the next start.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use bootwright_machine::{Machine, MachineError};
use serde_json::{Value, json};

use super::MAX_MACHINE;
use crate::args::ByteSize;
use crate::commands;
use crate::progress::Messages;
use crate::vms::client;
use crate::vms::place::Place;

/// How often the file is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Processors, and memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    cpus: u64,
    memory: u64,
}

impl From<&Machine> for Size {
    fn from(machine: &Machine) -> Self {
        Self {
            cpus: machine.cpus.count(),
            memory: machine.memory.bytes,
        }
    }
}

/// Follows the machine in `file`, which was `machine` at the start, for as
/// long as this process lives.
pub(super) fn follow(file: PathBuf, machine: &Machine, place: Place) -> io::Result<()> {
    let mut told = Size::from(machine);
    let follow = move || {
        let messages = Messages::new(false);
        let (mut read, mut complained) = (Vec::new(), String::new());
        loop {
            thread::sleep(INTERVAL);
            let Ok(json) = commands::read_limited(&file, MAX_MACHINE) else {
                continue;
            };
            if json == read {
                continue;
            }
            let outcome = Machine::from_json(&json)
                .map_err(|error: MachineError| error.to_string())
                .and_then(|machine| {
                    let wanted = Size::from(&machine);
                    let Some(change) = change(told, wanted) else {
                        return Ok(None);
                    };
                    client::request(&place, "PATCH", "/v1/vm", Some(&change))
                        .map_err(|error| crate::explained(&error))?;
                    Ok(Some(wanted))
                });
            match outcome {
                Ok(changed) => {
                    read = json;
                    if let Some(size) = changed {
                        told = size;
                        messages.note(&format!(
                            "the machine is to have {} processors and {} of memory, as the pod's \
                             annotation asks",
                            size.cpus,
                            ByteSize(size.memory)
                        ));
                    }
                }
                // Tried again, as the guest may not have started yet.
                Err(error) if error != complained => {
                    messages.warn(&format!("the machine keeps its size: {error}"));
                    complained = error;
                }
                Err(_) => {}
            }
        }
    };
    let thread = thread::Builder::new().name("size".into());
    thread.spawn(follow).map(drop)
}

/// What the machine is asked to change.
fn change(told: Size, wanted: Size) -> Option<Value> {
    let mut change = serde_json::Map::new();
    if wanted.cpus != told.cpus {
        change.insert("cpus".to_owned(), json!(wanted.cpus));
    }
    if wanted.memory != told.memory {
        change.insert("memory".to_owned(), json!(wanted.memory));
    }
    (!change.is_empty()).then_some(Value::Object(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_asked_for() {
        let told = Size { cpus: 2, memory: 1 };
        assert_eq!(change(told, told), None);
        let cpus = Size { cpus: 4, ..told };
        assert_eq!(change(told, cpus), Some(json!({ "cpus": 4 })));
        let memory = Size { memory: 2, ..told };
        assert_eq!(change(told, memory), Some(json!({ "memory": 2 })));
    }
}
