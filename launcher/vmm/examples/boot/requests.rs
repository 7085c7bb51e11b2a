//! What a guest asks for, so that a test is one script: the one in the guest.
//!
//! | line on the serial port | what happens |
//! |---|---|
//! | `do: cpus N` | processors come or go until there are N |
//! | `do: pause MILLISECONDS` | the guest is held, and then goes on |
//! | `do: memory MEBIBYTES` | so much of the pluggable memory is to be there |
//! | `do: balloon MEBIBYTES` | so much is taken from the guest |
//! | `do: button` | the power button is pressed |
//! | `do: kill` | the guest is ended |
//!
//! When that is done, the answer is typed on the serial port: `done`, or
//! `failed` and why. Guests that do not know of this are watched for a text.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use bootwright_vmm::virtio::balloon::BalloonHandle;
use bootwright_vmm::virtio::mem::MemHandle;
use bootwright_vmm::vm::Handle;

/// A line that asks for something starts with this.
const REQUEST: &str = "do: ";

/// Longest line that is looked at.
const LONGEST: usize = 256;

/// Standard output, with requests passed on.
#[derive(Debug)]
pub(crate) struct Watched {
    line: Vec<u8>,
    /// What to do, once, when the guest says a text.
    when: Vec<(String, String)>,
    requests: Sender<String>,
}

impl Watched {
    /// Passes requests to `requests`.
    pub(crate) fn new(requests: Sender<String>) -> Self {
        Self {
            line: Vec::new(),
            when: Vec::new(),
            requests,
        }
    }

    /// Asks for `request` when the guest has said `text` for the first time.
    pub(crate) fn when(&mut self, text: String, request: String) {
        self.when.push((text, request));
    }

    fn look(&mut self) {
        let Self {
            line,
            when,
            requests,
        } = self;
        when.retain(|(text, request)| {
            let said = line.ends_with(text.as_bytes());
            if said {
                let _ = requests.send(request.clone());
            }
            !said
        });
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = String::from_utf8_lossy(&self.line);
                    if let Some((_, request)) = line.split_once(REQUEST) {
                        let _ = self.requests.send(request.trim().to_owned());
                    }
                    self.line.clear();
                }
                _ if self.line.len() < LONGEST => {
                    self.line.push(*byte);
                    self.look();
                }
                _ => {}
            }
        }
        let mut stdout = io::stdout();
        stdout.write_all(bytes)?;
        stdout.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// What requests are served with.
#[derive(Debug)]
pub(crate) struct Controls {
    /// The machine.
    pub(crate) handle: Handle,
    /// Memory that comes and goes.
    pub(crate) memory: Option<MemHandle>,
    /// Memory that is taken.
    pub(crate) balloon: BalloonHandle,
}

/// Does what is asked for, until there is nobody to ask any more.
pub(crate) fn obey(controls: &Controls, requests: &Receiver<String>) {
    for request in requests {
        let answer = match serve(controls, &request) {
            Ok(()) => "done\n".to_owned(),
            Err(error) => format!("failed {error}\n"),
        };
        let mut rest = answer.as_bytes();
        while let Ok(taken) = controls.handle.serial_input(rest, Duration::from_secs(1)) {
            rest = &rest[taken..];
            if rest.is_empty() {
                break;
            }
        }
    }
}

fn serve(controls: &Controls, request: &str) -> super::Result<()> {
    let handle = &controls.handle;
    let (verb, argument) = request.split_once(' ').unwrap_or((request, ""));
    let bytes = || argument.parse::<u64>().map(|mebibytes| mebibytes << 20);
    match verb {
        "cpus" => handle.set_cpus(argument.parse()?)?,
        "pause" => {
            let time = Duration::from_millis(argument.parse()?);
            handle.pause()?;
            let before = handle.serial_written();
            std::thread::sleep(time);
            let after = handle.serial_written();
            handle.resume()?;
            if after != before {
                return Err("the guest went on while it was held".into());
            }
        }
        "memory" => {
            let memory = controls.memory.as_ref();
            memory.ok_or("no memory is pluggable")?.request(bytes()?)?;
        }
        "balloon" => controls.balloon.request(bytes()?)?,
        "button" => handle.power_button()?,
        "kill" => handle.kill()?,
        _ => return Err(format!("no such request: {request}").into()),
    }
    Ok(())
}
