//! KubeVirt's manifests: what becomes of each, and the pods of the machines.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bootwright_controller::api::{VirtualMachine, VirtualMachinePool};
use bootwright_controller::convert::{self, Converted, Weight};
use bootwright_controller::fields;
use bootwright_controller::machine::{ANNOTATION, Disk, Machine, Source};
use bootwright_controller::pod::{self, Launcher, VolumeMode};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/manifests");
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

fn objects(path: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap()
}

fn launcher() -> Launcher {
    Launcher {
        image: "registry.example.com/bootwright:1".into(),
        emulation: false,
        user_namespaces: true,
        // What it adds is the same for all, and shown once.
        metrics_port: None,
        image_volumes: true,
    }
}

/// An object as an API server would hand it out.
fn stored(object: &Value) -> VirtualMachine {
    let mut vm: VirtualMachine = serde_json::from_value(object.clone()).unwrap();
    vm.metadata.namespace = Some("default".into());
    vm.metadata.uid = Some("4b8f6a52-91d2-4c67-a7d5-0d4d4f8c2b11".into());
    vm
}

/// The pod of a machine; the annotation that holds the machine is shown apart.
fn pod_of(vm: &VirtualMachine, launcher: &Launcher) -> (Pod, Machine) {
    let modes = [("web-data", VolumeMode::Block)];
    let claims: BTreeMap<_, _> = modes.map(|(name, mode)| (name.to_owned(), mode)).into();
    let mut pod = pod::pod(vm, launcher, &claims).unwrap();
    let annotations = pod.metadata.annotations.as_mut().unwrap();
    let machine = annotations.remove(ANNOTATION).unwrap();
    (pod, serde_json::from_str(&machine).unwrap())
}

fn yaml(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap();
    serde_saphyr::to_string(&value).unwrap()
}

fn notes(text: &mut String, converted: &Converted) {
    for note in &converted.notes {
        let word = match note.weight {
            Weight::Lost => "lost",
            Weight::Ignored => "ignored",
        };
        writeln!(text, "{word}: {}: {}", note.path, note.why).unwrap();
    }
}

#[test]
fn the_corpus_converts_and_its_machines_have_pods() {
    let files = corpus();
    let mut booted = 0;
    for path in files {
        let mut text = String::new();
        for object in objects(&path) {
            let converted = convert::convert(&object);
            notes(&mut text, &converted);
            writeln!(text, "--- # object\n{}", yaml(&converted.object)).unwrap();
            if converted.object["kind"] == "VirtualMachine" && !converted.is_lossy() {
                let (pod, machine) = pod_of(&stored(&converted.object), &launcher());
                writeln!(text, "--- # pod\n{}", yaml(&pod)).unwrap();
                writeln!(text, "--- # machine\n{}", yaml(&machine)).unwrap();
                let disk = |disk: &Disk| matches!(disk.source, Source::ContainerDisk { .. });
                booted += usize::from(machine.disks.first().is_some_and(disk));
            }
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, text));
    }
    assert!(booted >= 40, "{booted} machines boot a containerDisk");
}

#[test]
fn what_was_converted_is_understood_whole_and_nothing_of_it_is_refused() {
    for path in corpus() {
        for object in objects(&path) {
            let object = convert::convert(&object).object;
            let spec = match object["kind"].as_str().unwrap() {
                "VirtualMachine" => {
                    let vm: VirtualMachine = serde_json::from_value(object.clone()).unwrap();
                    assert!(vm.spec.other.is_empty(), "{path:?}");
                    assert!(vm.spec.template.spec.other.is_empty(), "{path:?}");
                    object["spec"].clone()
                }
                "VirtualMachinePool" => {
                    let _: VirtualMachinePool = serde_json::from_value(object.clone()).unwrap();
                    object["spec"]["virtualMachineTemplate"]["spec"].clone()
                }
                _ => continue,
            };
            for finding in fields::review(&spec) {
                assert_eq!(
                    finding.field.fate,
                    fields::Fate::Ignored,
                    "{path:?}: {finding:?}"
                );
            }
            // Converted once more, nothing is found but what stays on purpose.
            let again = json!({ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
                "metadata": {}, "spec": spec });
            let again = convert::convert(&again);
            assert_eq!(again.object["spec"], spec, "{path:?}");
        }
    }
}

fn bootable(image: &str) -> VirtualMachine {
    stored(&json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": "web",
            "annotations": { pod::RESTARTED_AT: "2026-11-28T04:00:00Z" },
        },
        "spec": {
            "runStrategy": "Always",
            "template": { "spec": {
                "domain": { "memory": { "guest": "1Gi" } },
                "volumes": [
                    { "name": "root", "bootableContainer": { "image": image } },
                    { "name": "data", "persistentVolumeClaim": { "claimName": "web-data" } },
                ],
            } },
        },
    }))
}

#[test]
fn a_bootable_container_is_an_image_volume_in_a_user_namespace() {
    let digest = "3".repeat(64);
    let vm = bootable(&format!("registry.example.com/web@sha256:{digest}"));
    let launcher = Launcher {
        metrics_port: Some(9478),
        ..launcher()
    };
    let (pod, machine) = pod_of(&vm, &launcher);
    let text = format!("{}---\n{}", yaml(&pod), yaml(&machine));
    insta::assert_snapshot!("bootable_container", text);
}

#[test]
fn the_guests_own_port_outranks_the_launchers_metrics() {
    let launcher = Launcher {
        metrics_port: Some(9478),
        ..launcher()
    };
    for (port, expect) in [
        (json!({ "port": 80 }), Some(9478)),
        (json!({ "port": 9478, "protocol": "UDP" }), Some(9478)),
        (json!({ "port": 9478 }), None),
        (json!({ "port": 80, "name": "vm-metrics" }), None),
    ] {
        let mut vm = bootable("web:1");
        let spec = &mut vm.spec.template.spec;
        spec.networks = serde_json::from_value(json!([{ "name": "n", "pod": {} }])).unwrap();
        spec.domain.devices.interfaces =
            serde_json::from_value(json!([{ "name": "n", "masquerade": {}, "ports": [port] }]))
                .unwrap();
        let (pod, machine) = pod_of(&vm, &launcher);
        assert_eq!(machine.metrics_port, expect, "{port}");
        assert_eq!(machine.check(), Ok(()), "{port}");
        let ports = pod.spec.unwrap().containers[0].ports.clone().unwrap();
        let named = ports.iter().filter(|p| p.container_port == 9478);
        let names: Vec<_> = named.filter_map(|p| p.name.as_deref()).collect();
        assert_eq!(names, expect.map(|_| "vm-metrics").as_slice(), "{port}");
    }
}

#[test]
fn without_user_namespaces_and_kvm_the_pod_says_so() {
    let configured = Launcher {
        emulation: true,
        user_namespaces: false,
        ..launcher()
    };
    let (pod, machine) = pod_of(&bootable("web:1"), &configured);
    let spec = pod.spec.unwrap();
    assert_eq!(spec.host_users, None);
    assert!(machine.emulated);
    let limits = spec.containers[0]
        .resources
        .clone()
        .unwrap()
        .limits
        .unwrap();
    assert!(!limits.contains_key("bootwright.dev/kvm"), "{limits:?}");
    assert_eq!(limits["memory"].0, "1410Mi");
}

#[test]
fn without_image_volumes_the_launcher_fetches_images_and_needs_no_root() {
    let configured = Launcher {
        image_volumes: false,
        ..launcher()
    };
    let mut vm = bootable("registry.example.com/web:1");
    let image = vm.spec.template.spec.volumes[0].bootable_container.as_mut();
    image.unwrap().image_pull_secret = Some("pull".into());
    let (pod, machine) = pod_of(&vm, &configured);
    let spec = pod.spec.unwrap();
    assert_eq!(spec.host_users, None);
    assert_eq!(spec.security_context.unwrap().run_as_non_root, Some(true));
    let volumes = spec.volumes.unwrap();
    assert!(volumes.iter().all(|volume| volume.image.is_none()));
    let secret = volumes.iter().find_map(|volume| volume.secret.as_ref());
    assert_eq!(secret.unwrap().secret_name.as_deref(), Some("pull"));
    insta::assert_snapshot!(yaml(&machine.disks[0]), @r"
    name: root
    readOnly: false
    source:
      image:
        authFile: /run/bootwright/volumes/bootwright-pull-0/config.json
        holds: root
        reference: registry.example.com/web:1
    ");
}

#[test]
fn no_pod_is_privileged_or_reaches_its_node() {
    for path in corpus() {
        for object in objects(&path) {
            let converted = convert::convert(&object);
            if converted.object["kind"] != "VirtualMachine" || converted.is_lossy() {
                continue;
            }
            let (pod, _) = pod_of(&stored(&converted.object), &launcher());
            let spec = pod.spec.unwrap();
            let host = [spec.host_network, spec.host_pid, spec.host_ipc];
            assert_eq!(host, [None; 3], "{path:?}");
            let volumes = spec.volumes.unwrap();
            assert!(
                volumes.iter().all(|volume| volume.host_path.is_none()),
                "{path:?}"
            );
            let context = spec.containers[0].security_context.clone().unwrap();
            assert_eq!(context.privileged, None);
            assert_eq!(context.allow_privilege_escalation, Some(false));
            // Pod Security's level restricted.
            assert_eq!(context.capabilities.clone().unwrap().add, None, "{path:?}");
            let context = spec.security_context.unwrap();
            assert_eq!(context.run_as_non_root, Some(true), "{path:?}");
        }
    }
}

#[test]
fn what_contradicts_itself_has_no_pod_and_a_reason() {
    let table = [
        (
            "/domain",
            json!({}),
            "domain.memory.guest: set it, or resources.requests.memory",
        ),
        (
            "/domain",
            json!({ "memory": { "guest": "-1" } }),
            "domain.memory.guest: \"-1\" is not an amount: digits and a unit such as Gi, M or m",
        ),
        (
            "/domain",
            json!({ "memory": { "guest": "1Gi", "maxGuest": "1Mi" } }),
            "domain.memory.maxGuest: 1048576 bytes are less than the guest's 1073741824",
        ),
        (
            "/domain",
            json!({ "memory": { "guest": "3Mi", "hugepages": { "pageSize": "2Mi" } } }),
            "domain.memory.guest: 3145728 bytes are no multiple of the huge pages' 2097152",
        ),
        (
            "/domain",
            json!({ "memory": { "guest": "1Gi" }, "cpu": { "sockets": 20, "cores": 20 } }),
            "domain.cpu: 400 processors, of at most 254",
        ),
        (
            "/volumes",
            json!([]),
            "there is no disk to boot from: there are no volumes",
        ),
        (
            "/volumes",
            json!([{ "name": "a", "emptyDisk": { "capacity": "1Gi" } }]),
            "there is no disk to boot from: the first disk, \"a\", holds no system",
        ),
        (
            "/volumes",
            json!([{ "name": "a", "dataVolume": { "name": "gone" } }]),
            "there is no PersistentVolumeClaim \"gone\"",
        ),
        (
            "/volumes",
            json!([{ "name": "bootwright-scratch", "containerDisk": { "image": "a" } }]),
            "volumes: \"bootwright-scratch\" begins with bootwright-, which is reserved",
        ),
    ];
    for (pointer, value, expected) in table {
        let mut object = serde_json::to_value(bootable("web:1")).unwrap();
        *object
            .pointer_mut(&format!("/spec/template/spec{pointer}"))
            .unwrap() = value;
        let vm: VirtualMachine = serde_json::from_value(object).unwrap();
        let claims = [("web-data".to_owned(), VolumeMode::Block)].into();
        let error = pod::pod(&vm, &launcher(), &claims).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
