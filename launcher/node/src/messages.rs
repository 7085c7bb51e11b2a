//! The messages of the device plugin API (`v1beta1/api.proto` of
//! k8s.io/kubelet) in Protocol Buffers' encoding, as far as they are used.

use bytes::{BufMut as _, BytesMut};

/// Kinds of fields (protobuf.dev, "Message structure").
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// The version of the API.
pub(crate) const VERSION: &str = "v1beta1";

/// `RegisterRequest`.
pub(crate) fn register_request(endpoint: &str, resource: &str) -> BytesMut {
    let mut message = BytesMut::new();
    put(&mut message, 1, VERSION.as_bytes());
    put(&mut message, 2, endpoint.as_bytes());
    put(&mut message, 3, resource.as_bytes());
    message
}

/// `ListAndWatchResponse`: `count` devices, all in the same state.
pub(crate) fn list_and_watch_response(count: u32, healthy: bool) -> BytesMut {
    let health = match healthy {
        true => "Healthy",
        false => "Unhealthy",
    };
    let mut message = BytesMut::new();
    for number in 0..count {
        let mut device = BytesMut::new();
        put(&mut device, 1, format!("kvm{number}").as_bytes());
        put(&mut device, 2, health.as_bytes());
        put(&mut message, 1, &device);
    }
    message
}

/// How many containers an `AllocateRequest` asks for.
pub(crate) fn containers(mut request: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !request.is_empty() {
        let key = varint(&mut request)?;
        let length = match key & 7 {
            VARINT => {
                varint(&mut request)?;
                continue;
            }
            FIXED64 => 8,
            FIXED32 => 4,
            BYTES => usize::try_from(varint(&mut request)?).ok()?,
            _ => return None,
        };
        request = request.get(length..)?;
        count += usize::from(key == 1 << 3 | BYTES);
    }
    Some(count)
}

/// `AllocateResponse`: the device for each of `count` containers.
pub(crate) fn allocate_response(count: usize, device: &str) -> BytesMut {
    let mut spec = BytesMut::new();
    put(&mut spec, 1, device.as_bytes());
    put(&mut spec, 2, device.as_bytes());
    put(&mut spec, 3, b"rw");
    let mut container = BytesMut::new();
    put(&mut container, 3, &spec);
    let mut message = BytesMut::new();
    for _ in 0..count {
        put(&mut message, 1, &container);
    }
    message
}

fn put(message: &mut BytesMut, field: u8, bytes: &[u8]) {
    message.put_u8(field << 3 | BYTES as u8);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(bytes);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_counted_and_nonsense_is_not() {
        for (request, expect) in [
            (&b""[..], Some(0)),
            // Two containers, the first with an identifier.
            (b"\x0a\x06\x0a\x04kvm7\x0a\x00", Some(2)),
            // Fields that are not known, of each kind.
            (
                b"\x10\x96\x01\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x0a\x00",
                Some(1),
            ),
            (b"\x0a", None),
            (b"\x0a\x05abc", None),
            (b"\x0b", None),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(containers(request), expect, "{request:x?}");
        }
    }
}
