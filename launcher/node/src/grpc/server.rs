//! Answering the kubelet.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::{CONTENT_TYPE, OK, framed, message};

/// Most connections at once; the kubelet has two.
const MAX_CONNECTIONS: usize = 32;

/// Most calls of a connection at once.
const MAX_CALLS: u32 = 32;

/// gRPC's status for calls of what there is not.
pub(crate) const UNIMPLEMENTED: u16 = 12;

/// gRPC's status for requests that make no sense.
pub(crate) const INVALID: u16 = 3;

/// What is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// One message.
    One(BytesMut),
    /// A message each time that what is watched changes, and one at once.
    Many(watch::Receiver<Bytes>),
    /// gRPC's status, and why.
    Refused(u16, &'static str),
}

/// Answers calls, by path and message.
pub(crate) trait Service: Send + Sync + 'static {
    /// The answer.
    fn call(&self, path: &str, request: &[u8]) -> Answer;
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: UnixListener, service: Arc<impl Service>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: some may come free.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            // That a client leaves, or talks nonsense, is its own business.
            let _ = connection(stream, service).await;
            drop(permit);
        });
    }
}

async fn connection(stream: UnixStream, service: Arc<impl Service>) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(16 << 10)
        .handshake(stream)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let _ = answer(request, respond, &*service).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: &impl Service,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let answer = match message(&mut body).await {
        Ok(message) => service.call(head.uri.path(), &message.unwrap_or_default()),
        Err(_) => Answer::Refused(INVALID, "the message cannot be read"),
    };
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(CONTENT_TYPE));
    match answer {
        Answer::Refused(status, why) => {
            headers.extend(trailers(status, why));
            respond.send_response(response, true)?;
        }
        Answer::One(message) => {
            let mut body = respond.send_response(response, false)?;
            body.send_data(framed(&message), false)?;
            body.send_trailers(well())?;
        }
        Answer::Many(mut messages) => {
            let mut body = respond.send_response(response, false)?;
            messages.mark_changed();
            while messages.changed().await.is_ok() {
                let message = messages.borrow_and_update().clone();
                send(&mut body, framed(&message)).await?;
            }
            body.send_trailers(well())?;
        }
    }
    Ok(())
}

/// Sends as the other side takes it, so that one that takes nothing costs no
/// more than one message.
async fn send(body: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|context| body.poll_capacity(context)).await;
        let Some(room) = room else {
            // The stream is closed.
            return Err(h2::Reason::CANCEL.into());
        };
        let part = bytes.split_to(room?.min(bytes.len()));
        body.send_data(part, false)?;
    }
    Ok(())
}

fn well() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(OK));
    trailers
}

fn trailers(status: u16, why: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    trailers.insert("grpc-message", HeaderValue::from_static(why));
    trailers
}
