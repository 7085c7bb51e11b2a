//! Harm between client and registry: nothing wrong is accepted, and what can
//! be got is got.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bootwright_image::pull::PullOptions;
use common::image::{Layout, layers};
use common::proxy::{Fault, Proxy, Request};
use common::registry::{Registry, Setup};
use common::{load_error, load_fresh, plain, skopeo_copy, text};

/// One registry with the test image for the tests of one after another.
fn registry() -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    layout.tag("v1", layout.image("linux/amd64", &layers(1)));
    let registry = Registry::start(&Setup::default());
    let to = format!("docker://{}/image:v1", registry.host());
    skopeo_copy(&[
        "--dest-tls-verify=false",
        &format!("oci:{}:v1", text(dir.path())),
        &to,
    ]);
    registry
}

/// The digest of the big layer's blob, the first in the manifest.
fn big(registry: &Registry) -> String {
    static DIGEST: OnceLock<String> = OnceLock::new();
    let digest = DIGEST.get_or_init(|| {
        let image = format!("{}/image:v1", registry.host());
        load_fresh(&image, &plain()).unwrap().0.layers[0]
            .digest
            .to_string()
    });
    digest.clone()
}

/// Requests before this one for the same thing.
fn earlier(request: &Request, seen: &[Request]) -> usize {
    seen.iter().filter(|r| r.line == request.line).count()
}

#[test]
fn a_blob_that_breaks_off_is_resumed_by_range() {
    let registry = registry();
    let digest = big(&registry);
    let proxy = Proxy::start(registry.port, move |request, seen| {
        match request.line.contains(&digest) {
            // Over and over, so that it takes more tries than are allowed
            // without progress.
            true if earlier(request, seen) < 10 => Fault::Cut(300_000),
            _ => Fault::None,
        }
    });
    let mut options = plain();
    options.registry.retry.tries = 8;
    let (image, told) = load_fresh(&format!("{}/image:v1", proxy.host()), &options).unwrap();
    let line = image.layers[0].digest.to_string();
    let ranges: Vec<_> = proxy
        .seen()
        .iter()
        .filter(|r| r.line.contains(&line))
        .map(|r| r.header("range").unwrap_or("").to_owned())
        .collect();
    assert_eq!(ranges.len(), 11, "{ranges:?}");
    assert_eq!(ranges[0], "");
    // Each asks for more than the one before.
    let starts: Vec<u64> = ranges[1..]
        .iter()
        .map(|r| {
            r.trim_start_matches("bytes=")
                .trim_end_matches('-')
                .parse()
                .unwrap()
        })
        .collect();
    assert!(starts.windows(2).all(|w| w[0] < w[1]), "{starts:?}");
    assert_eq!(told.retries.lock().unwrap().len(), 10);
    assert!(told.retries.lock().unwrap()[0].contains("trying again in"));
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let registry = registry();
    let digest = big(&registry);
    let proxy = Proxy::start(registry.port, move |request, seen| {
        match (request.line.contains(&digest), earlier(request, seen)) {
            (true, 0) => Fault::Cut(1_000_000),
            (true, 1) => Fault::IgnoreRangeAndCut(2_000_000),
            (true, _) => Fault::IgnoreRange,
            _ => Fault::None,
        }
    });
    load_fresh(&format!("{}/image:v1", proxy.host()), &plain()).unwrap();
}

#[test]
fn what_passes_is_tried_again() {
    let registry = registry();
    for fault in [
        Fault::Refuse,
        Fault::Answer("HTTP/1.1 500 Internal Server Error"),
        Fault::Answer("HTTP/1.1 502 Bad Gateway"),
        Fault::Answer("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0"),
        Fault::Answer("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0"),
        Fault::Cut(100),
        Fault::Slow(Duration::from_millis(20)),
    ] {
        let shown = format!("{fault:?}");
        // The probe for plain HTTP is the first request.
        let proxy = Proxy::start(registry.port, move |request, seen| {
            match request.line.contains("/v2/image/") && earlier(request, seen) < 2 {
                true => fault.clone(),
                false => Fault::None,
            }
        });
        load_fresh(&format!("{}/image:v1", proxy.host()), &plain())
            .unwrap_or_else(|e| panic!("{shown}: {e}"));
    }
}

#[test]
fn retry_after_is_waited_for() {
    let registry = registry();
    let proxy = Proxy::start(registry.port, |request, seen| {
        match request.line.contains("/manifests/") && earlier(request, seen) == 0 {
            true => Fault::Answer("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1"),
            false => Fault::None,
        }
    });
    let begin = Instant::now();
    let (_, told) = load_fresh(&format!("{}/image:v1", proxy.host()), &plain()).unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let retries = told.retries.lock().unwrap();
    assert!(
        retries.len() == 1 && retries[0].ends_with("requests (429); trying again in 1.0 s"),
        "{retries:?}"
    );
}

#[test]
fn what_does_not_pass_ends_with_one_clear_error() {
    let registry = registry();
    for (fault, blobs_only, part) in [
        (
            Fault::Answer("HTTP/1.1 429 Too Many Requests"),
            false,
            "(429) (4 tries); try again later",
        ),
        (
            Fault::Answer("HTTP/1.1 503 Service Unavailable"),
            false,
            "503 Service Unavailable (4 tries)",
        ),
        (
            Fault::Answer("HTTP/1.1 418 I'm a teapot"),
            false,
            "answered 418",
        ),
        (Fault::Answer("HTTP/1.1 403 Forbidden"), false, "denied"),
        (Fault::Answer("HTTP/1.1 404 Not Found"), true, "not found"),
        (
            Fault::Answer("HTTP/1.1 401 Unauthorized"),
            false,
            "no challenge that is known",
        ),
        (Fault::Refuse, true, "cannot reach"),
        (Fault::Cut(50), true, "broke off after"),
        (Fault::Flip(60), true, "corrupt"),
        (Fault::Flip(60), false, "corrupt"),
        (Fault::Longer(1), true, "the descriptor says"),
        (Fault::Shorter(1), true, "the descriptor says"),
        (Fault::Stall(50), true, "nothing came for 1 s"),
        (
            Fault::Answer("HTTP/1.1 307 Temporary Redirect\r\nLocation: /v2/image/loop"),
            true,
            "not found",
        ),
    ] {
        let shown = format!("{fault:?} {blobs_only}");
        let proxy = Proxy::start(registry.port, move |request, _| {
            let matching = match blobs_only {
                true => request.is_blob() && !request.line.contains("loop"),
                false => request.line.contains("/manifests/"),
            };
            match matching {
                true => fault.clone(),
                false => Fault::None,
            }
        });
        let mut options: PullOptions = plain();
        options.registry.stall_timeout = Duration::from_secs(1);
        let error = load_error(&format!("{}/image:v1", proxy.host()), &options);
        assert!(error.contains(part), "{shown}: {error}");
    }
}

#[test]
fn a_redirect_is_followed_without_the_log_in() {
    let registry = registry();
    let storage = Proxy::start(registry.port, |_, _| Fault::None);
    let location = format!("http://localhost:{}", storage.port);
    let front = Proxy::start(registry.port, move |request, _| {
        if request.is_blob() {
            let path = request.line.split(' ').nth(1).unwrap();
            let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}{path}");
            return Fault::Answer(head.leak());
        }
        match request.header("authorization") {
            Some(_) => Fault::None,
            None => {
                Fault::Answer("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"")
            }
        }
    });
    let mut options = plain();
    options.registry.credentials = Some(bootwright_image::registry::Credentials::parse(
        "user:secret",
    ));
    load_fresh(&format!("{}/image:v1", front.host()), &options).unwrap();
    assert!(
        front
            .seen()
            .iter()
            .any(|r| r.header("authorization").is_some())
    );
    assert!(storage.blobs() >= 3);
    assert!(
        storage
            .seen()
            .iter()
            .all(|r| r.header("authorization").is_none())
    );
}

#[test]
fn a_failed_layer_stops_the_others_at_once() {
    let registry = registry();
    let digest = big(&registry);
    let proxy = Proxy::start(registry.port, move |request, _| {
        match (request.is_blob(), request.line.contains(&digest)) {
            (true, true) => Fault::Stall(50),
            (true, false) => Fault::Flip(60),
            _ => Fault::None,
        }
    });
    let mut options = plain();
    options.registry.stall_timeout = Duration::from_secs(60);
    let begin = Instant::now();
    let error = load_error(&format!("{}/image:v1", proxy.host()), &options);
    assert!(error.contains("corrupt"), "{error}");
    assert!(
        begin.elapsed() < Duration::from_secs(9),
        "{:?}",
        begin.elapsed()
    );
}
