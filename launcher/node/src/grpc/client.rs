//! Calling the kubelet.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::net::UnixStream;

use super::{CONTENT_TYPE, OK, framed, message};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls the method at `path` of the server at `socket` with one message, and
/// takes the one that it answers.
///
/// # Errors
/// The server cannot be reached, refuses the call or does not speak gRPC.
pub(crate) async fn call(
    socket: &Path,
    path: &'static str,
    request: &[u8],
) -> Result<Bytes, String> {
    match tokio::time::timeout(PATIENCE, attempt(socket, path, request)).await {
        Ok(result) => result,
        Err(_) => Err(format!("{}: no answer", socket.display())),
    }
}

async fn attempt(socket: &Path, path: &'static str, message: &[u8]) -> Result<Bytes, String> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| format!("{}: {error}", socket.display()))?;
    let said = |error: h2::Error| error.to_string();
    let (client, connection) = h2::client::handshake(stream).await.map_err(said)?;
    let driver = tokio::spawn(connection);
    let result = exchange(client, path, message).await;
    driver.abort();
    result
}

async fn exchange(
    client: h2::client::SendRequest<Bytes>,
    path: &'static str,
    request: &[u8],
) -> Result<Bytes, String> {
    let said = |error: h2::Error| error.to_string();
    let head = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost{path}"))
        .header("content-type", CONTENT_TYPE)
        .header("te", "trailers")
        .body(())
        .map_err(|error| error.to_string())?;
    let mut client = client.ready().await.map_err(said)?;
    let (response, mut body) = client.send_request(head, false).map_err(said)?;
    body.send_data(framed(request), true).map_err(said)?;
    let (head, mut body) = response.await.map_err(said)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("HTTP status {}", head.status));
    }
    // Without a body, what comes after it comes before it.
    if head.headers.contains_key("grpc-status") {
        check(&head.headers)?;
    }
    let answer = message(&mut body).await?;
    let trailers = body.trailers().await.map_err(said)?;
    check(trailers.as_ref().unwrap_or(&head.headers))?;
    Ok(answer.unwrap_or_default())
}

/// Whether the call went well.
fn check(headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some(OK) => Ok(()),
        Some(status) => {
            let why = text("grpc-message").map_or("no reason given".to_owned(), plain);
            Err(format!("{why} (gRPC status {status})"))
        }
        None => Err("an answer without a gRPC status".to_owned()),
    }
}

/// A message as it was before it was made fit for a header (gRPC's protocol,
/// "Percent-Encoded").
fn plain(encoded: &str) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        (rest, _) = match (first, byte) {
            (b'%', Some(byte)) => (after.get(2..).unwrap_or_default(), bytes.push(byte)),
            _ => (after, bytes.push(*first)),
        };
    }
    let text = String::from_utf8_lossy(&bytes);
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn messages_are_read_as_they_were_meant() {
        for (encoded, expect) in [
            ("a%20b", "a b"),
            ("100%", "100%"),
            ("%zz%2", "%zz%2"),
            ("%c3%a9%0a", "\u{e9}"),
        ] {
            assert_eq!(plain(encoded), expect, "{encoded}");
        }
    }
}
