//! The machine around a device under test: interrupts that are recorded, and a
//! reader of accesses.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use bootwright_vmm::irq::{Message, Router};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Keeps what is asked of KVM.
#[derive(Debug, Default)]
pub struct Recorder {
    lines: Mutex<Vec<EventFd>>,
    routes: Mutex<BTreeMap<u32, Message>>,
    doorbells: Mutex<BTreeMap<u64, EventFd>>,
}

impl Recorder {
    /// Whether `line` was signalled since the last time.
    pub fn signalled(&self, line: u32) -> bool {
        self.lines.lock().unwrap()[line as usize].read().is_ok()
    }

    /// Where `line` leads.
    pub fn route_of(&self, line: u32) -> Option<Message> {
        self.routes.lock().unwrap().get(&line).copied()
    }

    /// How many doorbells there are now.
    pub fn doorbells(&self) -> usize {
        self.doorbells.lock().unwrap().len()
    }
}

impl Router for Recorder {
    fn line(&self) -> io::Result<(EventFd, u32)> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let mut lines = self.lines.lock().unwrap();
        lines.push(event.try_clone()?);
        Ok((event, lines.len() as u32 - 1))
    }

    fn route(&self, line: u32, message: Message) -> io::Result<()> {
        assert!((line as usize) < self.lines.lock().unwrap().len());
        self.routes.lock().unwrap().insert(line, message);
        Ok(())
    }

    fn ring(&self, doorbell: &EventFd, address: u64) -> io::Result<()> {
        let known = self
            .doorbells
            .lock()
            .unwrap()
            .insert(address, doorbell.try_clone()?);
        assert!(known.is_none(), "KVM would refuse a second one");
        Ok(())
    }

    fn unring(&self, _: &EventFd, address: u64) -> io::Result<()> {
        let known = self.doorbells.lock().unwrap().remove(&address);
        assert!(known.is_some(), "KVM would not know it");
        Ok(())
    }
}

/// An access of the guest's.
#[derive(Debug)]
pub struct Access<'a> {
    /// Chooses what is accessed.
    pub kind: u8,
    /// Where, within that.
    pub offset: u16,
    /// What is written, or how many bytes are read.
    pub data: &'a [u8],
    /// Whether it writes.
    pub write: bool,
}

/// Cuts `input` into accesses: mostly of 1, 2, 4 or 8 bytes, as processors
/// make them, rarely of others.
pub fn accesses(mut input: &[u8]) -> Vec<Access<'_>> {
    let mut all = Vec::new();
    while let [kind, width, low, high, rest @ ..] = input {
        let len = match width & 0x7f {
            odd @ 0x78..=0x7f => usize::from(odd - 0x78),
            width => 1 << (width % 4),
        };
        let (data, rest) = rest.split_at(len.min(rest.len()));
        all.push(Access {
            kind: *kind,
            offset: u16::from_le_bytes([*low, *high]),
            data,
            write: width & 0x80 != 0,
        });
        input = rest;
    }
    all
}
