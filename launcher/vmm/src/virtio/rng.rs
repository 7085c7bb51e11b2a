//! The entropy device, [section 5.4].
//!
//! The driver hands over empty buffers, the host's `getrandom` fills them.
//!
//! [section 5.4]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-3070004

use std::io;
use std::sync::Arc;

use vm_memory::GuestAddressSpace;

use super::queue::{Chain, QueueError, Served, Virtqueue};
use super::worker::{EventSet, Handler, OnStart, Poll, Token, Work, Worker};
use super::{ActivateError, Activation, Memory, Stats, VirtioDevice, features};

/// The device id.
pub const ID: u16 = 4;
const QUEUES: &[u16] = &[256];

/// The most bytes given for one buffer: a driver may be given fewer than it
/// asked for (5.4.6.2: at least one), and must not keep the host busy.
const MOST: u32 = 64 << 10;

/// An entropy device.
#[derive(Debug)]
pub struct Rng {
    name: String,
    stats: Arc<Stats>,
    worker: Worker,
}

impl Rng {
    /// Makes one, called `name`.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn new(name: &str, on_start: &OnStart) -> io::Result<Self> {
        let stats = Arc::new(Stats::default());
        let worker = Worker::spawn(
            name,
            RngHandler::new(Arc::clone(&stats)),
            Arc::clone(&stats),
            on_start,
        )?;
        Ok(Self {
            name: name.to_owned(),
            stats,
            worker,
        })
    }

    /// What it has done; entropy is to the guest.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }
}

impl VirtioDevice for Rng {
    fn id(&self) -> u16 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        features::COMMON
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.worker.activate(activation.into())
    }

    fn reset(&mut self) {
        self.worker.stop();
    }
}

/// The half on the thread.
#[derive(Debug)]
pub struct RngHandler {
    stats: Arc<Stats>,
    active: Option<(Memory, Virtqueue)>,
}

impl RngHandler {
    /// One that counts in `stats`.
    pub fn new(stats: Arc<Stats>) -> Self {
        Self {
            stats,
            active: None,
        }
    }
}

impl Handler for RngHandler {
    fn start(&mut self, mut work: Work, _poll: &Poll) -> Result<(), ActivateError> {
        self.active = Some((work.memory.clone(), work.take(0)?));
        Ok(())
    }

    fn event(&mut self, _token: Token, _ready: EventSet, _poll: &Poll) -> Result<(), QueueError> {
        let Some((memory, queue)) = &mut self.active else {
            return Ok(());
        };
        let memory = memory.memory();
        queue.answer();
        queue.drain(&memory, |chain| fill(&memory, chain, &self.stats))
    }

    fn stop(&mut self, _poll: &Poll) {
        self.active = None;
    }
}

fn fill(
    memory: &vm_memory::GuestMemoryMmap,
    chain: &Chain,
    stats: &Stats,
) -> Result<Served, QueueError> {
    // 5.4.6.1: the driver must not place driver-readable buffers.
    if chain.readable_len() != 0 || chain.writable_len() == 0 {
        return Err(QueueError::Malformed("entropy needs only writable buffers"));
    }
    let want = chain.writable_len().min(MOST);
    let mut bytes = [0; 4096];
    let mut done = 0;
    while done < want {
        let now = (want - done).min(4096);
        let piece = bytes.get_mut(..now as usize).unwrap_or_default();
        getrandom(piece).map_err(|error| QueueError::Host {
            what: "getrandom",
            error,
        })?;
        chain.write_at(memory, done, piece)?;
        done += now;
    }
    stats.delivered(want.into());
    Ok(Served::Used(want))
}

fn getrandom(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the kernel writes no more than the slice's length to it.
        #[allow(unsafe_code)]
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => bytes = bytes.get_mut(got..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// A guest that uses an entropy device as bytes say.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::panic, missing_docs)]
pub mod random {
    use super::*;
    use crate::virtio::testing::script::{self, Actor, Input, Request};
    use crate::virtio::testing::{Driver, Inline};

    #[derive(Debug)]
    struct Guest;

    impl Actor for Guest {
        fn request(&mut self, _queue: u16, input: &mut Input<'_>) -> Request {
            Request {
                readable: Vec::new(),
                writable: 1 + input.pick(&[7, 63, 4096, 70_000]),
            }
        }

        fn host(&mut self, _input: &mut Input<'_>) {}

        fn answered(&mut self, _queue: u16, bytes: &[u8]) {
            assert!(!bytes.is_empty() && bytes.len() <= MOST as usize);
        }
    }

    /// Plays it.
    ///
    /// # Panics
    /// If the device does what it must not.
    pub fn play(bytes: &[u8]) {
        let mut driver = Driver::new(script::MEMORY, QUEUES, features::COMMON);
        let handler = RngHandler::new(Arc::default());
        let mut device = Inline::start(handler, driver.activation());
        script::play(&mut driver, &mut device, &mut Input::new(bytes), &mut Guest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Driver, Inline, eventually, no_sandbox, readable, writable};

    fn driver() -> Driver {
        Driver::new(0x10_0000, QUEUES, features::COMMON)
    }

    #[test]
    fn buffers_are_filled() {
        let mut driver = driver();
        let mut rng = Rng::new("rng0", &no_sandbox()).unwrap();
        rng.activate(driver.activation()).unwrap();
        let free = driver.free();
        let q = &mut driver.queues[0];
        let head = q.add(&[writable(free, 5000), writable(free + 0x8000, 3)]);
        q.ring();
        assert_eq!(q.wait_used(), (head.into(), 5003));
        let bytes = q.read(free, 5000);
        assert!(bytes.iter().filter(|b| **b == 0).count() < 200);
        assert_eq!(q.read(free + 5000, 8), [0; 8], "nothing beyond");
        assert_eq!(rng.stats().to_guest_bytes.get(), 5003);
        let interrupts = &driver.interrupts;
        eventually("an interrupt", || {
            interrupts.queues.load(std::sync::atomic::Ordering::SeqCst) == 1
        });

        // A huge request gets some, not all.
        let head = q.add(&[writable(free, 0x8_0000)]);
        q.ring();
        assert_eq!(q.wait_used(), (head.into(), MOST));
    }

    #[test]
    fn after_a_reset_it_starts_afresh() {
        let mut driver = driver();
        let mut rng = Rng::new("rng0", &no_sandbox()).unwrap();
        for _ in 0..3 {
            rng.activate(driver.activation()).unwrap();
            let free = driver.free();
            let q = &mut driver.queues[0];
            let head = q.add(&[writable(free, 8)]);
            q.ring();
            assert_eq!(q.wait_used(), (head.into(), 8));
            rng.reset();
            q.add(&[writable(free, 8)]);
            q.ring();
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(q.used(), None, "it is gone");
            driver = self::driver();
        }
    }

    #[test]
    fn a_broken_queue_stops_it_until_reset() {
        let mut driver = driver();
        let free = driver.free();
        let mut rng = Rng::new("rng0", &no_sandbox()).unwrap();
        rng.activate(driver.activation()).unwrap();
        driver.queues[0].publish(999);
        driver.queues[0].ring();
        eventually("it gives up", || driver.broken());
        assert!(rng.stats().fault().unwrap().contains("head 999"));
        driver.queues[0].ring();
        rng.reset();

        let mut driver = self::driver();
        rng.activate(driver.activation()).unwrap();
        driver.queues[0].add(&[writable(free, 8)]);
        driver.queues[0].ring();
        assert_eq!(driver.queues[0].wait_used().1, 8);
    }

    #[test]
    fn buffers_to_read_are_an_error() {
        for pieces in [
            vec![readable(0x4000, 8)],
            vec![readable(0x4000, 8), writable(0x4000, 8)],
        ] {
            let mut driver = driver();
            let handler = RngHandler::new(Arc::default());
            let mut device = Inline::start(handler, driver.activation());
            driver.queues[0].add(&pieces);
            device.event(0u16);
            assert!(device.fault.unwrap().contains("only writable"));
        }
    }

    #[test]
    fn a_missing_queue_is_named() {
        let mut activation = driver().activation();
        activation.queues[0] = None;
        let mut rng = Rng::new("rng0", &no_sandbox()).unwrap();
        let error = rng.activate(activation).unwrap_err();
        assert!(matches!(error, ActivateError::MissingQueue(0)));
        let mut driver = driver();
        rng.activate(driver.activation()).unwrap();
        let free = driver.free();
        driver.queues[0].add(&[writable(free, 8)]);
        driver.queues[0].ring();
        driver.queues[0].wait_used();
    }

    #[test]
    fn a_thread_that_cannot_be_confined_does_not_start() {
        let refuse: OnStart =
            Arc::new(|name| Err(io::Error::other(format!("no filter for {name}"))));
        let error = Rng::new("rng7", &refuse).unwrap_err();
        assert_eq!(error.to_string(), "no filter for rng7");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_the_guest_does_is_harmless(
            bytes in proptest::collection::vec(0u8..=255, 0..1000),
        ) {
            random::play(&bytes);
        }
    }
}
