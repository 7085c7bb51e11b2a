//! What can be wrong with a virtqueue.

use std::io;

/// A queue that its device cannot go on with.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The rings are not where they should be, or the available index is more
    /// than the queue's size ahead.
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    /// The available ring names a descriptor that the table has not.
    #[error("head {head} is beyond the table's {size} descriptors")]
    Head {
        /// The descriptor.
        head: u16,
        /// The queue's size.
        size: u16,
    },
    /// A descriptor leads to one that the table has not.
    #[error("descriptor {next} is beyond the table's {size}")]
    Next {
        /// The descriptor.
        next: u16,
        /// The table's size.
        size: u32,
    },
    /// A chain that is longer than it may be, such as one that is a loop.
    #[error("a chain of more than {0} descriptors")]
    TooManyDescriptors(u32),
    /// A chain of 4 GiB or more.
    #[error("a chain of 4 GiB or more")]
    TooManyBytes,
    /// An indirect table where none may be, or one of a bad size.
    #[error("indirect table: {0}")]
    Indirect(&'static str),
    /// A readable buffer comes after a writable one.
    #[error("a readable buffer after a writable one")]
    Order,
    /// A buffer without bytes.
    #[error("a buffer of length zero")]
    Empty,
    /// A table or buffer that is not in memory.
    #[error("{len} bytes at {address:#x} are not in memory")]
    Memory {
        /// Guest address.
        address: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A chain has less room or fewer bytes than the request needs.
    #[error("the chain has {have} {what} bytes, {need} are needed")]
    TooShort {
        /// `readable` or `writable`.
        what: &'static str,
        /// What is needed.
        need: u64,
        /// What is there.
        have: u64,
    },
    /// The chain is no request of this device.
    #[error("{0}")]
    Malformed(&'static str),
    /// The driver cannot be reached.
    #[error("interrupt: {0}")]
    Interrupt(#[source] io::Error),
    /// The host fails the device.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What happened.
        #[source]
        error: io::Error,
    },
}
