//! Harm between client and registry: what is pushed arrives whole or not at
//! all, and what can arrive does.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use bootwright_delivery::disk_image;
use bootwright_image::registry::Uploaded;
use common::servers::proxy::{Fault, Proxy, Request};
use common::servers::registry::{Registry, Setup};
use common::{Sample, fetch, plain, push_sample, tags, with_sink, with_work};

/// Requests of this method before this one.
fn earlier(seen: &[Request], method: &str) -> usize {
    seen.iter().filter(|r| r.line.starts_with(method)).count()
}

fn is_upload(request: &Request, method: &str) -> bool {
    request.line.starts_with(method) && request.line.contains("/blobs/uploads/")
}

/// The length of a request's body.
fn length(request: &Request) -> usize {
    let length = request.header("content-length");
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

/// Whether a request brings the blob of the large layer.
fn is_large(request: &Request) -> bool {
    length(request) > 1 << 20
}

fn first(seen: &[Request], matches: impl Fn(&Request) -> bool) -> bool {
    !seen.iter().any(matches)
}

#[test]
fn whatever_passes_the_disk_arrives_whole() {
    type Rule = fn(&Request, &[Request]) -> Fault;
    let sample = Sample::new(11);
    let expected = sample.bytes();
    let rules: &[(&str, Rule)] = &[
        ("the first connection of each kind is refused", |r, seen| {
            let method = r.line.split(' ').next().unwrap_or_default();
            match earlier(seen, method) {
                0 => Fault::Refuse,
                _ => Fault::None,
            }
        }),
        ("an upload is cut in its middle", |r, seen| {
            match is_upload(r, "PUT") && is_large(r) && first(seen, is_large) {
                true => Fault::CutSent(1 << 20),
                false => Fault::None,
            }
        }),
        ("every other chunk is cut, too", |r, seen| {
            let large = seen.iter().filter(|r| length(r) > 200_000).count();
            match length(r) > 200_000 && large % 2 == 0 && large < 8 {
                true => Fault::CutSent(150_000),
                false => Fault::None,
            }
        }),
        ("the answer to an upload is lost", |r, seen| {
            match is_upload(r, "PUT") && is_large(r) && first(seen, is_large) {
                true => Fault::Lost,
                false => Fault::None,
            }
        }),
        ("it is busy", |r, seen| {
            if r.line.starts_with("POST") && earlier(seen, "POST") < 2 {
                return Fault::Answer("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0");
            }
            match r.line.starts_with("HEAD") && earlier(seen, "HEAD") < 2 {
                true => Fault::Answer("HTTP/1.1 503 Service Unavailable"),
                false => Fault::None,
            }
        }),
        ("it fails within", |r, seen| {
            match is_upload(r, "PUT") && first(seen, |r| is_upload(r, "PUT")) {
                true => Fault::Answer("HTTP/1.1 500 Internal Server Error"),
                false => Fault::None,
            }
        }),
        ("a byte is changed on the way", |r, seen| {
            match is_upload(r, "PUT") && is_large(r) && first(seen, is_large) {
                true => Fault::FlipSent(700_000),
                false => Fault::None,
            }
        }),
        ("it reads slowly", |r, _| match is_upload(r, "PUT") {
            true => Fault::SlowSent(Duration::from_millis(2)),
            false => Fault::None,
        }),
        ("large requests are refused", |r, _| {
            match r.line.starts_with("PUT") && length(r) > 1 << 20 {
                true => Fault::Answer("HTTP/1.1 413 Content Too Large"),
                false => Fault::None,
            }
        }),
        ("it says that it has less than it was sent", |r, seen| {
            // The first request is cut, so that chunks follow.
            if is_upload(r, "PUT") && is_large(r) && first(seen, is_large) {
                return Fault::CutSent(1 << 20);
            }
            match r.line.starts_with("PATCH") && earlier(seen, "PATCH") == 0 {
                true => Fault::Header("Range", "0-9"),
                false => Fault::None,
            }
        }),
        ("it begins uploads nowhere at first", |r, seen| {
            match is_upload(r, "POST") && first(seen, |r| is_upload(r, "POST")) {
                true => Fault::Answer("HTTP/1.1 502 Bad Gateway"),
                false => Fault::None,
            }
        }),
    ];
    for (what, rule) in rules {
        let registry = Registry::start(&Setup::default());
        let proxy = Proxy::start(registry.port, *rule);
        let (result, told) = push_sample(&sample, &format!("{}/a/b:1", proxy.host()), &plain());
        let pushed = result.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(pushed.layers.len(), 5, "{what}");
        let slow = what.contains("slowly");
        assert_eq!(
            told.retries().is_empty(),
            slow,
            "{what}: {:?}",
            told.retries()
        );
        let got = fetch(
            &format!("{}/a/b:1", registry.host()),
            &["--src-tls-verify=false"],
        );
        assert!(got == expected, "{what}: another disk");
    }
}

#[test]
fn what_breaks_off_is_continued_and_not_sent_again() {
    let sample = Sample::new(12);
    let registry = Registry::start(&Setup::default());
    let is_chunk = |r: &Request| r.line.starts_with("PATCH") && length(r) == 1 << 20;
    let proxy = Proxy::start(registry.port, move |r, seen| {
        // Nothing larger than a MiB is taken, and the second chunk breaks off
        // before it begins: of one that has begun docker-registry gives up
        // the whole upload.
        if length(r) > 1 << 20 {
            return Fault::Answer("HTTP/1.1 413 Content Too Large");
        }
        match is_chunk(r) && seen.iter().filter(|r| is_chunk(r)).count() == 1 {
            true => Fault::Refuse,
            false => Fault::None,
        }
    });
    let (result, _) = push_sample(&sample, &format!("{}/a/b:1", proxy.host()), &plain());
    result.unwrap();
    // Of 3 MiB of noise: three chunks and one of them again, not all of them.
    let seen = proxy.seen();
    assert_eq!(seen.iter().filter(|r| is_chunk(r)).count(), 4);
    let got = fetch(
        &format!("{}/a/b:1", registry.host()),
        &["--src-tls-verify=false"],
    );
    assert!(got == sample.bytes(), "another disk");
}

#[test]
fn what_does_not_pass_leaves_no_name_behind() {
    type Rule = fn(&Request, &[Request]) -> Fault;
    let sample = Sample::new(13);
    let rules: &[(&str, Rule, &str)] = &[
        (
            "bytes always change on the way",
            |r, _| match is_large(r) {
                true => Fault::FlipSent(700_000),
                false => Fault::None,
            },
            "sha256:",
        ),
        (
            "it says that it stored something else",
            |r, _| match is_upload(r, "PUT") && is_large(r) {
                true => Fault::Header(
                    "Docker-Content-Digest",
                    "sha256:0000000000000000000000000000000000000000000000000000000000000000",
                ),
                false => Fault::None,
            },
            "stored something else",
        ),
        (
            "it is never well",
            |r, _| match is_upload(r, "POST") {
                true => Fault::Answer("HTTP/1.1 500 Internal Server Error"),
                false => Fault::None,
            },
            "500",
        ),
        (
            "the repository may not be written",
            |r, _| match is_upload(r, "POST") {
                true => Fault::Answer("HTTP/1.1 403 Forbidden"),
                false => Fault::None,
            },
            "denied",
        ),
    ];
    for (what, rule, said) in rules {
        let registry = Registry::start(&Setup::default());
        let proxy = Proxy::start(registry.port, *rule);
        let (result, _) = push_sample(&sample, &format!("{}/a/b:1", proxy.host()), &plain());
        let error = result.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(said), "{what}: {error}");
        let left = tags(&registry.host(), "a/b");
        assert!(!left.contains("\"1\""), "{what}: {left}");
        // The registry is fine; so is the next push, which sends the rest.
        let (result, _) = push_sample(&sample, &format!("{}/a/b:1", registry.host()), &plain());
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

#[test]
fn retry_after_is_waited_for() {
    let sample = Sample::new(14);
    let registry = Registry::start(&Setup::default());
    let proxy = Proxy::start(registry.port, |r, seen| {
        match is_upload(r, "POST") && first(seen, |r| is_upload(r, "POST")) {
            true => Fault::Answer("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1"),
            false => Fault::None,
        }
    });
    let start = Instant::now();
    let (result, told) = push_sample(&sample, &format!("{}/a/b:1", proxy.host()), &plain());
    result.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(told.retries().len(), 1, "{:?}", told.retries());
}

#[test]
fn a_mount_that_is_answered_with_an_upload_is_sent() {
    let sample = Sample::new(15);
    let registry = Registry::start(&Setup::default());
    let host = registry.host();
    let (result, _) = push_sample(&sample, &format!("{host}/a/b:1"), &plain());
    result.unwrap();
    // As it should be: all but nothing is sent.
    let mount = |host: &str, repository: &str| {
        with_sink(
            &format!("{host}/{repository}:1"),
            &plain(),
            &["a/b"],
            |sink| with_work(|work| disk_image::push(&sample.disk(), 3, sink, true, work)),
        )
    };
    let (result, told) = mount(&host, "c/d");
    result.unwrap();
    assert_eq!(told.count(Uploaded::Sent), 0);
    assert_eq!(told.count(Uploaded::Mounted), 5);
    // 202 for a mount: the registry began an upload instead.
    let proxy = Proxy::start(registry.port, |r, _| match is_upload(r, "POST") {
        true => Fault::NoQuery,
        false => Fault::None,
    });
    let (result, told) = mount(&proxy.host(), "e/f");
    result.unwrap();
    assert_eq!(told.count(Uploaded::Sent), 5);
    // A mount that is forbidden is no push that is.
    let proxy = Proxy::start(registry.port, |r, _| match r.line.contains("mount=") {
        true => Fault::Answer("HTTP/1.1 403 Forbidden"),
        false => Fault::None,
    });
    let (result, told) = mount(&proxy.host(), "g/h");
    result.unwrap();
    assert_eq!(told.count(Uploaded::Sent), 5);
    for repository in ["c/d", "e/f", "g/h"] {
        let got = fetch(
            &format!("{host}/{repository}:1"),
            &["--src-tls-verify=false"],
        );
        assert!(got == sample.bytes(), "{repository}: another disk");
    }
}
