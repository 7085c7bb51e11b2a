//! Machines in the background: they are listed, held, stopped, started again
//! and removed, and their control sockets answer.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::guest::Guest;
use common::{bootwright, fails, ok, run};
use serde_json::Value;

/// A folder for machines. What runs in it is ended with it.
struct Work(tempfile::TempDir);

impl Work {
    fn new() -> Self {
        let work = Self(tempfile::tempdir().unwrap());
        fs::write(work.at("disk.raw"), vec![0; 1 << 20]).unwrap();
        fs::create_dir(work.at("run")).unwrap();
        work
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut program = bootwright(&self.at("store"));
        program
            .env("XDG_STATE_HOME", self.at("state"))
            .env("XDG_RUNTIME_DIR", self.at("run"))
            .current_dir(self.0.path())
            .args(arguments)
            .stdin(Stdio::null());
        program
    }

    /// Starts the machine `name`, which says "up" and sleeps.
    fn start(&self, accel: &str, name: &str, more: &[&str]) {
        fs::write(self.at("kernel"), Guest::new().say("up").sleep()).unwrap();
        let mut program = self.command(&["run", "disk.raw", "--kernel", "kernel", "--detach"]);
        program.args(["--memory", "64M", "--cpus", "1", "--network", "none"]);
        program.args(["--name", name, "--accel", accel]).args(more);
        assert_eq!(ok(&mut program).trim(), name);
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = ok(self.command(arguments).arg("--json"));
        serde_json::from_str(&text).unwrap()
    }

    fn status(&self, name: &str) -> String {
        let list = self.json(&["ps", "--all"]);
        let machines = list.as_array().unwrap();
        let machine = machines.iter().find(|m| m["name"] == name);
        machine
            .map_or("gone", |m| m["status"].as_str().unwrap())
            .to_owned()
    }

    /// What the control socket of a machine answers to a raw request.
    fn raw(&self, name: &str, request: &str) -> String {
        let socket = self.at("run/bootwright").join(name).join("control.sock");
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn wait_for_console(&self, name: &str, text: &str) {
        for _ in 0..600 {
            if ok(&mut self.command(&["logs", name])).contains(text) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{text:?} is not on the console of {name}");
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        for name in ["one", "two"] {
            let _ = self.command(&["rm", "--force", name]).output();
        }
    }
}

fn accels() -> Vec<&'static str> {
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => vec!["tcg", "kvm"],
        Err(_) => vec!["tcg"],
    }
}

#[test]
fn a_machine_is_held_stopped_started_again_and_removed() {
    for accel in accels() {
        let work = Work::new();
        assert_eq!(work.status("one"), "gone");
        work.start(accel, "one", &[]);
        work.wait_for_console("one", "up");
        assert_eq!(work.status("one"), "running");
        let list = work.json(&["ps"]);
        assert_eq!(list[0]["accel"], accel);
        assert_eq!(list[0]["cpus"], 1);
        assert!(list[0]["uptime_seconds"].as_f64().unwrap() > 0.0);
        let text = ok(&mut work.command(&["ps"]));
        assert!(text.contains("one") && text.contains("running"), "{text}");

        assert_eq!(work.json(&["pause", "one"])["status"], "paused");
        assert_eq!(work.json(&["resume", "one"])["status"], "running");

        let before = list[0]["pid"].as_u64().unwrap();
        let limits = fs::read_to_string(format!("/proc/{before}/limits")).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "core dumps are off");
        // The guest does not listen to its power button.
        ok(&mut work.command(&["restart", "one", "--time", "1s"]));
        let list = work.json(&["ps"]);
        assert_ne!(list[0]["pid"].as_u64().unwrap(), before);

        let refused = fails(&mut work.command(&["rm", "one"]));
        assert!(refused.contains("the machine one runs"), "{refused}");
        let stopped = work.json(&["stop", "one", "--time", "1s"]);
        assert_eq!(stopped["ended"], "killed");
        assert_eq!(work.status("one"), "stopped");
        assert_eq!(work.json(&["ps"]), Value::Array(Vec::new()));
        assert_eq!(work.json(&["rm", "one"])["removed"][0], "one");
        assert_eq!(work.status("one"), "gone");
    }
}

#[test]
fn a_machine_can_wait_before_its_first_instruction() {
    for accel in accels() {
        let work = Work::new();
        work.start(accel, "one", &["--paused"]);
        assert_eq!(work.status("one"), "paused");
        assert_eq!(ok(&mut work.command(&["logs", "one"])), "");
        ok(&mut work.command(&["resume", "one"]));
        work.wait_for_console("one", "up");
        // That was for once.
        ok(&mut work.command(&["restart", "one", "--time", "1s"]));
        assert_eq!(work.status("one"), "running");
    }
}

#[test]
fn how_a_guest_ended_that_nobody_watched_is_in_the_log() {
    for accel in accels() {
        let work = Work::new();
        fs::write(work.at("kernel"), Guest::new().say("up").panic()).unwrap();
        let mut program = work.command(&["run", "disk.raw", "--kernel", "kernel", "--detach"]);
        program.args(["--memory", "64M", "--cpus", "1", "--network", "none"]);
        ok(program.args(["--name", "one", "--accel", accel]));
        let log = || ok(&mut work.command(&["logs", "--machine", "one"]));
        let told = || log().contains("the guest's kernel panicked");
        for _ in 0..200 {
            if told() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(told(), "{accel}: {}", log());
    }
}

#[test]
fn processors_come_where_the_monitor_is_ours() {
    for accel in accels() {
        let work = Work::new();
        work.start(accel, "one", &["--max-cpus", "3"]);
        let resize = ["resize", "one", "--cpus", "2"];
        if accel == "tcg" {
            let refused = fails(&mut work.command(&resize));
            assert!(refused.contains("--accel kvm"), "{refused}");
            continue;
        }
        assert_eq!(work.json(&resize)["cpus"], 2);
        let refused = fails(&mut work.command(&["resize", "one", "--cpus", "4"]));
        assert!(refused.contains("can have 1 to 3"), "{refused}");
    }
}

#[test]
fn the_control_socket_answers_whoever_speaks_http() {
    for accel in accels() {
        let work = Work::new();
        work.start(accel, "one", &[]);
        work.wait_for_console("one", "up");
        let state = work.raw("one", "GET /v1/vm HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = state.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let state: Value = serde_json::from_str(body).unwrap();
        assert_eq!(state["name"], "one");
        assert_eq!(state["memory"], 64 << 20);
        assert!(state["stages_ms"]["prepared"].as_f64().unwrap() > 0.0);
        let metrics = work.raw("one", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        for line in [
            "# TYPE bootwright_block_reads_total counter",
            "bootwright_block_reads_total{disk=\"root\"} ",
            "bootwright_cpus 1\n",
            "bootwright_stage_seconds{stage=\"prepared\"} ",
            "bootwright_process_memory_bytes ",
        ] {
            assert!(metrics.contains(line), "{line:?} is not in {metrics}");
        }
        for (request, status) in [
            ("GET /nothing HTTP/1.1\r\n\r\n", "404"),
            ("DELETE /v1/vm HTTP/1.1\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = work.raw("one", request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
        assert_eq!(work.status("one"), "running");
    }
}

#[test]
fn who_connects_to_the_console_sees_what_was_on_it() {
    let work = Work::new();
    work.start("tcg", "one", &[]);
    work.wait_for_console("one", "up");
    let mut console = work
        .command(&["console", "one"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = console.stdout.take().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"up") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    ok(&mut work.command(&["stop", "one", "--time", "0s"]));
    assert!(console.wait().unwrap().success());
}

#[test]
fn machines_that_are_not_there_are_said_to_be_so() {
    let work = Work::new();
    for arguments in [
        &["stop", "two"][..],
        &["rm", "two"],
        &["ssh", "two"],
        &["logs", "../two"],
        &["pause", "two"],
        &["restart", "two"],
    ] {
        let said = fails(&mut work.command(arguments));
        assert!(said.contains("there is no machine"), "{said}");
    }
    let said = fails(&mut work.command(&["cp", "a", "b"]));
    assert!(said.contains("NAME:PATH"), "{said}");
}

#[test]
fn what_is_wrong_with_the_network_is_said_before_anything_runs() {
    let work = Work::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp_port = format!("127.0.0.1:{}:80", tcp.local_addr().unwrap().port());
    let udp_port = format!("127.0.0.1:{}:53/udp", udp.local_addr().unwrap().port());
    for (arguments, words) in [
        (&["-p", &tcp_port][..], "cannot be used"),
        (&["-p", &udp_port], "cannot be used"),
        (&["-p", "80"], "HOST:GUEST"),
        (&["--network", "bridge"], "tap:NAME"),
        (&["--network", "none", "-p", "18080:80"], "need a network"),
        (&["--network", "tap:nosuch0", "--ssh"], "--network user"),
        (&["--credential", "x"], "NAME=VALUE"),
        (&["--ssh-key", "missing"], "missing"),
        (&["--ssh-key", "disk.raw"], "disk.raw"),
        (&["--hostname", "a b"], "a b"),
        (&["--cloud-init", "missing"], "missing"),
        (&["--ssh", "--detach"], "cannot be used with"),
        (&["--detach", "--timeout", "5s"], "--wait"),
    ] {
        let mut program = work.command(&["run", "disk.raw", "--accel", "tcg"]);
        let output = run(program.args(arguments));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(35), "{arguments:?}: {said}");
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert_eq!(work.json(&["ps", "--all"]), Value::Array(Vec::new()));
}

#[test]
fn a_port_of_the_host_leads_to_passt() {
    let work = Work::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for accel in accels() {
        let publish = format!("127.0.0.1:{port}:80");
        work.start(accel, "one", &["--network", "user", "-p", &publish]);
        // The guest has no driver; that passt takes the connection shows that
        // it runs and has the port.
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        ok(&mut work.command(&["rm", "--force", "one"]));
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
