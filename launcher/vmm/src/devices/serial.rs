//! The serial port: an 8250 whose other end is a stream of the host.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

/// Where the guest's output goes.
pub type Output = Box<dyn Write + Send>;

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The output, with the bytes counted. An error there does not concern the
/// guest: nobody may be looking.
struct Counted {
    output: Output,
    count: Arc<AtomicU64>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let _ = self.output.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.output.flush();
        Ok(())
    }
}

/// A serial port.
pub struct SerialPort {
    uart: Mutex<Serial<Interrupt, NoEvents, Counted>>,
    drained: Condvar,
    written: Arc<AtomicU64>,
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl SerialPort {
    /// A port that raises `interrupt` and writes to `output`.
    pub fn new(interrupt: EventFd, output: Output) -> Self {
        let written = Arc::new(AtomicU64::new(0));
        let output = Counted {
            output,
            count: Arc::clone(&written),
        };
        Self {
            uart: Mutex::new(Serial::new(Interrupt(interrupt), output)),
            drained: Condvar::new(),
            written,
        }
    }

    /// The guest reads a register.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        let mut uart = self.lock();
        for byte in data {
            *byte = uart.read(offset);
        }
        if uart.fifo_capacity() > 0 {
            self.drained.notify_all();
        }
    }

    /// The guest writes a register.
    pub fn write(&self, offset: u8, data: &[u8]) {
        let mut uart = self.lock();
        for byte in data {
            // Errors are those of the interrupt and of a full buffer in
            // loopback mode; hardware would lose the byte, too.
            let _ = uart.write(offset, *byte);
        }
    }

    /// Gives the guest as much of `input` as its FIFO takes, waiting up to
    /// `patience` for room; returns how much that was.
    pub fn input(&self, input: &[u8], patience: Duration) -> usize {
        let mut uart = self.lock();
        if uart.fifo_capacity() == 0 {
            let waited = self.drained.wait_timeout(uart, patience);
            uart = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match uart.fifo_capacity() {
            0 => 0,
            room => {
                let some = &input[..input.len().min(room)];
                uart.enqueue_raw_bytes(some).unwrap_or(0)
            }
        }
    }

    /// Bytes that the guest has written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Serial<Interrupt, NoEvents, Counted>> {
        // A panic elsewhere while the lock was held leaves the registers valid.
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Sender(mpsc::Sender<u8>);

    impl Write for Sender {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            bytes.iter().for_each(|b| self.0.send(*b).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_comes_out_and_input_waits_for_room() {
        let (sender, receiver) = mpsc::channel();
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let port = SerialPort::new(interrupt, Box::new(Sender(sender)));
        port.write(0, b"hello");
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), b"hello");
        assert_eq!(port.written(), 5);
        let patience = Duration::from_millis(1);
        let taken = port.input(&[b'x'; 1000], patience);
        assert!((1..1000).contains(&taken));
        assert_eq!(port.input(b"y", patience), 0);
        let mut byte = [0];
        port.read(0, &mut byte);
        assert_eq!(&byte, b"x");
        assert_eq!(port.input(b"y", patience), 1);
    }
}
