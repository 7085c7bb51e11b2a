//! A guest that uses a memory device as bytes say.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use zerocopy::{FromBytes, IntoBytes};

use super::handler::{Answer, Request, answer};
use super::{BLOCK, Mem, MemHandle, MemHandler, QUEUES};
use crate::memory::Range;
use crate::virtio::features;
use crate::virtio::testing::script::{self, Actor, Input};
use crate::virtio::testing::{Driver, Inline};

/// A region that lies in the test's memory in part only, above what the driver
/// uses, so that taking memory back fails in the rest.
const REGION: Range = Range {
    start: script::MEMORY as u64,
    len: 70 * BLOCK,
};

#[derive(Debug)]
struct Guest {
    handle: MemHandle,
    acknowledged: u32,
}

impl Actor for Guest {
    fn request(&mut self, _queue: u16, input: &mut Input<'_>) -> script::Request {
        let block = u64::from(input.below(72));
        let mut message = Request {
            kind: u16::from(input.byte() % 5).into(),
            padding: [0.into(); 3],
            address: (REGION.start + block * BLOCK).into(),
            count: u16::from(input.byte() % 9).into(),
            padding_end: [0.into(); 3],
        };
        if input.rarely() {
            message.address = input.u64().into();
            message.count = input.u16().into();
        }
        script::Request {
            readable: message.as_bytes().to_vec(),
            writable: 10,
        }
    }

    fn host(&mut self, input: &mut Input<'_>) {
        let _ = self.handle.request(u64::from(input.below(72)) * BLOCK);
    }

    fn answered(&mut self, _queue: u16, bytes: &[u8]) {
        let answer = Answer::read_from_bytes(bytes).unwrap();
        assert!(answer.kind.get() <= answer::ERROR);
        assert!(answer.state.get() <= 2);
        self.acknowledged += u32::from(answer.kind.get() == answer::ACK);
        let metrics = self.handle.metrics();
        assert!(metrics.plugged.get() <= REGION.len);
        assert!(metrics.plugged.get().is_multiple_of(BLOCK));
    }
}

/// Plays it.
///
/// # Panics
/// If the device does what it must not.
pub fn play(bytes: &[u8]) {
    let shared = Mem::shared(REGION).unwrap();
    let mut guest = Guest {
        handle: MemHandle(shared.clone()),
        acknowledged: 0,
    };
    let mut driver = Driver::new(
        script::MEMORY + 8 * BLOCK as usize,
        QUEUES,
        features::COMMON,
    );
    let mut device = Inline::start(MemHandler::new(shared), driver.activation());
    script::play(&mut driver, &mut device, &mut Input::new(bytes), &mut guest);
}
