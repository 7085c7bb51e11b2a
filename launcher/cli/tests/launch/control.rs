//! What is asked of a machine while it runs in its pod.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::guest::Guest;
use crate::common::run;
use crate::pod::{Pod, Running, emulated, stderr};
use serde_json::{Value, json};

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
