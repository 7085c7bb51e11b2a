//! A pod without a cluster: its folders, its machine, and a launcher in it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::common::{bootwright, run};
use serde_json::{Value, json};

/// A pod: folders as its machine names them.
pub(crate) struct Pod(pub(crate) tempfile::TempDir);

impl Pod {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    /// A machine of this pod that boots `guest`.
    pub(crate) fn machine(&self, guest: Vec<u8>, emulated: bool) -> Value {
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

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bootwright(&self.at("store"));
        command
            .args(arguments)
            .env_remove("XDG_STATE_HOME")
            .env("HOME", self.at("scratch"))
            .env("XDG_RUNTIME_DIR", self.at("scratch/run"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn launch(&self, machine: &Value) -> Command {
        let file = self.at("machine.json");
        fs::write(&file, serde_json::to_vec(machine).unwrap()).unwrap();
        let (file, log) = (self.path("machine.json"), self.path("termination-log"));
        self.command(&["launch", &file, "--termination-log", &log])
    }

    pub(crate) fn word(&self) -> String {
        fs::read_to_string(self.at("termination-log")).unwrap()
    }

    pub(crate) fn fails_with(&self, machine: &Value, words: &[&str]) {
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

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// QEMU, and our own monitor where there is a KVM that takes such guests.
pub(crate) fn emulated() -> Vec<bool> {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    match kvm {
        Ok(_) => vec![true, false],
        Err(_) => vec![true],
    }
}

/// A launcher that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn until_it_says(&mut self, word: &str) {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        for line in lines {
            if line.unwrap().contains(word) {
                return;
            }
        }
        panic!("{word:?} was not said");
    }

    pub(crate) fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn status(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
