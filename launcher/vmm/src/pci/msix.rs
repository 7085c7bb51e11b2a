//! MSI-X: a table of messages that the guest fills in.
//!
//! PCI Local Bus Specification 3.0, section 6.8.2 "MSI-X Capability and Table
//! Structure".

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Message, Router};

/// MSI-X's capability id.
pub const CAPABILITY: u8 = 0x11;
/// Bits of message control that can be written, in its high byte: enable and
/// function mask.
pub const CONTROL_WRITABLE: u8 = 0xc0;

const ENTRY_SIZE: u64 = 16;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK: u16 = 1 << 14;
const VECTOR_MASKED: u32 = 1;

#[derive(Debug)]
struct Vector {
    message: Message,
    masked: bool,
    pending: bool,
    event: EventFd,
    line: u32,
}

/// The table and the pending bits of a function.
#[derive(Debug)]
pub struct Msix {
    router: Arc<dyn Router>,
    vectors: Vec<Vector>,
    control: u16,
}

impl Msix {
    /// A table of `count` vectors, each masked, as after reset.
    ///
    /// # Errors
    /// If there are not enough interrupts.
    pub fn new(router: Arc<dyn Router>, count: u16) -> io::Result<Self> {
        let mut vectors = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (event, line) = router.line()?;
            vectors.push(Vector {
                message: Message::default(),
                masked: true,
                pending: false,
                event,
                line,
            });
        }
        Ok(Self {
            router,
            vectors,
            control: 0,
        })
    }

    /// How many vectors there are.
    pub fn len(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// The guest has written message control.
    pub fn set_control(&mut self, control: u16) {
        self.control = control;
        self.deliver_pending();
    }

    /// Sends `vector`, now or when it is unmasked; vectors that do not exist
    /// are sent to nobody.
    ///
    /// # Errors
    /// If the interrupt cannot be raised.
    pub fn send(&mut self, vector: u16) -> io::Result<()> {
        let enabled = self.control & CONTROL_ENABLE != 0;
        let held = self.control & CONTROL_MASK != 0;
        let Some(vector) = self.vectors.get_mut(usize::from(vector)) else {
            return Ok(());
        };
        if !enabled {
            return Ok(());
        }
        if held || vector.masked {
            vector.pending = true;
            return Ok(());
        }
        vector.event.write(1)
    }

    fn deliver_pending(&mut self) {
        if self.control & (CONTROL_ENABLE | CONTROL_MASK) != CONTROL_ENABLE {
            return;
        }
        for vector in self.vectors.iter_mut().filter(|v| !v.masked && v.pending) {
            // Without room in the counter of an eventfd it is pending anyway.
            vector.pending = vector.event.write(1).is_err();
        }
    }

    /// The guest reads the table; by words, as the specification has it.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (index, word) in data.chunks_mut(4).enumerate() {
            let offset = offset + 4 * index as u64;
            if word.len() == 4 && offset.is_multiple_of(4) {
                word.copy_from_slice(&self.table_word(offset).to_le_bytes());
            }
        }
    }

    fn table_word(&self, offset: u64) -> u32 {
        let index = usize::try_from(offset / ENTRY_SIZE).unwrap_or(usize::MAX);
        let Some(vector) = self.vectors.get(index) else {
            return 0;
        };
        match offset % ENTRY_SIZE {
            0 => vector.message.address as u32,
            4 => (vector.message.address >> 32) as u32,
            8 => vector.message.data,
            _ => u32::from(vector.masked),
        }
    }

    /// The guest writes the table.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) {
            return;
        }
        for (index, word) in data.chunks_exact(4).enumerate() {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            self.write_word(offset + 4 * index as u64, value);
        }
    }

    fn write_word(&mut self, offset: u64, value: u32) {
        let index = usize::try_from(offset / ENTRY_SIZE).unwrap_or(usize::MAX);
        let Some(vector) = self.vectors.get_mut(index) else {
            return;
        };
        let message = &mut vector.message;
        match offset % ENTRY_SIZE {
            0 => message.address = message.address & !0xffff_ffff | u64::from(value),
            4 => message.address = message.address & 0xffff_ffff | u64::from(value) << 32,
            8 => message.data = value,
            _ => vector.masked = value & VECTOR_MASKED != 0,
        }
        if vector.masked {
            return;
        }
        // A route that KVM refuses (a message to nowhere) is the guest's loss.
        let _ = self.router.route(vector.line, vector.message);
        self.deliver_pending();
    }

    /// The guest reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            let first = (offset as usize).saturating_add(index).saturating_mul(8);
            let bits = self.vectors.iter().skip(first).take(8);
            *byte = bits
                .enumerate()
                .fold(0, |byte, (bit, v)| byte | u8::from(v.pending) << bit);
        }
    }

    /// As after reset: all masked, nothing pending, off.
    pub fn reset(&mut self) {
        self.control = 0;
        for vector in &mut self.vectors {
            vector.message = Message::default();
            (vector.masked, vector.pending) = (true, false);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Remembers what it is told.
    #[derive(Debug, Default)]
    pub(crate) struct Recorder {
        pub(crate) lines: Mutex<Vec<EventFd>>,
        pub(crate) routes: Mutex<BTreeMap<u32, Message>>,
        pub(crate) doorbells: Mutex<BTreeMap<u64, EventFd>>,
    }

    impl Recorder {
        /// Whether the line was signalled since the last time.
        pub(crate) fn signalled(&self, line: u32) -> bool {
            self.lines.lock().unwrap()[line as usize].read().is_ok()
        }
    }

    impl Router for Recorder {
        fn line(&self) -> io::Result<(EventFd, u32)> {
            let event = EventFd::new(libc::EFD_NONBLOCK)?;
            let mut lines = self.lines.lock().unwrap();
            lines.push(event.try_clone()?);
            Ok((event, lines.len() as u32 - 1))
        }

        fn route(&self, line: u32, message: Message) -> io::Result<()> {
            self.routes.lock().unwrap().insert(line, message);
            Ok(())
        }

        fn ring(&self, doorbell: &EventFd, address: u64) -> io::Result<()> {
            let doorbell = doorbell.try_clone()?;
            self.doorbells.lock().unwrap().insert(address, doorbell);
            Ok(())
        }

        fn unring(&self, _: &EventFd, address: u64) -> io::Result<()> {
            self.doorbells.lock().unwrap().remove(&address);
            Ok(())
        }
    }

    fn set_up() -> (Arc<Recorder>, Msix) {
        let recorder = Arc::new(Recorder::default());
        let mut msix = Msix::new(recorder.clone(), 3).unwrap();
        msix.set_control(CONTROL_ENABLE);
        (recorder, msix)
    }

    fn unmask(msix: &mut Msix, vector: u64) {
        msix.write_table(vector * 16, &0xfee0_1000u32.to_le_bytes());
        msix.write_table(vector * 16 + 8, &0x4021u32.to_le_bytes());
        msix.write_table(vector * 16 + 12, &0u32.to_le_bytes());
    }

    #[test]
    fn an_unmasked_vector_is_sent_where_the_guest_said() {
        let (recorder, mut msix) = set_up();
        unmask(&mut msix, 1);
        let message = Message {
            address: 0xfee0_1000,
            data: 0x4021,
        };
        assert_eq!(recorder.routes.lock().unwrap()[&1], message);
        msix.send(1).unwrap();
        assert!(recorder.signalled(1) && !recorder.signalled(0));
    }

    #[test]
    fn a_masked_vector_waits() {
        let (recorder, mut msix) = set_up();
        msix.send(2).unwrap();
        let mut pending = [0; 8];
        msix.read_pending(0, &mut pending);
        assert_eq!((pending[0], recorder.signalled(2)), (4, false));
        unmask(&mut msix, 2);
        msix.read_pending(0, &mut pending);
        assert_eq!((pending[0], recorder.signalled(2)), (0, true));
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
        msix.send(2).unwrap();
        assert!(!recorder.signalled(2));
        msix.set_control(CONTROL_ENABLE);
        assert!(recorder.signalled(2));
    }

    #[test]
    fn nothing_is_sent_while_it_is_off() {
        let (recorder, mut msix) = set_up();
        unmask(&mut msix, 0);
        msix.set_control(0);
        msix.send(0).unwrap();
        msix.set_control(CONTROL_ENABLE);
        assert!(!recorder.signalled(0));
    }

    #[test]
    fn the_table_reads_as_written() {
        let (_, mut msix) = set_up();
        unmask(&mut msix, 1);
        let mut entry = [0; 8];
        msix.read_table(24, &mut entry);
        assert_eq!(entry, [0x21, 0x40, 0, 0, 0, 0, 0, 0]);
        msix.reset();
        msix.read_table(24, &mut entry);
        assert_eq!(entry, [0, 0, 0, 0, 1, 0, 0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn any_access_is_harmless(
            accesses in proptest::collection::vec(
                (0u64..80, proptest::collection::vec(0u8..=255, 0..9), 0u16..5), 0..64),
            far in 0u64..=u64::MAX - 16,
        ) {
            let (_, mut msix) = set_up();
            for (offset, mut data, vector) in accesses {
                msix.write_table(offset, &data);
                msix.set_control(u16::from(data.first().copied().unwrap_or(0)) << 8);
                msix.send(vector).unwrap();
                msix.read_table(offset, &mut data);
                msix.read_pending(offset, &mut data);
                msix.write_table(far & !3, &data);
                msix.read_table(far, &mut data);
                msix.read_pending(far, &mut data);
            }
        }
    }
}
