//! A guest and a passt that use a network device as bytes say.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::passt::Passt;
use super::{HEADER, NetHandler, feature};
use crate::virtio::features;
use crate::virtio::testing::script::{self, Actor, Input, Request};
use crate::virtio::testing::{Driver, Inline};

#[derive(Debug)]
struct Both {
    passt: Option<UnixStream>,
    merge: bool,
}

impl Actor for Both {
    fn request(&mut self, queue: u16, input: &mut Input<'_>) -> Request {
        let header = HEADER as u32;
        match queue {
            0 => Request {
                readable: Vec::new(),
                writable: header + input.pick(&[1500, 1526, 65562, 0, 4084]),
            },
            _ => {
                let mut readable = vec![0; HEADER];
                if input.rarely() {
                    readable.truncate(input.below(header) as usize);
                }
                let most = input.pick(&[60, 1514, 1514, 0x1_0000]);
                readable.extend(input.data(most));
                Request {
                    readable,
                    writable: 0,
                }
            }
        }
    }

    fn host(&mut self, input: &mut Input<'_>) {
        let Some(passt) = &mut self.passt else {
            return;
        };
        if input.rarely() && input.rarely() {
            self.passt = None;
        } else if input.below(3) == 0 {
            let _ = passt.read(&mut vec![0; input.u16().into()]);
        } else {
            let frame = input.data(20_000);
            let mut len = frame.len() as u32;
            if input.rarely() {
                len = input.u32();
            }
            // What does not go out at once is lost, and then the rest of the
            // stream is nonsense: both happen.
            let _ = passt.write(&[&len.to_be_bytes()[..], &frame[..]].concat());
        }
    }

    fn answered(&mut self, queue: u16, bytes: &[u8]) {
        // 5.1.6.4.1: without merging, a frame is in one buffer.
        if queue == 0 && !self.merge {
            assert_eq!(bytes[10..12], [1, 0]);
        }
    }
}

/// Plays it.
///
/// # Panics
/// If the device does what it must not.
pub fn play(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let merge = input.below(2) == 0;
    let mut features = features::COMMON | feature::GUEST_CSUM;
    if merge {
        features |= feature::MRG_RXBUF;
    }
    let (passt, socket) = UnixStream::pair().unwrap();
    passt.set_nonblocking(true).unwrap();
    let mut both = Both {
        passt: Some(passt),
        merge,
    };
    let mut driver = Driver::new(script::MEMORY, &[256, 256], features);
    let handler = NetHandler::alone(Passt::new(socket).unwrap(), Arc::default());
    let mut device = Inline::start(handler, driver.activation());
    script::play(&mut driver, &mut device, &mut input, &mut both);
}
