//! What a pod tells Prometheus.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::common::guest::Guest;
use crate::common::run;
use crate::pod::{Pod, Running, emulated, stderr};
use serde_json::json;

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
