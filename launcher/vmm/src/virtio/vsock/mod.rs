//! The socket device, [section 5.10]: stream sockets between the guest and the
//! host without a network.
//!
//! The guest sees `AF_VSOCK`; the host sees unix sockets (the form of [`Vsock`]),
//! so that no kernel module, no privilege and no address that is unique on the
//! host is needed. Each direction of each connection has its credit and a
//! bounded buffer; a slow reader slows down its own connection only.
//!
//! [section 5.10]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html

mod connection;
mod credit;
mod handler;
mod host;
mod packet;
#[cfg(any(test, feature = "testing"))]
pub mod random;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::worker::{OnStart, Worker};
use super::{
    ActivateError, Activation, Counter, Gauge, Stats, VirtioDevice, features, read_config,
};
pub use handler::VsockHandler;
use host::Host;
pub use host::port_path;

/// The device id.
pub const ID: u16 = 19;
/// `VIRTIO_VSOCK_F_STREAM`.
const F_STREAM: u64 = 1 << 0;
/// To the guest.
const RECEIVE: u16 = 0;
/// From the guest.
const TRANSMIT: u16 = 1;
/// Of a move to another host.
const EVENT: u16 = 2;
const QUEUES: &[u16] = &[256, 256, 16];

/// `VMADDR_CID_HOST`: the host, as guests address it.
pub const HOST_CID: u64 = 2;

/// What a socket device has done.
#[derive(Debug, Default)]
pub struct VsockMetrics {
    /// Packets of data and their bytes.
    pub stats: Arc<Stats>,
    /// Connections there are, those included that have only begun.
    pub connections: Gauge,
    /// Connections that the host asked for and got.
    pub to_guest: Counter,
    /// Connections that the guest asked for and got.
    pub to_host: Counter,
    /// Connections that came to nothing, and packets that belonged to none.
    pub refused: Counter,
}

/// A socket device.
///
/// The host reaches port `PORT` of the guest by connecting to the socket at its
/// path, writing `CONNECT PORT\n` and reading `OK HOST-PORT\n`; from there on
/// the two are connected. If the guest refuses, the socket is closed instead.
/// What the guest connects to on the host (context [`HOST_CID`]) is the socket
/// at [`port_path`].
#[derive(Debug)]
pub struct Vsock {
    name: String,
    cid: u32,
    path: PathBuf,
    metrics: Arc<VsockMetrics>,
    worker: Worker,
}

impl Vsock {
    /// Makes one, called `name`, that listens at `path`; the guest's own
    /// address is `cid`, 3 or more, which need not be unique on the host.
    ///
    /// # Errors
    /// The address is reserved, the socket cannot be made, or the thread not be
    /// started.
    pub fn new(name: &str, cid: u32, path: &Path, on_start: &OnStart) -> io::Result<Self> {
        // 5.10.4: 0, 1, 2 and the largest are reserved.
        if cid < 3 || cid == u32::MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{cid} is no address of a guest: it has to be 3 or more"),
            ));
        }
        let metrics = Arc::new(VsockMetrics::default());
        let handler = Self::handler(cid, path, Arc::clone(&metrics))?;
        let worker = Worker::spawn(name, handler, Arc::clone(&metrics.stats), on_start)?;
        Ok(Self {
            name: name.to_owned(),
            cid,
            path: path.to_owned(),
            metrics,
            worker,
        })
    }

    /// The half that goes on a thread, for tests and fuzzing.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn handler(cid: u32, path: &Path, metrics: Arc<VsockMetrics>) -> io::Result<VsockHandler> {
        Ok(VsockHandler::new(cid.into(), Host::listen(path)?, metrics))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it has done.
    pub fn metrics(&self) -> Arc<VsockMetrics> {
        Arc::clone(&self.metrics)
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        // Here and not on its thread, which may not remove files.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl VirtioDevice for Vsock {
    fn id(&self) -> u16 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        features::COMMON | F_STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_vsock_config, 5.10.4: guest_cid.
        read_config(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.worker.activate(activation.into())
    }

    fn reset(&mut self) {
        self.worker.stop();
    }
}
