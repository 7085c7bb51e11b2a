//! The control API of a machine: HTTP/1.1 with JSON over a unix socket, as
//! docs/src/reference/control-api.yaml describes it.
//!
//! One request a connection, so that a client that hangs holds up nobody.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;

use super::confinement::Confinement;
use super::control::Control;

/// Longest head of a request, and longest body, in bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_BODY: usize = 64 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// How long a client may take to say what it wants, or to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most clients at once.
const MAX_CLIENTS: usize = 32;

/// Serves the API of the machine behind `control` at `socket`.
pub(super) fn serve(
    socket: &Path,
    control: Arc<Control>,
    confinement: Confinement,
) -> anyhow::Result<()> {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
    let clients = Arc::new(AtomicUsize::new(0));
    thread::Builder::new().name("api".into()).spawn(move || {
        confinement.enter();
        for stream in listener.incoming().flatten() {
            if clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
                clients.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (control, counted) = (Arc::clone(&control), Arc::clone(&clients));
            let work = move || {
                // That a client leaves is its own business.
                let _ = talk(&stream, &control);
                counted.fetch_sub(1, Ordering::Relaxed);
            };
            if thread::Builder::new()
                .name("api-client".into())
                .spawn(work)
                .is_err()
            {
                clients.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })?;
    Ok(())
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn json(status: u16, value: &serde_json::Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: format!("{value}\n"),
        }
    }

    fn error(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "error": message }))
    }

    fn done(result: anyhow::Result<()>) -> Self {
        match result {
            Ok(()) => Self {
                status: 204,
                content_type: "application/json",
                body: String::new(),
            },
            Err(error) => Self::error(409, &crate::explained(&error)),
        }
    }
}

fn talk(stream: &UnixStream, control: &Control) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stream = stream;
    match respond(stream, control) {
        Some(bytes) => stream.write_all(&bytes),
        None => Ok(()),
    }
}

/// What a client gets that sends `input`: nothing if it sends nothing.
fn respond(input: impl io::Read, control: &Control) -> Option<Vec<u8>> {
    let answer = match receive(input) {
        Ok(Some(request)) => answer(&request, control),
        Ok(None) => return None,
        Err(answer) => *answer,
    };
    let mut head = String::new();
    let _ = write!(
        head,
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nConnection: close\r\n",
        answer.status,
        reason(answer.status),
        answer.content_type,
    );
    // RFC 9110, 8.6: no length with 204.
    if answer.status != 204 {
        let _ = write!(head, "Content-Length: {}\r\n", answer.body.len());
    }
    head.push_str("\r\n");
    head.push_str(&answer.body);
    Some(head.into_bytes())
}

/// What a client gets that sends `input` to a machine whose guest does all that
/// it is asked for: for the fuzz target.
#[cfg(feature = "fuzzing")]
pub fn fuzzed(input: &[u8]) -> Option<Vec<u8>> {
    let control = Control::default();
    control.set_guest(Arc::new(super::obedient::Obedient::default()));
    respond(input, &control)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        _ => "Error",
    }
}

/// The request that `input` brings; `None` if it brings nothing.
fn receive(mut input: impl io::Read) -> Result<Option<Request>, Box<Answer>> {
    let bad = |message: &str| Box::new(Answer::error(400, message));
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let (mut request, start, length) = loop {
        let count = input.read(&mut buffer).map_err(|e| bad(&e.to_string()))?;
        if count == 0 && bytes.is_empty() {
            return Ok(None);
        }
        if count == 0 {
            return Err(bad("the request is cut short"));
        }
        bytes.extend(buffer.get(..count).unwrap_or_default());
        match head(&bytes).map_err(|e| bad(&e))? {
            Some(parsed) if parsed.1 <= MAX_HEAD => break parsed,
            None if bytes.len() <= MAX_HEAD => {}
            _ => return Err(bad("the head is too long")),
        }
    };
    if length > MAX_BODY {
        return Err(Box::new(Answer::error(413, "the body is too long")));
    }
    let mut body = bytes.split_off(start);
    let missing = length.saturating_sub(body.len());
    let mut rest = vec![0; missing];
    input
        .read_exact(&mut rest)
        .map_err(|_| bad("the body is cut short"))?;
    body.extend(rest);
    body.truncate(length);
    request.body = body;
    Ok(Some(request))
}

/// The head of a request: the request without its body, where that starts and
/// how long it is. `None` if more of it has to come.
fn head(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let start = match parsed.parse(bytes).map_err(|e| e.to_string())? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(start) => start,
    };
    let mut length = 0;
    for header in parsed.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default();
            length = text.trim().parse().map_err(|_| "a bad Content-Length")?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("bodies need a Content-Length".to_owned());
        }
    }
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        body: Vec::new(),
    };
    Ok(Some((request, start, length)))
}

/// What can be changed of a running machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    cpus: Option<u8>,
    /// In bytes.
    memory: Option<u64>,
}

fn answer(request: &Request, control: &Control) -> Answer {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/vm") => match control.state_of_guest() {
            Ok(state) => Answer::json(200, &state),
            Err(error) => Answer::error(409, &crate::explained(&error)),
        },
        ("PATCH", "/v1/vm") => match serde_json::from_slice::<Change>(&request.body) {
            Ok(Change {
                cpus: None,
                memory: None,
            }) => Answer::error(400, "nothing is to change"),
            Ok(change) => Answer::done(control.with_guest(|guest| {
                if let Some(memory) = change.memory {
                    guest.set_memory(memory)?;
                }
                change.cpus.map_or(Ok(()), |cpus| guest.set_cpus(cpus))
            })),
            Err(error) => Answer::error(400, &error.to_string()),
        },
        ("POST", "/v1/vm/power-button") => {
            Answer::done(control.with_guest(|guest| guest.power_button()))
        }
        ("POST", "/v1/vm/kill") => Answer::done(control.with_guest(|guest| guest.kill())),
        ("POST", "/v1/vm/pause") => Answer::done(control.with_guest(|guest| guest.pause())),
        ("POST", "/v1/vm/resume") => Answer::done(control.with_guest(|guest| guest.resume())),
        ("GET", "/metrics") => match control.metrics() {
            Ok(body) => Answer {
                status: 200,
                // Prometheus, "Text-based format".
                content_type: "text/plain; version=0.0.4",
                body,
            },
            Err(error) => Answer::error(409, &crate::explained(&error)),
        },
        (
            _,
            "/v1/vm"
            | "/metrics"
            | "/v1/vm/power-button"
            | "/v1/vm/kill"
            | "/v1/vm/pause"
            | "/v1/vm/resume",
        ) => Answer::error(405, "this cannot be done to it"),
        _ => Answer::error(404, "there is no such thing"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::obedient::Obedient;
    use super::*;

    #[test]
    fn what_is_asked_for_is_done_to_the_guest() {
        let guest = Arc::new(Obedient::default());
        let control = Control::default();
        control.set_guest(Arc::clone(&guest) as Arc<dyn super::super::control::Guest>);
        let change = |body: &str| {
            let length = body.len();
            format!("PATCH /v1/vm HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        for (request, expect) in [
            (change(r#"{"cpus":3}"#), (3, 0)),
            (change(r#"{"memory":4096}"#), (3, 4096)),
            (change(r#"{"cpus":1,"memory":8192}"#), (1, 8192)),
        ] {
            let answer = respond(request.as_bytes(), &control).unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 204 No Content\r\n"),
                "{answer}"
            );
            assert!(!answer.contains("Content-Length"), "{answer}");
            assert_eq!(guest.has(), expect, "{request}");
        }
        let answer = respond(&b"GET /metrics HTTP/1.1\r\n\r\n"[..], &control).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.contains("\nbootwright_memory_bytes 8192\n"),
            "{answer}"
        );
    }

    fn status(request: &[u8]) -> u16 {
        match receive(request) {
            Ok(Some(request)) => answer(&request, &Control::default()).status,
            Ok(None) => 0,
            Err(answer) => answer.status,
        }
    }

    #[test]
    fn requests_are_taken_as_they_should_be() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
        for (request, expect) in [
            ("", 0),
            ("GET / HTTP/1.1\r\n\r\n", 404),
            ("GET /v1/vm HTTP/1.1\r\nHost: x\r\n\r\n", 409),
            ("DELETE /v1/vm HTTP/1.1\r\n\r\n", 405),
            ("PATCH /v1/vm HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
            (
                "PATCH /v1/vm HTTP/1.1\r\nContent-Length: 10\r\n\r\n{\"cpus\":2}",
                409,
            ),
            (
                "PATCH /v1/vm HTTP/1.1\r\nContent-Length: 10\r\n\r\n{\"cpux\":2}",
                400,
            ),
            (
                "PATCH /v1/vm HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"memory\":-1}",
                400,
            ),
            (
                "PATCH /v1/vm HTTP/1.1\r\nContent-Length: 12\r\n\r\n{\"memory\":1}",
                409,
            ),
            ("PATCH /v1/vm HTTP/1.1\r\nContent-Length: 99\r\n\r\n{}", 400),
            (
                "PATCH /v1/vm HTTP/1.1\r\nContent-Length: 999999\r\n\r\n",
                413,
            ),
            ("PATCH /v1/vm HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (
                "POST /v1/vm/kill HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            ("GET", 400),
            ("\0\0\0\0", 400),
            (&long, 400),
        ] {
            assert_eq!(status(request.as_bytes()), expect, "{request:.60}");
        }
    }
}
