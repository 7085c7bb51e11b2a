//! A registry that refuses, fails or says nothing gives one clear error,
//! status 1 (130 after a signal), and no file.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::answers::{Answer, serve};
use common::{bootwright, command, fails, ok};
use tempfile::TempDir;

/// A build from the registry at `host`, with two tries, in a folder of its own.
fn build(work: &TempDir, host: &str) -> Command {
    fs::create_dir_all(work.path().join("out")).unwrap();
    let mut program = bootwright(&work.path().join("store"));
    program
        .args(["build", &format!("{host}/acme/web:v1"), "--retries", "1"])
        .arg("-o")
        .arg(work.path().join("out/disk.raw"))
        // Nothing of the machine's own may count.
        .env("HOME", work.path())
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("DOCKER_CONFIG")
        .env_remove("REGISTRY_AUTH_FILE");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        program.env_remove(name).env_remove(name.to_lowercase());
    }
    program
}

fn nothing_left(work: &TempDir) {
    for dir in ["out", "store/tmp", "store/layers", "store/blobs"] {
        let files = ok(command(&["find"])
            .arg(work.path().join(dir))
            .args(["-type", "f"]));
        assert_eq!(files, "", "left behind");
    }
}

#[test]
fn every_refusal_is_told_with_what_to_do() {
    let nowhere =
        "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/t\",service=\"s\"";
    for (head, words) in [
        (
            "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"",
            &["denied", "podman login", "--creds", "auth.json"][..],
        ),
        ("401 Unauthorized", &["cannot log in", "no challenge"]),
        // It is not the registry itself that nobody answers for.
        (nowhere, &["cannot reach", "127.0.0.1:1, where it sends us"]),
        ("403 Forbidden", &["denied", "podman login"]),
        ("400 Bad Request", &["400 Bad Request"]),
        ("404 Not Found", &["not found", "repository, tag"]),
        (
            "429 Too Many Requests",
            &["(429)", "2 tries", "try again later"],
        ),
        (
            "500 Internal Server Error",
            &["500 Internal Server Error", "2 tries"],
        ),
        ("503 Service Unavailable", &["503 Service", "2 tries"]),
        ("200 OK", &["manifest", "no valid manifest"]),
    ] {
        let work = tempfile::tempdir().unwrap();
        let host = serve(Answer::Head(head));
        let said = fails(build(&work, &host).arg("--tls-verify=false"));
        for word in words {
            assert!(said.contains(word), "{head}: {word:?} is not in: {said}");
        }
        assert!(!said.contains("--tls-verify"), "it was given: {said}");
        let errors = said.lines().filter(|l| l.starts_with("bootwright: "));
        assert_eq!(errors.count(), 1, "one error: {said}");
        nothing_left(&work);
    }
}

#[test]
fn a_registry_that_cannot_be_reached_is_named() {
    for (host, words) in [
        (
            "127.0.0.1:1",
            &["cannot reach", "127.0.0.1:1", "refused"][..],
        ),
        ("nohost.invalid", &["cannot reach", "nohost.invalid"]),
    ] {
        let work = tempfile::tempdir().unwrap();
        let said = fails(&mut build(&work, host));
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        nothing_left(&work);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_silent_registry() {
    for signal in ["-INT", "-TERM"] {
        let work = tempfile::tempdir().unwrap();
        let host = serve(Answer::Silence);
        let mut child = build(&work, &host)
            .arg("--tls-verify=false")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        assert!(child.try_wait().unwrap().is_none(), "it waits");
        let start = Instant::now();
        ok(command(&["kill", signal]).arg(child.id().to_string()));
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        assert!(start.elapsed() < Duration::from_secs(10));
        nothing_left(&work);
    }
}
