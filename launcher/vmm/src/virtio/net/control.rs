//! The control queue: how many queue pairs are in use, [section 5.1.6.5.5].
//!
//! [section 5.1.6.5.5]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-2490005

use std::io;
use std::os::fd::OwnedFd;

use vm_memory::GuestMemoryMmap;

use super::tap::attach;
use crate::virtio::queue::{Chain, QueueError, Served};

/// `VIRTIO_NET_CTRL_MQ` and its command `VQ_PAIRS_SET`.
const MQ_PAIRS_SET: [u8; 2] = [4, 0];
const OK: u8 = 0;
const ERR: u8 = 1;

/// Which queues of a tap the kernel spreads frames over.
#[derive(Debug)]
pub(super) struct Control {
    queues: Vec<OwnedFd>,
    /// The first of them that are in use.
    attached: usize,
}

impl Control {
    /// One over other descriptors of `queues`, all of which are in use.
    pub(super) fn new(queues: &[OwnedFd]) -> io::Result<Self> {
        let queues: Vec<_> = queues
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<io::Result<_>>()?;
        Ok(Self {
            attached: queues.len(),
            queues,
        })
    }

    /// 5.1.6.5.5: after a reset one pair is in use.
    pub(super) fn start(&mut self) -> io::Result<()> {
        self.set(1)
    }

    fn set(&mut self, pairs: usize) -> io::Result<()> {
        while self.attached < pairs {
            if let Some(queue) = self.queues.get(self.attached) {
                attach(queue, true)?;
            }
            self.attached += 1;
        }
        while self.attached > pairs {
            if let Some(queue) = self.queues.get(self.attached - 1) {
                attach(queue, false)?;
            }
            self.attached -= 1;
        }
        Ok(())
    }

    /// Obeys one command: class, command, data, and room for the answer.
    pub(super) fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
    ) -> Result<Served, QueueError> {
        let mut request = [0; 4];
        let answer = if chain.readable_len() == 4 {
            chain.read_at(memory, 0, &mut request)?;
            let pairs = usize::from(u16::from_le_bytes([request[2], request[3]]));
            let known = request[..2] == MQ_PAIRS_SET;
            if known && (1..=self.queues.len()).contains(&pairs) && self.set(pairs).is_ok() {
                OK
            } else {
                ERR
            }
        } else {
            ERR
        };
        chain.write_at(memory, 0, &[answer])?;
        Ok(Served::Used(1))
    }
}
