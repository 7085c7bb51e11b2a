//! A guest that uses a balloon as bytes say.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use super::{BalloonHandler, F_PAGE_REPORTING, F_STATS_VQ, PAGE, QUEUES, Shared};
use crate::virtio::features;
use crate::virtio::testing::script::{self, Actor, Input, Request};
use crate::virtio::testing::{Driver, Inline};
use crate::virtio::worker::Handler;

#[derive(Debug)]
struct Guest;

/// Pages that the guest gives, above what the driver uses; some are not there.
const FIRST: u32 = (script::MEMORY as u64 / PAGE) as u32;
const PAGES: u32 = 64;

impl Actor for Guest {
    fn request(&mut self, queue: u16, input: &mut Input<'_>) -> Request {
        match queue {
            0 | 1 => {
                let mut readable = Vec::new();
                for _ in 0..=input.below(20) {
                    let mut page = FIRST + input.below(PAGES + 8);
                    if input.rarely() {
                        page = input.u32().max(FIRST);
                    }
                    readable.extend(page.to_le_bytes());
                }
                if input.rarely() {
                    readable.pop();
                }
                Request {
                    readable,
                    writable: 0,
                }
            }
            2 => {
                let mut readable = Vec::new();
                for _ in 0..input.below(12) {
                    readable.extend(u16::from(input.byte() % 12).to_le_bytes());
                    readable.extend(input.u64().to_le_bytes());
                }
                Request {
                    readable,
                    writable: 0,
                }
            }
            // Reports: the buffers are pages. Those of the script are used
            // again only when they have come back.
            _ => Request {
                readable: Vec::new(),
                writable: 1 + input.below(4 * PAGE as u32),
            },
        }
    }

    fn host(&mut self, _input: &mut Input<'_>) {}
}

/// Plays it.
///
/// # Panics
/// If the device does what it must not.
pub fn play(bytes: &[u8]) {
    let shared = Arc::new(Shared::default());
    let features = features::COMMON | F_STATS_VQ | F_PAGE_REPORTING;
    let len = script::MEMORY + (u64::from(PAGES) * PAGE) as usize;
    let mut driver = Driver::new(len, QUEUES, features);
    let mut device = Inline::start(
        BalloonHandler::new(Arc::clone(&shared)),
        driver.activation(),
    );
    let mut input = Input::new(bytes);
    let mut guest = Guest;
    while !input.is_empty() && device.fault.is_none() {
        let mut now: Vec<u8> = (0..100).map(|_| input.byte()).collect();
        now.push(0);
        script::play(&mut driver, &mut device, &mut Input::new(&now), &mut guest);
        if device.fault.is_none()
            && let Err(error) = device.handler.poked(&device.poll)
        {
            device.fault = Some(error.to_string());
        }
    }
}
