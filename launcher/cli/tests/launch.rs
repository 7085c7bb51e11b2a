//! `bootwright launch`: the machine of a pod runs, its end is told, and what
//! cannot run says why in one line.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../../builder/image/tests/common/mod.rs"]
mod image_tests;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::guest::Guest;
use common::layout::{Compression, Layout};
use common::tarball::Tarball;
use common::{bootwright, command, ok, run};
use image_tests::registry::{Registry, Setup};
use image_tests::skopeo_copy;
use serde_json::{Value, json};

/// A pod: folders as its machine names them.
struct Pod(tempfile::TempDir);

impl Pod {
    fn new() -> Self {
        let pod = Self(tempfile::tempdir().unwrap());
        for folder in [
            "scratch",
            "scratch/run",
            "kernel/boot",
            "disk/disk",
            "empty",
        ] {
            fs::create_dir_all(pod.at(folder)).unwrap();
        }
        fs::write(pod.at("disk/disk/disk.img"), vec![0; 1 << 20]).unwrap();
        fs::write(pod.at("termination-log"), "").unwrap();
        pod
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    /// A machine of this pod that boots `guest`.
    fn machine(&self, guest: Vec<u8>, emulated: bool) -> Value {
        fs::write(self.at("kernel/boot/vmlinuz"), guest).unwrap();
        json!({
            "name": "web",
            "uuid": "4b8f6a52-91d2-4c67-a7d5-0d4d4f8c2b11",
            "emulated": emulated,
            "cpus": { "sockets": 1, "cores": 1, "threads": 1, "maxSockets": 1 },
            "memory": { "bytes": 64 << 20, "maxBytes": 64 << 20, "pageBytes": 0 },
            "kernel": { "folder": self.path("kernel"), "path": "/boot/vmlinuz", "commandLine": "x" },
            "disks": [{
                "name": "root",
                "readOnly": false,
                "source": { "containerDisk": { "folder": self.path("disk") } },
            }],
            "devices": { "console": true, "logConsole": true, "balloon": true, "vsock": true,
                         "diskQueues": false, "interfaceQueues": false },
            "graceSeconds": 30,
            "paused": false,
            "endsOnReboot": true,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bootwright(&self.at("store"));
        command
            .args(arguments)
            .env_remove("XDG_STATE_HOME")
            .env("HOME", self.at("scratch"))
            .env("XDG_RUNTIME_DIR", self.at("scratch/run"))
            .stdin(Stdio::null());
        command
    }

    fn launch(&self, machine: &Value) -> Command {
        let file = self.at("machine.json");
        fs::write(&file, serde_json::to_vec(machine).unwrap()).unwrap();
        let (file, log) = (self.path("machine.json"), self.path("termination-log"));
        self.command(&["launch", &file, "--termination-log", &log])
    }

    fn word(&self) -> String {
        fs::read_to_string(self.at("termination-log")).unwrap()
    }

    fn fails_with(&self, machine: &Value, words: &[&str]) {
        fs::write(self.at("termination-log"), "").unwrap();
        let output = run(&mut self.launch(machine));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(35), "{said}");
        assert_eq!(said.matches("bootwright: ").count(), 1, "one error: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
            assert!(
                self.word().contains(word),
                "{word:?} is not in the pod's status"
            );
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// QEMU, and our own monitor where there is a KVM that takes such guests.
fn emulated() -> Vec<bool> {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    match kvm {
        Ok(_) => vec![true, false],
        Err(_) => vec![true],
    }
}

/// A launcher that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    fn until_it_says(&mut self, word: &str) {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        for line in lines {
            if line.unwrap().contains(word) {
                return;
            }
        }
        panic!("{word:?} was not said");
    }

    fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    fn status(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_console_is_the_log_and_the_end_is_in_the_status() {
    let say = || Guest::new().say("hello, log\n");
    for emulated in emulated() {
        for (guest, status, word) in [
            (say().power_off(), 0, ""),
            (say().reset(), 32, "the guest asked for a reset"),
            (say().panic(), 34, "the guest's kernel panicked"),
        ] {
            let pod = Pod::new();
            let output = run(&mut pod.launch(&pod.machine(guest, emulated)));
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(status), "{emulated}: {said}");
            let log = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(log.contains("hello, log"), "{emulated}: {log}");
            assert_eq!(pod.word(), word, "{emulated}");
        }
    }
}

#[test]
fn a_kernel_runs_without_any_disk() {
    for emulated in emulated() {
        let pod = Pod::new();
        let mut machine = pod.machine(Guest::new().say("no disk\n").power_off(), emulated);
        machine["disks"] = json!([]);
        let output = run(&mut pod.launch(&machine));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{emulated}: {said}");
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(log.contains("no disk"), "{emulated}: {log}");
    }
}

#[test]
fn a_console_that_is_not_to_be_logged_is_not() {
    let pod = Pod::new();
    let mut machine = pod.machine(Guest::new().say("hello, log\n").power_off(), true);
    machine["devices"]["logConsole"] = json!(false);
    let output = run(&mut pod.launch(&machine));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(output.stdout, b"");
}

/// The process called `name`, or so with an ending, that `ancestor` or one of
/// its children has started.
fn descendant(ancestor: u32, name: &str) -> Option<rustix::process::Pid> {
    let mut family = vec![ancestor];
    let mut found = None;
    // A child's number need not be greater than its parent's.
    for _ in 0..8 {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            // proc_pid_stat(5): number, (name), state, parent.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let Some((start, rest)) = stat.rsplit_once(") ") else {
                continue;
            };
            let (id, comm) = start.split_once(" (").unwrap();
            let (id, parent) = (id.parse().unwrap(), rest.split(' ').nth(1).unwrap());
            if family.contains(&parent.parse().unwrap()) && !family.contains(&id) {
                family.push(id);
                if comm.starts_with(name) {
                    found = rustix::process::Pid::from_raw(id.try_into().unwrap());
                }
            }
        }
    }
    found
}

#[test]
fn a_guest_whose_network_dies_is_turned_off_and_the_pod_says_why() {
    for emulated in emulated() {
        let pod = Pod::new();
        let mut machine = pod.machine(Guest::new().say("up\n").sleep(), emulated);
        machine["interface"] =
            json!({ "name": "default", "mac": "02:00:00:00:00:01", "tcp": [], "udp": [] });
        machine["graceSeconds"] = json!(1);
        let mut running = Running::start(&mut pod.launch(&machine));
        running.until_it_says("up");
        let passt = descendant(running.0.id(), "passt").unwrap();
        rustix::process::kill_process(passt, rustix::process::Signal::KILL).unwrap();
        assert_eq!(running.status(), Some(33), "{emulated}");
        let word = pod.word();
        assert!(
            word.contains("passt has ended") && word.contains("signal: 9"),
            "{emulated}: {word}"
        );
    }
}

#[test]
fn a_guest_that_does_not_hear_the_power_button_is_ended_when_its_time_is_up() {
    for emulated in emulated() {
        let pod = Pod::new();
        let mut machine = pod.machine(Guest::new().say("up\n").sleep(), emulated);
        machine["graceSeconds"] = json!(1);
        let mut running = Running::start(&mut pod.launch(&machine));
        running.until_it_says("up");
        let since = Instant::now();
        // However often it is asked.
        for _ in 0..3 {
            running.terminate();
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(running.status(), Some(36), "{emulated}");
        assert!(since.elapsed() >= Duration::from_secs(1));
        assert!(pod.word().contains("within 1 s"), "{}", pod.word());
    }
}

#[test]
fn the_commands_of_local_machines_work_in_the_pod() {
    let pod = Pod::new();
    let machine = pod.machine(Guest::new().say("up\n").sleep(), true);
    let mut running = Running::start(&mut pod.launch(&machine));
    running.until_it_says("up");
    let list = run(&mut pod.command(&["ps", "--json"]));
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["name"], "vm");
    // It has not said that it has booted, and never will.
    let probe = run(&mut pod.command(&["probe"]));
    assert_eq!(probe.status.code(), Some(1), "{}", stderr(&probe));
    assert!(
        stderr(&probe).contains("has not said"),
        "{}",
        stderr(&probe)
    );
    let stop = run(&mut pod.command(&["stop", "vm", "--time", "0s"]));
    assert!(stop.status.success(), "{}", stderr(&stop));
    // Whoever ends it by hand has wanted that.
    assert_eq!(running.status(), Some(0));
}

/// What the pod's port for metrics answers.
fn scrape(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn prometheus_finds_the_numbers_of_guest_and_pod() {
    for emulated in emulated() {
        let pod = Pod::new();
        let mut machine = pod.machine(Guest::new().say("up\n").sleep(), emulated);
        let port = free_port();
        machine["metricsPort"] = json!(port);
        let mut running = Running::start(&mut pod.launch(&machine));
        running.until_it_says("up");
        let answer = scrape(port, "/metrics");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let value = |name: &str| -> f64 {
            let line = answer.lines().find_map(|line| line.strip_prefix(name));
            let line = line.unwrap_or_else(|| panic!("there is no {name}: {answer}"));
            line.trim().parse().unwrap()
        };
        assert_eq!(value("bootwright_cpus "), 1.0);
        assert_eq!(value("bootwright_memory_bytes "), f64::from(64 << 20));
        let own = value("bootwright_launcher_memory_overhead_bytes ");
        // Of three processes and QEMU at most; the guest's 64 MiB are not in it.
        assert!((1e5..400e6).contains(&own), "{own}");
        let modes = ["guest", "system", "user"];
        let spent: f64 = modes
            .map(|mode| {
                value(&format!(
                    "bootwright_cpu_usage_seconds_total{{mode=\"{mode}\"}} "
                ))
            })
            .iter()
            .sum();
        assert!(spent < 600.0, "{spent}");
        assert!(scrape(port, "/v1/vm/kill").starts_with("HTTP/1.1 404 "));
        drop(running);
    }
}

#[test]
fn a_machine_runs_though_its_port_for_metrics_is_taken() {
    let pod = Pod::new();
    let mut machine = pod.machine(Guest::new().power_off(), true);
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    machine["metricsPort"] = json!(taken.local_addr().unwrap().port());
    let output = run(&mut pod.launch(&machine));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("there are no metrics at port"), "{said}");
}

#[test]
fn without_a_balloon_nothing_is_taken_from_the_guest() {
    for emulated in emulated() {
        for (pluggable, words) in [(0, "stays as it is"), (256 << 20, "no balloon")] {
            let pod = Pod::new();
            let mut machine = pod.machine(Guest::new().say("up\n").sleep(), emulated);
            machine["devices"]["balloon"] = json!(false);
            machine["memory"]["maxBytes"] = json!((64 << 20) + pluggable);
            let mut running = Running::start(&mut pod.launch(&machine));
            running.until_it_says("up");
            let resize = run(&mut pod.command(&["resize", "vm", "--memory", "32M"]));
            assert!(!resize.status.success());
            assert!(stderr(&resize).contains(words), "{}", stderr(&resize));
        }
    }
}

#[test]
fn a_machine_that_is_to_wait_runs_when_it_is_resumed() {
    for emulated in emulated() {
        let pod = Pod::new();
        let mut machine = pod.machine(Guest::new().say("up\n").power_off(), emulated);
        machine["paused"] = json!(true);
        let running = Running::start(&mut pod.launch(&machine));
        let since = Instant::now();
        let status = || {
            let list = run(&mut pod.command(&["ps", "--all", "--json"]));
            let list: Value = serde_json::from_slice(&list.stdout).unwrap_or_default();
            list[0]["status"].as_str().unwrap_or_default().to_owned()
        };
        while status() != "paused" {
            assert!(since.elapsed() < Duration::from_secs(60), "{}", status());
            std::thread::sleep(Duration::from_millis(100));
        }
        let resumed = run(&mut pod.command(&["resume", "vm"]));
        assert!(resumed.status.success(), "{}", stderr(&resumed));
        assert_eq!(running.status(), Some(0), "{emulated}");
    }
}

#[test]
fn a_guest_stands_still_while_the_pods_annotation_says_so() {
    for emulated in emulated() {
        let pod = Pod::new();
        let machine = pod.machine(Guest::new().say("up\n").sleep(), emulated);
        // As the kubelet writes it where there is no such annotation.
        fs::write(pod.at("paused"), "").unwrap();
        let mut running = Running::start(&mut pod.launch(&machine));
        running.until_it_says("up");
        let is = |expected: &str| {
            let since = Instant::now();
            loop {
                let list = run(&mut pod.command(&["ps", "--all", "--json"]));
                let list: Value = serde_json::from_slice(&list.stdout).unwrap_or_default();
                if list[0]["status"] == expected {
                    return;
                }
                assert!(since.elapsed() < Duration::from_secs(60), "{list}");
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        is("running");
        fs::write(pod.at("paused"), "true").unwrap();
        is("paused");
        fs::write(pod.at("paused"), "false").unwrap();
        is("running");
    }
}

#[test]
fn a_guest_gets_another_size_when_the_pods_annotation_says_so() {
    for emulated in emulated() {
        let pod = Pod::new();
        let guest = Guest::new().say("up\n").sleep();
        let mut machine = pod.machine(guest, emulated);
        machine["cpus"]["maxSockets"] = json!(2);
        machine["memory"]["maxBytes"] = json!(512 << 20);
        let said = pod.at("said");
        let mut command = pod.launch(&machine);
        command.stderr(fs::File::create(&said).unwrap());
        let mut running = Running::start(&mut command);
        running.until_it_says("up");
        let until = |words: &str| {
            let since = Instant::now();
            loop {
                let text = fs::read_to_string(&said).unwrap();
                if text.contains(words) {
                    return;
                }
                assert!(since.elapsed() < Duration::from_secs(60), "{text}");
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        // An emulated machine keeps its processors, but not its memory.
        machine["cpus"]["sockets"] = json!(if emulated { 1 } else { 2 });
        machine["memory"]["bytes"] = json!(192 << 20);
        fs::write(pod.at("machine.new"), machine.to_string()).unwrap();
        fs::rename(pod.at("machine.new"), pod.at("machine.json")).unwrap();
        // What the guest makes of it is another matter: this one knows nothing.
        until("the machine is to have");
        let list = run(&mut pod.command(&["ps", "--json"]));
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        assert_eq!(list[0]["cpus"], machine["cpus"]["sockets"], "{list}");
        // What it cannot have it is not given, and goes on.
        machine["memory"]["bytes"] = json!(1 << 30);
        machine["memory"]["maxBytes"] = json!(1 << 30);
        fs::write(pod.at("machine.new"), machine.to_string()).unwrap();
        fs::rename(pod.at("machine.new"), pod.at("machine.json")).unwrap();
        until("the machine keeps its size");
    }
}

#[test]
fn the_console_is_reached_through_the_pod_and_nobody_is_left_connected() {
    for emulated in emulated() {
        let pod = Pod::new();
        let guest = Guest::new().say("up\n").echo().say("!").echo().sleep();
        let mut running = Running::start(&mut pod.launch(&pod.machine(guest, emulated)));
        running.until_it_says("up");
        let mut proxy = pod.command(&["console-proxy", "vm"]);
        proxy.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut proxy = proxy.spawn().unwrap();
        let mut keys = proxy.stdin.take().unwrap();
        let mut shown = proxy.stdout.take().unwrap();
        keys.write_all(b"k").unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"k!") {
            let mut byte = [0];
            shown.read_exact(&mut byte).unwrap();
            text.extend(byte);
        }
        assert!(text.starts_with(b"up\n"), "{text:?}");
        // As when the connection into the pod breaks.
        drop(keys);
        let since = Instant::now();
        while proxy.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < Duration::from_secs(10), "it goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        // The guest goes on, and its ports are not its pod's.
        let output = run(&mut pod.command(&["ssh-proxy", "vm", "--port", "2222"]));
        let said = stderr(&output);
        assert!(
            said.contains("port 2222 of the guest is not among"),
            "{said}"
        );
    }
}

#[test]
fn every_kind_of_disk_is_taken() {
    let pod = Pod::new();
    fs::create_dir_all(pod.at("config")).unwrap();
    fs::write(pod.at("config/app.conf"), "a = 1\n").unwrap();
    fs::create_dir_all(pod.at("claim")).unwrap();
    let guest = Guest::new().say("up\n").power_off();
    for emulated in emulated() {
        let mut machine = pod.machine(guest.clone(), emulated);
        let disks = [
            (
                "claim",
                false,
                json!({ "device": { "path": pod.path("claim/disk.img"), "ephemeral": false } }),
            ),
            ("scratch", false, json!({ "empty": { "bytes": 1 << 30 } })),
            (
                "config",
                true,
                json!({ "files": { "folder": pod.path("config"), "label": "cfg" } }),
            ),
            (
                "init",
                true,
                json!({ "cloudInit": { "kind": "noCloud",
                "userData": { "text": "#cloud-config\n" } } }),
            ),
            (
                "drive",
                true,
                json!({ "cloudInit": { "kind": "configDrive" } }),
            ),
        ];
        for (name, read_only, source) in disks {
            let disk = json!({ "name": name, "readOnly": read_only, "source": source });
            machine["disks"].as_array_mut().unwrap().push(disk);
        }
        let output = run(&mut pod.launch(&machine));
        assert_eq!(
            output.status.code(),
            Some(0),
            "{emulated}: {}",
            stderr(&output)
        );
    }
    // The claim had no disk: one was made, as large as there is room for.
    assert!(fs::metadata(pod.at("claim/disk.img")).unwrap().len() > 0);
}

#[test]
fn what_cannot_run_says_why_once() {
    let pod = Pod::new();
    let guest = || Guest::new().power_off();
    let with = |pointer: &str, value: Value| {
        let mut machine = pod.machine(guest(), true);
        *machine.pointer_mut(pointer).unwrap() = value;
        machine
    };
    let source = "/disks/0/source";
    let folder = |name: &str| pod.path(name);
    pod.fails_with(&json!({}), &["missing field `name`"]);
    pod.fails_with(&json!([1]), &["no machine that this launcher can start"]);
    pod.fails_with(&with("/cpus/cores", json!(65)), &["cpus", "at most 64"]);
    pod.fails_with(&with("/memory/bytes", json!(1 << 20)), &["too little"]);
    for kind in ["root", "containerDisk"] {
        let empty = with(source, json!({ kind: { "folder": folder("empty") } }));
        pod.fails_with(
            &empty,
            &[
                "volume root: ",
                "/empty",
                "has mounted no image",
                "containerd 2.1",
            ],
        );
        let gone = with(source, json!({ kind: { "folder": folder("gone") } }));
        pod.fails_with(&gone, &["volume root: ", "/gone"]);
    }
    let two = with(
        source,
        json!({ "containerDisk": { "folder": folder("kernel") } }),
    );
    pod.fails_with(&two, &["volume root: ", "folder /disk"]);
    let rootless = with(source, json!({ "root": { "folder": folder("disk") } }));
    pod.fails_with(&rootless, &["volume root: "]);
    let no_disk = json!({ "device": { "path": folder("gone.img"), "ephemeral": false } });
    pod.fails_with(&with(source, no_disk), &["gone.img", "holds no disk yet"]);
    let not_a_disk = json!({ "device": { "path": "/dev/null", "ephemeral": false } });
    pod.fails_with(&with(source, not_a_disk), &["/dev/null is no disk"]);
    let no_secret = json!({ "cloudInit": { "kind": "noCloud",
        "userData": { "file": folder("gone/userdata") } } });
    pod.fails_with(
        &with(source, no_secret),
        &["the user data", "gone/userdata"],
    );
    let bad_base64 = json!({ "cloudInit": { "kind": "noCloud", "userData": { "base64": "%" } } });
    pod.fails_with(
        &with(source, bad_base64),
        &["the user data: it is no base64"],
    );
    pod.fails_with(
        &with("/kernel/path", json!("boot/gone")),
        &["the kernel", "boot/gone"],
    );
    fs::write(pod.at("kernel/text"), "no kernel").unwrap();
    pod.fails_with(
        &with("/kernel/path", json!("text")),
        &["no kernel for x86-64"],
    );
    let output = run(&mut pod.command(&["launch", "/nonexistent"]));
    assert_eq!(output.status.code(), Some(35));
    assert!(stderr(&output).contains("there is no machine in /nonexistent"));
    let output = run(&mut pod.command(&["launch", "--nonsense"]));
    assert_eq!(output.status.code(), Some(35), "{}", stderr(&output));
}

#[test]
fn a_container_that_is_started_again_begins_afresh() {
    let pod = Pod::new();
    let machine = pod.machine(Guest::new().say("up\n").sleep(), true);
    let mut first = Running::start(&mut pod.launch(&machine));
    first.until_it_says("up");
    pod.fails_with(&machine, &["a machine runs in this pod already"]);
    let _ = first.0.kill();
    let _ = first.0.wait();
    drop(first);
    let machine = pod.machine(Guest::new().say("up\n").power_off(), true);
    let since = Instant::now();
    // The machine's process notices the launcher's end by itself.
    loop {
        let output = run(&mut pod.launch(&machine));
        if output.status.code() == Some(0) {
            return;
        }
        let said = stderr(&output);
        assert!(said.contains("runs in this pod already"), "{said}");
        assert!(since.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn an_image_is_fetched_with_the_credentials_of_its_secret() {
    let pod = Pod::new();
    let users = ok(&mut command(&["htpasswd", "-Bbn", "robot", "secret"]));
    fs::write(pod.at("htpasswd"), users).unwrap();
    let path = pod.at("htpasswd");
    let registry = Registry::start(&Setup {
        htpasswd: Some(&path),
        ..Setup::default()
    });
    let disk = Tarball::new()
        .dir("disk")
        .file("disk/disk.img", vec![0; 1 << 20]);
    let layout = Layout::new(&pod.at("image")).layer(&disk.finish(), Compression::Gzip);
    layout.tag("v1");
    let from = format!("oci:{}:v1", pod.path("image"));
    let name = format!("{}/acme/disk:v1", registry.host());
    let to = format!("docker://{name}");
    let arguments = [
        "--dest-tls-verify=false",
        "--dest-creds=robot:secret",
        &from,
        &to,
    ];
    skopeo_copy(&arguments);

    let auth = "cm9ib3Q6c2VjcmV0"; // robot:secret
    let auths = json!({ "auths": { (registry.host()): { "auth": auth } } });
    fs::write(pod.at("config.json"), auths.to_string()).unwrap();
    let machine = |holds: &str, auth_file: Option<String>| {
        let mut machine = pod.machine(Guest::new().say("up\n").power_off(), true);
        machine["disks"][0]["source"] = json!({ "image": { "reference": name, "holds": holds } });
        if let Some(path) = auth_file {
            machine["disks"][0]["source"]["image"]["authFile"] = json!(path);
        }
        machine
    };
    let launch = |machine: &Value| {
        let mut command = pod.launch(machine);
        run(command.args(["--tls-verify=false", "--retries=0"]))
    };
    let output = launch(&machine("disk", Some(pod.path("config.json"))));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (holds, auth_file, words) in [
        ("disk", None, "acme/disk"),
        (
            "root",
            Some(pod.path("config.json")),
            "not a bootable container image",
        ),
    ] {
        let output = launch(&machine(holds, auth_file));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(35), "{said}");
        assert!(
            said.contains("volume root: ") && said.contains(words),
            "{said}"
        );
    }
    // A reference never leads to files of the pod.
    let mut machine = machine("root", None);
    machine["disks"][0]["source"]["image"]["reference"] =
        json!(format!("dir:{}", pod.path("disk")));
    let output = launch(&machine);
    assert_eq!(output.status.code(), Some(35), "{}", stderr(&output));
}

/// The pods that the controller makes, as its snapshots have them.
fn snapshots() -> Vec<(String, Value, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/tests/snapshots");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // insta's header, then the documents.
        let body = text.splitn(3, "---\n").nth(2).unwrap_or_default();
        let documents = body.split("\n---").map(|part| {
            let part = part.trim_start_matches(|c| c != '\n');
            serde_saphyr::from_str::<Value>(part).unwrap_or_default()
        });
        let documents: Vec<Value> = documents.collect();
        for pair in documents.windows(2) {
            if let [pod, machine] = pair
                && pod["kind"] == "Pod"
            {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                found.push((name, pod.clone(), machine.clone()));
            }
        }
    }
    found
}

#[test]
fn what_the_controller_writes_is_what_launch_reads() {
    let found = snapshots();
    assert!(found.len() >= 40, "{} pods", found.len());
    for (name, pod, machine) in found {
        let container = &pod["spec"]["containers"][0];
        assert_eq!(
            container["command"],
            json!([bootwright_machine::PROGRAM]),
            "{name}"
        );
        let strings =
            |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
        let mut line = strings(&container["command"]);
        line.extend(strings(&container["args"]));
        let matches = bootwright::command().try_get_matches_from(&line);
        let matches = matches.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (command, arguments) = matches.subcommand().unwrap();
        assert_eq!(command, "launch", "{name}");
        let file: &PathBuf = arguments.get_one("machine").unwrap();
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mounted = |path: &Path| {
            mounts
                .iter()
                .any(|mount| path.starts_with(mount["mountPath"].as_str().unwrap()))
        };
        assert!(mounted(file), "{name}");
        let json = serde_json::to_vec(&machine).unwrap();
        let machine = bootwright_machine::Machine::from_json(&json);
        let machine = machine.unwrap_or_else(|error| panic!("{name}: {error}"));
        // All that it names is there, and all it writes to can be written.
        let devices = container["volumeDevices"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for disk in &machine.disks {
            use bootwright_machine::Source;
            match &disk.source {
                Source::Root { folder }
                | Source::ContainerDisk { folder, .. }
                | Source::Files { folder, .. } => assert!(mounted(Path::new(folder)), "{name}"),
                Source::Device { path, .. } => assert!(
                    mounted(Path::new(path)) || devices.iter().any(|d| d["devicePath"] == **path),
                    "{name}: {path}"
                ),
                Source::Empty { .. } | Source::CloudInit { .. } | Source::Image { .. } => {}
            }
        }
        for variable in container["env"].as_array().unwrap() {
            let value = variable["value"].as_str().unwrap();
            assert!(mounted(Path::new(value)), "{name}: {value}");
        }
        for probe in ["livenessProbe", "readinessProbe"] {
            let line = &container[probe]["exec"]["command"];
            if line.is_array() {
                let matches = bootwright::command().try_get_matches_from(strings(line));
                assert!(matches.is_ok(), "{name}: {line}");
            }
        }
    }
}
