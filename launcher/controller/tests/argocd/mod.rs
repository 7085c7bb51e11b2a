//! What Argo CD makes of statuses, for all tests that come across some.
//!
//! In: machines and pools with their status. The health checks of
//! `templates/argocd` are evaluated by the interpreter of Argo CD in its
//! sandbox (`testdata/argocd`), which stays for as long as the tests. Out:
//! what differs from what this says of the same object, without Lua.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

/// Names the interpreter: `cargo xtask test` builds and sets it.
const VARIABLE: &str = "BOOTWRIGHT_TEST_ARGOCD";

/// An interpreter with a script.
struct Interpreter {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// One for each kind; none where there is no interpreter.
static MACHINES: OnceLock<Option<Mutex<Interpreter>>> = OnceLock::new();
static POOLS: OnceLock<Option<Mutex<Interpreter>>> = OnceLock::new();

/// Whether there is one to ask.
pub(crate) fn is_there() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

fn start(script: &str) -> Option<Mutex<Interpreter>> {
    if !is_there() {
        eprintln!("Argo CD's health checks are not tested: {VARIABLE} is not set");
    }
    let program = std::env::var_os(VARIABLE)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/argocd");
    let mut child = Command::new(program)
        .arg(folder.join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Some(Mutex::new(Interpreter {
        input: child.stdin.take().unwrap(),
        output: BufReader::new(child.stdout.take().unwrap()),
        _child: child,
    }))
}

/// What is wrong with what Argo CD says of an object; nothing if all is well.
pub(crate) fn complaint(object: &Value) -> Option<String> {
    let (interpreter, expected) = match object["kind"].as_str() {
        Some("VirtualMachine") => {
            let interpreter = MACHINES.get_or_init(|| start("virtualmachine.lua"));
            (interpreter, machine(object))
        }
        _ => {
            let interpreter = POOLS.get_or_init(|| start("virtualmachinepool.lua"));
            (interpreter, pool(object))
        }
    };
    let interpreter = interpreter.as_ref()?;
    let mut interpreter = interpreter.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(interpreter.input, "{object}").unwrap();
    let mut line = String::new();
    interpreter.output.read_line(&mut line).unwrap();
    let health: Value = serde_json::from_str(&line).unwrap();
    let right = health["status"] == expected
        && health["error"].is_null()
        && health["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty());
    (!right).then(|| format!("Argo CD says {health} and not {expected} of {object}"))
}

/// Whether the status is about another generation than the object has.
fn is_stale(object: &Value) -> bool {
    object["status"]["observedGeneration"] != object["metadata"]["generation"]
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<(&'a str, &'a str)> {
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    let found = conditions.find(|condition| condition["type"] == type_)?;
    Some((found["status"].as_str()?, found["reason"].as_str()?))
}

fn machine(object: &Value) -> &'static str {
    let status = &object["status"];
    let ready = condition(object, "Ready").map(|(status, _)| status);
    let Some(word) = status["printableStatus"].as_str() else {
        return "Progressing";
    };
    let strategy = object["spec"]["runStrategy"].as_str();
    let ends = matches!(strategy, Some("Once" | "RerunOnFailure"));
    match (word, status["phase"].as_str()) {
        _ if is_stale(object) => "Progressing",
        ("Running", _) if ready == Some("True") => "Healthy",
        ("Running" | "Starting" | "Stopping" | "Terminating", _) => "Progressing",
        // A node may come.
        ("ErrorUnschedulable", _) => "Progressing",
        ("Paused", _) => "Suspended",
        ("Stopped", Some("Failed")) => "Degraded",
        ("Stopped", Some("Succeeded")) if ends => "Healthy",
        ("Stopped", _) => "Suspended",
        _ => "Degraded",
    }
}

fn pool(object: &Value) -> &'static str {
    let failed = condition(object, "Failure").is_some_and(|(status, _)| status == "True");
    match condition(object, "Progressing") {
        _ if is_stale(object) => "Progressing",
        Some(_) if failed => "Degraded",
        Some((_, "Complete")) => "Healthy",
        Some((_, "Paused")) => "Suspended",
        Some((_, "ProgressDeadlineExceeded")) => "Degraded",
        _ => "Progressing",
    }
}
