//! The header of a packet, [section 5.10.6].
//!
//! [section 5.10.6]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a header.
pub(super) const LEN: u32 = size_of::<Header>() as u32;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the one type of socket there is here.
pub(super) const STREAM: u16 = 1;

/// Operations.
pub(super) mod op {
    /// Asks for a connection.
    pub(in super::super) const REQUEST: u16 = 1;
    /// Grants it.
    pub(in super::super) const RESPONSE: u16 = 2;
    /// Refuses it, or ends it at once.
    pub(in super::super) const RST: u16 = 3;
    /// Ends it in one direction or both.
    pub(in super::super) const SHUTDOWN: u16 = 4;
    /// Data.
    pub(in super::super) const RW: u16 = 5;
    /// Says how much room there is for data.
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    /// Asks for that.
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of this receives no more.
pub(super) const NO_RECEIVE: u32 = 1 << 0;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of this sends no more.
pub(super) const NO_SEND: u32 = 1 << 1;
/// Both.
pub(super) const NOTHING: u32 = NO_RECEIVE | NO_SEND;

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    /// Whom it is from.
    pub(super) src_cid: U64,
    /// Whom it is to.
    pub(super) dst_cid: U64,
    /// Port of the sender.
    pub(super) src_port: U32,
    /// Port of the receiver.
    pub(super) dst_port: U32,
    /// Bytes of data that follow.
    pub(super) len: U32,
    /// Type of socket.
    pub(super) kind: U16,
    /// One of [`op`].
    pub(super) op: U16,
    /// Those of [`op::SHUTDOWN`].
    pub(super) flags: U32,
    /// Bytes that the sender has room for in all.
    pub(super) buf_alloc: U32,
    /// Bytes that have left that room again, modulo 2^32.
    pub(super) fwd_cnt: U32,
}

impl Header {
    /// The answer to a packet that belongs to no connection.
    pub(super) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0.into(),
            kind: self.kind,
            op: op::RST.into(),
            flags: 0.into(),
            buf_alloc: 0.into(),
            fwd_cnt: 0.into(),
        }
    }
}

/// What a connection is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    /// On the host.
    pub(super) host: u32,
    /// In the guest.
    pub(super) guest: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let bytes: Vec<u8> = (0..LEN as u8).collect();
        let header = Header::read_from_bytes(&bytes).unwrap();
        assert_eq!(LEN, 44);
        assert_eq!(header.src_cid.get(), 0x0706_0504_0302_0100);
        assert_eq!(header.dst_port.get(), 0x1716_1514);
        assert_eq!(header.kind.get(), 0x1d1c);
        assert_eq!(header.op.get(), 0x1f1e);
        assert_eq!(header.fwd_cnt.get(), 0x2b2a_2928);
        assert_eq!(header.as_bytes(), bytes);
    }
}
