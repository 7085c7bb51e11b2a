//! `bootwright run`: guests of a few instructions run, end as they say, and
//! leave nothing behind; what cannot run says why.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::guest::Guest;
use common::images::base;
use common::layout::{Compression, Layout};
use common::{bootwright, command, ok, run};

/// A folder for machines, and a disk with nothing on it.
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

    /// Runs `target`, a file here or an image.
    fn target(&self, target: &str) -> Command {
        let mut program = bootwright(&self.at("store"));
        program
            .env("XDG_STATE_HOME", self.at("state"))
            .env("XDG_RUNTIME_DIR", self.at("run"))
            .current_dir(self.0.path())
            .args([
                "run",
                target,
                "--memory",
                "64M",
                "--cpus",
                "1",
                "--network",
                "none",
            ])
            .stdin(Stdio::null());
        program
    }

    /// Runs a guest under `accel`.
    fn guest(&self, accel: &str, guest: Vec<u8>) -> Command {
        fs::write(self.at("kernel"), guest).unwrap();
        let mut program = self.target("disk.raw");
        program.args(["--accel", accel, "--kernel", "kernel", "--timeout", "100s"]);
        program
    }

    /// What is left of machines.
    fn left(&self) -> Vec<PathBuf> {
        ["state/bootwright/vms", "run/bootwright"]
            .iter()
            .filter_map(|dir| fs::read_dir(self.at(dir)).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    fn fails_with(&self, program: &mut Command, words: &[&str]) {
        let output = run(program);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(35), "{program:?}: {said}");
        assert_eq!(said.matches("bootwright: ").count(), 1, "one error: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// QEMU, and our own monitor where there is a KVM that takes such guests.
fn accels() -> Vec<&'static str> {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    match kvm {
        Ok(_) => vec!["tcg", "kvm"],
        Err(_) => vec!["tcg"],
    }
}

#[test]
fn the_exit_status_says_how_the_guest_ended_and_nothing_is_left_of_it() {
    let say = || Guest::new().say("hello, console\n");
    for accel in accels() {
        for (guest, status, words) in [
            (say().power_off(), 0, ""),
            (say().reset(), 32, "the guest asked for a reset"),
            (say().panic(), 34, "the guest's kernel panicked"),
        ] {
            let work = Work::new();
            let output = run(work.guest(accel, guest).arg("--no-reboot"));
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(status), "{accel}: {said}");
            assert!(said.contains(words), "{accel}: {said}");
            let console = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(console.contains("hello, console"), "{accel}: {console}");
            assert_eq!(work.left(), Vec::<PathBuf>::new(), "{accel}");
        }
    }
}

#[test]
fn what_is_typed_reaches_the_guest() {
    for accel in accels() {
        let work = Work::new();
        let mut program = work.guest(accel, Guest::new().say("?").echo().power_off());
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"!").unwrap();
        let mut console = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut console).unwrap();
        assert!(child.wait().unwrap().success(), "{accel}");
        assert!(console.contains("?!"), "{accel}: {console:?}");
    }
}

#[test]
fn a_guest_without_end_ends_with_its_time() {
    for accel in accels() {
        let work = Work::new();
        let output = run(work
            .guest(accel, Guest::new().sleep())
            .args(["--timeout", "2s"]));
        assert_eq!(output.status.code(), Some(36), "{}", stderr(&output));
    }
}

/// Starts a guest that says something and sleeps, and waits until it does.
fn sleeper(work: &Work, more: &[&str]) -> Sleeper {
    let guest = Guest::new().say("up").sleep();
    let mut child = work
        .guest("tcg", guest)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"up") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    Sleeper(child)
}

struct Sleeper(Child);

impl Sleeper {
    fn signal(&self, signal: &str, pid: &str) {
        ok(&mut command(&["kill", signal, pid]));
    }

    /// The process that runs the guest.
    fn machine(&self) -> String {
        let children = command(&["ps", "-o", "pid=", "--ppid"])
            .arg(self.0.id().to_string())
            .output()
            .unwrap();
        String::from_utf8(children.stdout)
            .unwrap()
            .trim()
            .to_owned()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_machine_of_a_name_runs_once_at_a_time_and_is_kept() {
    let work = Work::new();
    let named = ["--name", "one", "--disk", "data.raw"];
    fs::write(work.at("data.raw"), vec![0; 1 << 20]).unwrap();
    let sleeper = sleeper(&work, &named);
    let mut again = work.target("disk.raw");
    work.fails_with(
        again.args(["--accel", "tcg", "--name", "one"]),
        &["the machine one runs already"],
    );
    let mut other = work.guest("tcg", Guest::new().power_off());
    work.fails_with(
        other.args(["--disk", "data.raw"]),
        &["data.raw", "in use by another process"],
    );
    drop(sleeper);
    let overlay = work.at("state/bootwright/vms/one/root.overlay");
    // The process notices that its user is gone.
    for _ in 0..200 {
        if !work.at("run/bootwright/one").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(overlay.is_file());
    let once_more = || {
        run(work
            .guest("tcg", Guest::new().power_off())
            .args(["--name", "one"]))
    };
    let mut output = once_more();
    // It lets go of its name last.
    for _ in 0..100 {
        if !stderr(&output).contains("runs already") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        output = once_more();
    }
    assert!(output.status.success(), "{}", stderr(&output));
    let mut other = work.target("data.raw");
    work.fails_with(
        other.args(["--accel", "tcg", "--name", "one"]),
        &["the machine one is one of disk.raw"],
    );
    fs::write(&overlay, vec![0x5a; 1 << 20]).unwrap();
    let mut corrupt = work.guest("tcg", Guest::new().power_off());
    work.fails_with(corrupt.args(["--name", "one"]), &["root.overlay"]);
}

#[test]
fn what_is_left_of_a_killed_machine_is_cleared_away() {
    let work = Work::new();
    let mut sleeper = sleeper(&work, &[]);
    let machine = sleeper.machine();
    // As if it had said why.
    let folders = work.left();
    let mut logs = folders.iter().map(|folder| folder.join("vm.log"));
    let log = logs.find(|log| log.exists()).unwrap();
    fs::write(log, "error: something went wrong\n").unwrap();
    sleeper.signal("-KILL", &machine);
    let status = sleeper.0.wait().unwrap();
    assert_eq!(status.code(), Some(33));
    let mut said = String::new();
    let mut stderr = sleeper.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("the guest's process has ended: signal: 9")
            && said.contains("its last words: error: something went wrong"),
        "{said}"
    );
    assert_ne!(work.left(), Vec::<PathBuf>::new());
    ok(&mut work.guest("tcg", Guest::new().power_off()));
    assert_eq!(work.left(), Vec::<PathBuf>::new());
}

#[test]
fn two_signals_end_a_guest_that_does_not_listen() {
    let work = Work::new();
    let mut sleeper = sleeper(&work, &[]);
    let pid = sleeper.0.id().to_string();
    sleeper.signal("-TERM", &pid);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(sleeper.0.try_wait().unwrap().is_none());
    sleeper.signal("-TERM", &pid);
    assert!(!sleeper.0.wait().unwrap().success());
    // Its machine follows: nothing is held any more.
    for _ in 0..200 {
        if work.left().is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("left: {:?}", work.left());
}

#[test]
fn a_disk_that_was_pushed_runs_in_every_form_and_goes_on_by_its_name() {
    let work = Work::new();
    let kernel = Guest::new().say("from the disk\n").power_off();
    let layer = base().file("usr/lib/modules/6.1.0-test/vmlinuz", kernel);
    Layout::new(&work.at("image"))
        .layer(&layer.finish(), Compression::Gzip)
        .tag("v1");
    for (form, options) in [
        ("disk", &[][..]),
        ("containerdisk", &["--format", "raw"]),
        ("containerdisk", &["--format", "qcow2"]),
        ("artifact", &[]),
    ] {
        let to = format!("oci:{form}-{}:v1", options.len());
        let mut push = bootwright(&work.at("store"));
        push.current_dir(work.0.path()).args([
            "push",
            "oci:image:v1",
            &to,
            "--as",
            form,
            "--quiet",
        ]);
        ok(push.args(options));
        let target = || {
            let mut run = work.target(&to);
            run.args(["--accel", "tcg", "--timeout", "100s"]);
            run
        };
        for _ in 0..2 {
            let output = run(target().args(["--name", "kept"]));
            let console = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{to}: {}", stderr(&output));
            assert!(console.contains("from the disk"), "{to}: {console}");
        }
        work.fails_with(target().args(["--user", "me"]), &["--user", "already"]);
        fs::remove_dir_all(work.at("state/bootwright/vms/kept")).unwrap();
        let output = run(&mut target());
        assert!(output.status.success(), "{to}: {}", stderr(&output));
        assert_eq!(work.left(), Vec::<PathBuf>::new(), "{to}");
    }
}

#[test]
fn the_guest_has_a_network_where_there_are_no_namespaces() {
    let work = Work::new();
    let guest = work.guest("tcg", Guest::new().power_off());
    let none = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let mut program = command(&[
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        none,
        "sh",
    ]);
    program.arg(guest.get_program()).args(guest.get_args());
    program
        .args(["--network", "user"])
        .current_dir(work.0.path());
    for (name, value) in guest.get_envs() {
        program.env(name, value.unwrap());
    }
    ok(&mut program);
}

/// A file that is a kernel for another machine.
fn arm_kernel(path: &Path) {
    let mut bytes = vec![0; 4096];
    bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_cannot_run_says_why_once() {
    let work = Work::new();
    let good = Guest::new().power_off();
    let guest = |more: &[&str], words: &[&str]| {
        let mut program = work.guest("tcg", good.clone());
        work.fails_with(program.args(more), words);
    };
    arm_kernel(&work.at("arm"));
    guest(&["--kernel", "arm"], &["arm", "it is for 64-bit ARM"]);
    guest(&["--kernel", "disk.raw"], &["no kernel for x86-64"]);
    guest(&["--kernel", "missing"], &["missing", "No such file"]);
    guest(&["--kernel", "."], &["it is no file"]);
    guest(&["--initrd", "missing"], &["missing", "No such file"]);
    guest(&["--disk", "missing"], &["--disk missing", "No such file"]);
    guest(&["--memory", "8M"], &["--memory", "too little"]);
    guest(&["--append", "a=\"b"], &["--append", "quote"]);
    guest(&["--size", "4K"], &["--size", "cannot be made smaller"]);
    guest(&["--user", "me"], &["--user", "a disk already"]);

    let tcg = |target: &str, words: &[&str]| {
        let mut program = work.target(target);
        work.fails_with(program.args(["--accel", "tcg"]), words);
    };
    tcg("disk.raw", &["nothing to boot"]);
    tcg("oci:missing:v1", &["missing"]);
    fs::write(work.at("bad.qcow2"), b"QFI\xfb\0\0\0\x09").unwrap();
    tcg("bad.qcow2", &["bad.qcow2"]);
    let layout = Layout::new(&work.at("arm-image"))
        .architecture("arm64")
        .layer(&base().finish(), Compression::None);
    layout.tag("v1");
    let mut arm = work.target("oci:arm-image:v1");
    work.fails_with(
        arm.args(["--accel", "tcg", "--platform", "linux/arm64"]),
        &["linux/arm64", "x86-64 only"],
    );
    assert_eq!(work.left(), Vec::<PathBuf>::new());

    let output = run(work.target("disk.raw").args(["--cpus", "0"]));
    assert_eq!(output.status.code(), Some(35), "{}", stderr(&output));
    let output = run(work
        .target("disk.raw")
        .env("PATH", "/nonexistent")
        .args(["--accel", "tcg"]));
    assert_eq!(output.status.code(), Some(35));
    assert!(stderr(&output).contains("install") || stderr(&output).contains("needs QEMU"));
}
