//! A guest and a host that use a console as bytes say.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::{ConsoleHandler, QUEUES, RECEIVE, Streams};
use crate::virtio::features;
use crate::virtio::testing::script::{self, Actor, Input, Request};
use crate::virtio::testing::{Driver, Inline};

#[derive(Debug)]
struct Both {
    host: Option<UnixStream>,
    /// What the host has written and the guest has not got.
    typed: VecDeque<u8>,
}

impl Actor for Both {
    fn request(&mut self, queue: u16, input: &mut Input<'_>) -> Request {
        match queue {
            RECEIVE => Request {
                readable: Vec::new(),
                writable: 1 + input.pick(&[0, 4095, 70_000]),
            },
            _ => Request {
                readable: input.data(70_000),
                writable: 0,
            },
        }
    }

    fn host(&mut self, input: &mut Input<'_>) {
        let Some(host) = &mut self.host else {
            return;
        };
        if input.rarely() && input.rarely() {
            self.host = None;
        } else if input.below(2) == 0 {
            let _ = host.read(&mut vec![0; input.u16().into()]);
        } else {
            let data = input.data(10_000);
            let written = host.write(&data).unwrap_or_default();
            self.typed.extend(&data[..written]);
        }
    }

    fn answered(&mut self, queue: u16, bytes: &[u8]) {
        if queue == RECEIVE {
            let typed: Vec<u8> = self.typed.drain(..bytes.len()).collect();
            assert!(typed == bytes, "what the guest got was not typed");
        }
    }
}

/// Plays it.
///
/// # Panics
/// If the device does what it must not.
pub fn play(bytes: &[u8]) {
    let (host, device) = UnixStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let streams = Streams {
        input: Some(device.try_clone().unwrap().into()),
        output: Some(device.into()),
    };
    let mut both = Both {
        host: Some(host),
        typed: VecDeque::new(),
    };
    let mut driver = Driver::new(script::MEMORY, QUEUES, features::COMMON);
    let handler = ConsoleHandler::new(streams, Arc::default()).unwrap();
    let mut device = Inline::start(handler, driver.activation());
    script::play(&mut driver, &mut device, &mut Input::new(bytes), &mut both);
}
