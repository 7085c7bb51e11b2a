//! What the tests of the sources share: images made by hand, tools, servers.

#![allow(
    missing_docs,
    missing_debug_implementations,
    dead_code,
    unreachable_pub
)]
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod image;
pub mod proxy;
pub mod registry;
pub mod tls;
pub mod token;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bootwright_image::Digest;
use bootwright_image::pull::{Image, Progress, PullError, PullOptions, load};
use bootwright_image::registry::{RegistryOptions, RetryPolicy};
use bootwright_image::store::Store;

/// Runs a tool and fails with what it said.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
    let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
    assert!(
        output.status.success(),
        "{program} {}: {}\n{}",
        shown.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// `skopeo copy` without signatures.
pub fn skopeo_copy(args: &[&str]) {
    let mut all = vec!["--insecure-policy", "copy", "--quiet"];
    all.extend(args);
    run("skopeo", &all);
}

/// Retries that do not take a test's time.
pub fn quick() -> RegistryOptions {
    RegistryOptions {
        retry: RetryPolicy {
            tries: 4,
            first_delay: Duration::from_millis(5),
            max_delay: Duration::from_millis(20),
            max_retry_after: Duration::from_secs(5),
        },
        stall_timeout: Duration::from_secs(2),
        // Nothing of the machine's own must count.
        authfile: None,
        ..RegistryOptions::default()
    }
}

/// For registries that speak plain HTTP.
pub fn plain() -> PullOptions {
    PullOptions {
        platform: Some("linux/amd64".parse().unwrap()),
        registry: RegistryOptions {
            tls_verify: false,
            ..quick()
        },
        ..PullOptions::default()
    }
}

/// Counts what it is told.
#[derive(Debug, Default)]
pub struct Told {
    pub started: Mutex<Vec<Digest>>,
    pub present: Mutex<Vec<Digest>>,
    pub finished: AtomicUsize,
    pub bytes: AtomicUsize,
    pub retries: Mutex<Vec<String>>,
}

impl Progress for Told {
    fn started(&self, layer: &Digest, _size: u64) {
        self.started.lock().unwrap().push(layer.clone());
    }
    fn advanced(&self, _layer: &Digest, bytes: u64) {
        self.bytes.fetch_add(bytes as usize, Ordering::Relaxed);
    }
    fn finished(&self, _layer: &Digest) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
    fn already_present(&self, layer: &Digest, _size: u64) {
        self.present.lock().unwrap().push(layer.clone());
    }
    fn retrying(&self, message: &str) {
        self.retries.lock().unwrap().push(message.to_owned());
    }
}

/// Loads an image into a store of its own.
pub fn load_fresh(reference: &str, options: &PullOptions) -> Result<(Image, Told), PullError> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&dir.path().join("store"))).unwrap();
    let told = Told::default();
    let image = load(&reference.parse().unwrap(), options, &store, &told)?;
    Ok((image, told))
}

/// The error of loading an image, in words.
pub fn load_error(reference: &str, options: &PullOptions) -> String {
    match load_fresh(reference, options) {
        Ok(_) => panic!("{reference} should not load"),
        Err(error) => error.to_string(),
    }
}

/// A text of a path that is known to be UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
