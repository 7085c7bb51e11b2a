//! A client of the control API.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::place::Place;

/// Longest answer in bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// How long a machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(40);

/// Asks the machine in `place` and gives the answer's body.
pub(crate) fn request(
    place: &Place,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> anyhow::Result<String> {
    let socket = place.runtime.join("control.sock");
    let mut stream = UnixStream::connect(&socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = body.map(ToString::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    (&stream)
        .take(MAX_ANSWER)
        .read_to_end(&mut answer)
        .context("the machine does not answer")?;
    let (status, body) = parse(&answer)?;
    if status >= 300 {
        let said: Option<serde_json::Value> = serde_json::from_str(&body).ok();
        let error = said.as_ref().and_then(|v| v.get("error")?.as_str());
        bail!("{}", error.unwrap_or("the machine refuses"));
    }
    Ok(body)
}

fn parse(answer: &[u8]) -> anyhow::Result<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = parsed.parse(answer)? else {
        bail!("the machine's answer is cut short");
    };
    let status = parsed.code.context("an answer without a status")?;
    let body = answer.get(start..).unwrap_or_default();
    Ok((status, String::from_utf8_lossy(body).into_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn answers_have_a_status_and_a_body() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(parse(answer).unwrap(), (200, "hi".to_owned()));
        for cut in [0, 5, 20] {
            assert!(parse(&answer[..cut]).is_err(), "{cut}");
        }
    }
}
