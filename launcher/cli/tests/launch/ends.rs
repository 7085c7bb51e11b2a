//! How machines start and end, and what is told of it.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::guest::Guest;
use crate::common::run;
use crate::pod::{Pod, Running, emulated, stderr};
use serde_json::json;

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
