//! What a client sends to a machine's control socket: as it is, or as the body
//! of a request that is right otherwise.
#![no_main]

use bootwright::fuzzing::control_api;
use libfuzzer_sys::fuzz_target;

const LINES: [&str; 8] = [
    "GET /v1/vm",
    "PATCH /v1/vm",
    "POST /v1/vm/power-button",
    "POST /v1/vm/kill",
    "POST /v1/vm/pause",
    "POST /v1/vm/resume",
    "GET /metrics",
    "DELETE /v1/vm",
];

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    let mut request = match LINES.get(usize::from(kind)) {
        Some(line) => {
            format!("{line} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", rest.len()).into_bytes()
        }
        None => Vec::new(),
    };
    request.extend(rest);
    let Some(answer) = control_api(&request) else {
        assert!(request.is_empty());
        return;
    };
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let (head, body) = answer.split_at(head + 4);
    let head = std::str::from_utf8(head).unwrap();
    let status = head.strip_prefix("HTTP/1.1 ").unwrap();
    let known = ["200 ", "204 ", "400 ", "404 ", "405 ", "409 ", "413 "];
    assert!(known.iter().any(|s| status.starts_with(s)), "{head}");
    // An error quotes what was sent, and no more than that.
    assert!(body.len() <= 4096 + 8 * request.len());
    match status.starts_with("204 ") {
        true => assert!(body.is_empty()),
        false => assert!(head.contains(&format!("Content-Length: {}\r\n", body.len()))),
    }
});
