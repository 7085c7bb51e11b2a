//! What launch is given: disks, images, and what the controller writes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::guest::Guest;
use crate::common::layout::{Compression, Layout};
use crate::common::tarball::Tarball;
use crate::common::{command, ok, run};
use crate::image_tests::registry::{Registry, Setup};
use crate::image_tests::skopeo_copy;
use crate::pod::{Pod, emulated, stderr};
use serde_json::{Value, json};

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
