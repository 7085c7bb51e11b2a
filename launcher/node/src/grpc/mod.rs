//! gRPC over HTTP/2 ([its protocol]), as far as the kubelet and a device
//! plugin talk it: one message each way, or one and then many, not compressed.
//!
//! [its protocol]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

pub(crate) mod client;
pub(crate) mod server;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::RecvStream;

/// The longest message that is taken.
const MAX_MESSAGE: usize = 1 << 20;

/// Length of what stands before a message: a flag and its length.
const PREFIX: usize = 5;

/// The media type of requests and answers.
const CONTENT_TYPE: &str = "application/grpc";

/// The status of a call that went well.
const OK: &str = "0";

/// A message with its prefix.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    // Messages are ours, and small.
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The one message that a stream brings; none if it brings none.
async fn message(body: &mut RecvStream) -> Result<Option<Bytes>, String> {
    let mut bytes = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|error| error.to_string())?;
        // The other side may send as much more.
        let _ = body.flow_control().release_capacity(part.len());
        if bytes.len() + part.len() > PREFIX + MAX_MESSAGE {
            return Err(format!("a message of more than {MAX_MESSAGE} bytes"));
        }
        bytes.extend_from_slice(&part);
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() < PREFIX {
        return Err("a message that is cut short".to_owned());
    }
    let mut bytes = bytes.freeze();
    if bytes.get_u8() != 0 {
        return Err("a compressed message".to_owned());
    }
    let length = bytes.get_u32() as usize;
    match bytes.len() == length {
        true => Ok(Some(bytes)),
        false => Err("a message of another length than it says".to_owned()),
    }
}
