//! `bootwright convert`, as a user runs it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn manifest(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/manifests");
    folder.join(format!("{name}.yaml"))
}

fn convert() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootwright"));
    command.arg("convert");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn piped(input: &[u8]) -> Output {
    let mut child = convert()
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_manifest_is_converted_and_what_is_ignored_is_told() {
    let output = convert()
        .arg(manifest("machine-and-clock"))
        .output()
        .unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stdout.starts_with("apiVersion: bootwright.dev/v1alpha1\n"),
        "{stdout}"
    );
    assert!(!stdout.contains("q35"), "{stdout}");
    let line = "VirtualMachine machine-and-clock: ignored: spec.template.spec.domain.machine: ";
    assert!(stderr.contains(line), "{stderr}");
}

#[test]
fn nothing_is_written_when_something_would_be_lost_unless_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.yaml");
    let mut command = convert();
    command.arg(manifest("passthrough")).arg("-o").arg(&file);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("lost: spec.template.spec.domain.devices.gpus: "),
        "{stderr}"
    );
    assert!(
        stderr.ends_with("--lossy writes what is left\n"),
        "{stderr}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let output = command.arg("--lossy").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!fs::read_to_string(&file).unwrap().contains("gpus"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn several_files_and_documents_come_out_as_one_and_others_objects_unchanged() {
    let files = [manifest("masquerade-ports"), manifest("cloud-init-secret")];
    let output = convert().args(files).output().unwrap();
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(stdout.matches("\n---\n").count(), 3, "{stdout}");
    assert!(
        stdout.contains("apiVersion: v1\nkind: Service\n"),
        "{stdout}"
    );
}

#[test]
fn standard_input_is_read_and_json_is_written() {
    let output = piped(&fs::read(manifest("disk-options")).unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json = convert()
        .arg("--json")
        .arg(manifest("disk-options"))
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        report["objects"][0]["apiVersion"],
        "bootwright.dev/v1alpha1"
    );
    assert_eq!(report["notes"][0]["lost"], false);
}

#[test]
fn what_is_no_manifest_is_told_with_its_file() {
    for input in ["a: [", "- 1", "\u{0}", "a: &a [*a]"] {
        let output = piped(input.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{input:?}");
        let stderr = text(&output.stderr);
        assert!(
            stderr.starts_with("bootwright: standard input: "),
            "{stderr}"
        );
    }
    // A bomb: each line is ten of the line before.
    let mut bomb = "a0: &a0 text\n".to_owned();
    for line in 1..12 {
        let ten = vec![format!("*a{}", line - 1); 10].join(", ");
        bomb.push_str(&format!("a{line}: &a{line} [{ten}]\n"));
    }
    assert_eq!(piped(bomb.as_bytes()).status.code(), Some(1));
    let missing = convert().arg("/nowhere.yaml").output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nowhere.yaml"));
}
