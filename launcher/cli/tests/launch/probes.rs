//! Commands that probes have the guest run, where there is no guest that
//! could.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::guest::Guest;
use crate::common::run;
use crate::pod::{Pod, Running, emulated, stderr};

fn ask(pod: &Pod, probe: &str) -> (Output, Duration) {
    let since = Instant::now();
    let output = run(&mut pod.command(&["probe", "--exec", probe]));
    (output, since.elapsed())
}

#[test]
fn a_guest_that_cannot_run_commands_fails_its_probe_in_time_and_says_why() {
    for emulated in emulated() {
        let pod = Pod::new();
        let mut machine = pod.machine(Guest::new().say("up\n").sleep(), emulated);
        machine["probes"] =
            json!({ "liveness": { "command": ["/bin/true"], "timeoutSeconds": 2 } });
        let mut running = Running::start(&mut pod.launch(&machine));
        running.until_it_says("up");
        // Also when nobody takes what the first has asked.
        for _ in 0..3 {
            let (output, time) = ask(&pod, "liveness");
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{emulated}: {said}");
            assert!(said.contains("no systemd 256 or newer"), "{said}");
            assert_eq!(output.stdout, b"");
            assert!(time < Duration::from_secs(20), "{emulated}: {time:?}");
        }
        let (output, _) = ask(&pod, "readiness");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{emulated}: {said}");
        assert!(said.contains("no command for readiness"), "{said}");
    }
}

#[test]
fn a_machine_that_does_not_run_fails_its_probe() {
    let pod = Pod::new();
    let (output, _) = ask(&pod, "liveness");
    assert_eq!(output.status.code(), Some(1));
    let mut machine = pod.machine(Guest::new().say("up\n").power_off(), true);
    machine["probes"] = json!({ "liveness": { "command": ["/bin/true"], "timeoutSeconds": 2 } });
    let ended = run(&mut pod.launch(&machine));
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    let (output, _) = ask(&pod, "liveness");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the machine does not run"), "{said}");
}
