//! The network device, [section 5.1].
//!
//! Frames pass between the guest's queues and a back end: a [`passt`] process
//! at the other end of a socket, or a [`tap`] interface, with as many queue
//! pairs as it has descriptors. Each pair has a thread.
//!
//! [section 5.1]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-2170001

mod control;
mod handler;
pub mod passt;
#[cfg(any(test, feature = "testing"))]
pub mod random;
mod receive;
pub mod tap;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::worker::{OnStart, Work, Worker};
use super::{ActivateError, Activation, Interrupt, Stats, VirtioDevice, features, read_config};
use control::Control;
pub use handler::{Backend, NetHandler, Received, Sent};
use passt::Passt;
use tap::Tap;

/// The device id.
pub const ID: u16 = 1;

/// The packet has a header of flags, segmentation and number of buffers.
const HEADER: usize = 12;
/// Where the number of buffers is in it.
const NUM_BUFFERS: u32 = 10;
/// The longest frame with its header: 64 KiB of IP, an Ethernet header with two
/// VLAN tags.
const MAX_PACKET: usize = HEADER + 22 + 65535;

const QUEUE_SIZE: u16 = 256;
/// The most queue pairs.
const MAX_PAIRS: usize = 16;

/// Feature bits of section 5.1.3.
mod feature {
    pub(super) const CSUM: u64 = 1 << 0;
    pub(super) const GUEST_CSUM: u64 = 1 << 1;
    pub(super) const MTU: u64 = 1 << 3;
    pub(super) const MAC: u64 = 1 << 5;
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const GUEST_ECN: u64 = 1 << 9;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    pub(super) const HOST_ECN: u64 = 1 << 13;
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
    pub(super) const STATUS: u64 = 1 << 16;
    pub(super) const CTRL_VQ: u64 = 1 << 17;
    pub(super) const MQ: u64 = 1 << 22;
}

/// What the frames go to.
#[derive(Debug)]
pub enum Peer {
    /// A socket that is connected to passt.
    Passt(UnixStream),
    /// The queues of a tap interface ([`tap::open`]): one, or several of one
    /// that was opened for several.
    Tap(Vec<std::os::fd::OwnedFd>),
}

/// How the guest sees its interface.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The largest packet without the Ethernet header, 68 to 65535, if it is to
    /// be other than 1500. passt likes 65520.
    pub mtu: Option<u16>,
}

/// Whether the link is up: it goes down when the peer is gone.
#[derive(Debug)]
struct Link {
    up: AtomicBool,
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Link {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            up: AtomicBool::new(true),
            interrupt: Mutex::new(None),
        })
    }

    /// The peer is gone for good.
    fn down(&self) {
        if self.up.swap(false, Ordering::SeqCst) {
            let interrupt = self.lock().clone();
            if let Some(interrupt) = interrupt {
                // If it cannot be told, it notices that nothing comes.
                let _ = interrupt.config();
            }
        }
    }

    fn set_interrupt(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *self.lock() = interrupt;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Interrupt>>> {
        self.interrupt
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A network device.
#[derive(Debug)]
pub struct Net {
    name: String,
    config: Config,
    features: u64,
    queue_sizes: Vec<u16>,
    stats: Arc<Stats>,
    link: Arc<Link>,
    /// One for each queue pair.
    workers: Vec<Worker>,
}

impl Net {
    /// Makes one, called `name`.
    ///
    /// # Errors
    /// The back end is unusable, the MTU out of range, or a thread cannot be
    /// started.
    pub fn new(name: &str, config: Config, peer: Peer, on_start: &OnStart) -> io::Result<Self> {
        if config.mtu.is_some_and(|mtu| mtu < 68) {
            return Err(invalid("the MTU is below 68"));
        }
        let stats = Arc::new(Stats::default());
        let link = Link::new();
        let mut features = features::COMMON | feature::MAC | feature::STATUS | feature::MRG_RXBUF;
        if config.mtu.is_some() {
            features |= feature::MTU;
        }
        let mut workers = Vec::new();
        match peer {
            Peer::Passt(socket) => {
                let backend = Passt::new(socket)?;
                features |= backend.features();
                let handler =
                    NetHandler::new(0, backend, None, Arc::clone(&link), Arc::clone(&stats));
                workers.push(Worker::spawn(name, handler, Arc::clone(&stats), on_start)?);
            }
            Peer::Tap(fds) => {
                if fds.is_empty() || fds.len() > MAX_PAIRS {
                    return Err(invalid("a tap needs 1 to 16 queues"));
                }
                let many = fds.len() > 1;
                if many {
                    features |= feature::MQ | feature::CTRL_VQ;
                }
                let mut control = if many {
                    Some(Control::new(&fds)?)
                } else {
                    None
                };
                for (pair, fd) in (0..).zip(fds) {
                    let backend = Tap::new(fd)?;
                    features |= backend.features();
                    let handler = NetHandler::new(
                        pair,
                        backend,
                        control.take(),
                        Arc::clone(&link),
                        Arc::clone(&stats),
                    );
                    let thread = if many {
                        format!("{name}.{pair}")
                    } else {
                        name.to_owned()
                    };
                    workers.push(Worker::spawn(
                        &thread,
                        handler,
                        Arc::clone(&stats),
                        on_start,
                    )?);
                }
            }
        }
        let queues = workers.len() * 2 + usize::from(workers.len() > 1);
        Ok(Self {
            name: name.to_owned(),
            config,
            features,
            queue_sizes: vec![QUEUE_SIZE; queues],
            stats,
            link,
            workers,
        })
    }

    /// What it has done.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }
}

impl VirtioDevice for Net {
    fn id(&self) -> u16 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config, 5.1.4: mac, status, max_virtqueue_pairs, mtu.
        let mut config = [0; 12];
        config[0..6].copy_from_slice(&self.config.mac);
        config[6] = u8::from(self.link.up.load(Ordering::SeqCst));
        config[8..10].copy_from_slice(&(self.workers.len() as u16).to_le_bytes());
        let mtu = self.config.mtu.unwrap_or(1500);
        config[10..12].copy_from_slice(&mtu.to_le_bytes());
        read_config(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.link
            .set_interrupt(Some(Arc::clone(&activation.interrupt)));
        let mut work = Work::from(activation);
        // 5.1.2: the control queue comes after the pairs in use.
        let pairs = if work.features & feature::MQ != 0 {
            self.workers.len()
        } else {
            1
        };
        let control = if work.features & feature::CTRL_VQ != 0 {
            work.take_optional(pairs as u16 * 2)
        } else {
            None
        };
        let mut control = control;
        for (pair, worker) in self.workers.iter().enumerate().take(pairs) {
            let base = pair as u16 * 2;
            let mut queues = vec![work.take_optional(base), work.take_optional(base + 1)];
            if pair > 0 && queues.iter().any(Option::is_none) {
                // The driver has fewer CPUs than there are pairs.
                continue;
            }
            queues.push(control.take());
            let work = Work {
                memory: work.memory.clone(),
                features: work.features,
                queues,
                interrupt: Arc::clone(&work.interrupt),
            };
            if let Err(error) = worker.activate(work) {
                self.reset();
                return Err(error);
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.link.set_interrupt(None);
        self.workers.iter().for_each(Worker::stop);
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
