//! `bootwright serve`: the disk that `build` writes, without writing it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use common::images::base;
use common::layout::{Compression, Layout};
use common::{bootwright, command, fails, ok};
use serde_json::Value;

/// A server that says that it is ready; ended when this is dropped.
struct Server {
    child: Child,
    report: Value,
}

impl Server {
    fn start(store: &Path, target: &str, socket: &Path, more: &[&str]) -> Self {
        let mut child = bootwright(store)
            .args(["serve", target, "--json", "--nbd"])
            .arg(socket)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
        let report = serde_json::from_str(&text).unwrap();
        Self { child, report }
    }

    fn uri(&self) -> &str {
        self.report["uri"].as_str().unwrap()
    }

    /// Sends a signal and gives the exit status.
    fn stop(&mut self, signal: &str) -> Option<i32> {
        ok(command(&["kill", signal]).arg(self.child.id().to_string()));
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const OPTIONS: [&str; 4] = ["--boot", "none", "--free", "16M"];

struct Work {
    dir: tempfile::TempDir,
    reference: String,
}

impl Work {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout =
            Layout::new(&dir.path().join("image")).layer(&base().finish(), Compression::Gzip);
        layout.tag("v1");
        let reference = format!("oci:{}:v1", layout.dir.display());
        Self { dir, reference }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        ok(bootwright(&self.at("store"))
            .args(["build", &self.reference, "-o"])
            .arg(&path)
            .args(OPTIONS));
        path
    }
}

#[test]
fn an_image_and_a_disk_file_are_served_as_the_disk_that_build_writes() {
    let work = Work::new();
    let raw = work.build("disk.raw");
    let qcow2 = work.build("disk.qcow2");
    // A name that a URI has to escape.
    let socket = work.at("a socket?");
    for (target, more) in [
        (work.reference.as_str(), &OPTIONS[..]),
        (qcow2.to_str().unwrap(), &[]),
    ] {
        let mut server = Server::start(&work.at("store"), target, &socket, more);
        let mode = fs::symlink_metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        if target == work.reference {
            // The kernel is there, for who starts it without firmware.
            let boot = &server.report["boot"];
            assert_eq!(boot["kernelVersion"], "6.1.0-test");
            let part = &boot["kernel"]["parts"][0];
            let at = part["diskOffset"].as_u64().unwrap() as usize;
            let bytes = fs::read(&raw).unwrap();
            assert!(bytes[at..at + 70_000].iter().all(|&b| b == 0x5a));
        }
        let size = server.report["size"].as_u64();
        assert_eq!(size, Some(raw.metadata().unwrap().len()));
        let compare = &["qemu-img", "compare", "-f", "raw", "-F", "raw"];
        ok(command(compare).arg(server.uri()).arg(&raw));
        // Several connections at once, one of which stays.
        let idle = UnixStream::connect(&socket).unwrap();
        let copy = work.at("copy.raw");
        ok(command(&["nbdcopy", "--connections=4", server.uri()]).arg(&copy));
        ok(command(&["cmp"]).arg(&copy).arg(&raw));
        assert_eq!(server.stop("-TERM"), Some(0), "with a client connected");
        drop(idle);
        assert!(!socket.exists(), "the socket is gone");
        fs::remove_file(copy).unwrap();
    }
}

#[test]
fn a_socket_is_taken_over_from_the_dead_only() {
    let work = Work::new();
    let socket = work.at("nbd");
    let store = work.at("store");
    let serve = |path: &Path| {
        let mut program = bootwright(&store);
        program.args(["serve", &work.reference, "--nbd"]);
        program.arg(path).args(OPTIONS);
        program
    };
    // A server that was killed leaves its socket.
    drop(UnixListener::bind(&socket).unwrap());
    let mut server = Server::start(&store, &work.reference, &socket, &OPTIONS);
    let said = fails(&mut serve(&socket));
    assert!(said.contains("a server that is running"), "{said}");
    assert_eq!(server.stop("-INT"), Some(0));

    let file = work.at("file");
    fs::write(&file, "precious").unwrap();
    let said = fails(&mut serve(&file));
    assert!(said.contains("exists and is no socket"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    let said = fails(&mut serve(&work.at("no/such/folder")));
    assert!(said.contains("cannot listen"), "{said}");
    // The image cannot be had: the socket goes again.
    let mut program = bootwright(&store);
    program.args(["serve", "oci:/nonexistent:v1", "--nbd"]);
    fails(program.arg(&socket));
    assert!(!socket.exists());
}
