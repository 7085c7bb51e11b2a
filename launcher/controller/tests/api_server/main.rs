//! The definitions, rules and defaults as a real API server takes them, and
//! its opinion of the pods. `cargo xtask test cluster` starts one and runs
//! these.

#![allow(clippy::unwrap_used, clippy::panic)]

mod breaches;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use bootwright_controller::api::VirtualMachine;
use bootwright_controller::api::rules::{MACHINE, MACHINE_NAME, POOL, POOL_NAME};
use bootwright_controller::convert;
use bootwright_controller::fields::{FIELDS, Fate, Kind, When};
use bootwright_controller::pod::{self, Launcher, VolumeMode};
use serde_json::{Value, json};

/// Names the command line of kubectl.
const KUBECTL: &str = "BOOTWRIGHT_TEST_KUBECTL";

const WHY: &str = "needs an API server: cargo xtask test cluster";

fn kubectl(arguments: &[&str], input: &str) -> Output {
    let line = env::var(KUBECTL).expect(WHY);
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    output
}

/// Standard output and error of a command that succeeds.
fn done(arguments: &[&str], input: &str) -> (String, String) {
    let output = kubectl(arguments, input);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, error) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "kubectl {arguments:?}: {error}");
    (out, error)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Installs the definitions and what a namespace has in any cluster.
fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let crds = workspace().join("templates/cluster/crds");
        let crds = crds.to_str().unwrap();
        let (_, warnings) = done(&["apply", "--server-side", "-f", crds], "");
        assert_eq!(warnings, "", "the API server warns of the definitions");
        let wait = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            crds,
        ];
        done(&wait, "");
        let mut objects = Vec::new();
        for level in ["restricted", "baseline"] {
            let label = "pod-security.kubernetes.io/enforce";
            objects.push(json!({ "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": level, "labels": { label: level } } }));
            for account in ["default", "reader"] {
                objects.push(json!({ "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": { "name": account, "namespace": level } }));
            }
        }
        objects.push(
            json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": { "name": "important" }, "value": 1000 }),
        );
        done(
            &["apply", "--server-side", "-f", "-"],
            &convert::write(&objects).unwrap(),
        );
    });
}

/// Has the API server judge objects without storing them; what it says of
/// each that it refuses, by name.
fn refusals(namespace: &str, objects: &[Value]) -> BTreeMap<String, String> {
    let text = convert::write(objects).unwrap();
    let create = [
        "create",
        "--dry-run=server",
        "--validate=strict",
        "-n",
        namespace,
        "-f",
        "-",
    ];
    let output = kubectl(&create, &text);
    let errors = String::from_utf8(output.stderr).unwrap();
    let mut refused = BTreeMap::new();
    // Each error begins a line, and its details may follow as a list.
    let mut current = String::new();
    for line in errors.lines().chain(["Error"]) {
        if line.starts_with("Error") || line.starts_with("The ") {
            if let Some(name) = named(&current, objects) {
                refused.insert(name, std::mem::take(&mut current));
            }
            current.clear();
        }
        current.push_str(line);
        current.push('\n');
    }
    let made = String::from_utf8(output.stdout).unwrap().lines().count();
    assert_eq!(made + refused.len(), objects.len(), "{errors}");
    refused
}

fn named(error: &str, objects: &[Value]) -> Option<String> {
    let names = objects
        .iter()
        .map(|object| object["metadata"]["name"].as_str().unwrap());
    let quoted = |name: &str| error.contains(&format!("\"{name}\""));
    names.filter(|name| quoted(name)).map(str::to_owned).next()
}

fn machine(name: &str) -> Value {
    json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": name },
        "spec": { "runStrategy": "Always", "template": { "spec": {
            "domain": {
                "memory": { "guest": "1Gi" },
                "devices": {
                    "disks": [{ "name": "root" }],
                    "interfaces": [{ "name": "default" }],
                },
            },
            "networks": [{ "name": "default", "pod": {} }],
            "volumes": [
                { "name": "root", "bootableContainer": { "image": "web:1" } },
            ],
        } } },
    })
}

fn pool(name: &str) -> Value {
    let template = machine("template")["spec"].clone();
    json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachinePool",
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "virtualMachineTemplate": {
                "metadata": { "labels": { "app": "web" } },
                "spec": template,
            },
        },
    })
}

/// Changes an object: `null` removes the field.
fn change(object: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let mut at = object;
    for part in parent.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    match (value, name.parse::<usize>()) {
        (Value::Null, _) => drop(at.as_object_mut().unwrap().remove(name)),
        (value, Ok(index)) if at.is_array() => {
            let list = at.as_array_mut().unwrap();
            list.truncate(index);
            list.push(value);
        }
        (value, _) => at[name] = value,
    }
}

#[test]
#[ignore = "needs an API server: cargo xtask test cluster"]
fn every_rule_of_a_machine_refuses_what_breaches_it_and_names_the_field() {
    set_up();
    let mut covered = BTreeSet::new();
    let mut cases = Vec::new();
    for (index, (at, words, changes)) in breaches::breaches().into_iter().enumerate() {
        let matching = |rule: &&bootwright_controller::api::rules::Rule| {
            rule.at == at && format!("{}: {}", rule.field, rule.message).contains(words)
        };
        let rules: Vec<_> = MACHINE.iter().filter(matching).collect();
        assert_eq!(rules.len(), 1, "{at}: {words}");
        covered.insert((at, rules[0].cel));
        let mut object = machine(&format!("breach-{index}"));
        for (pointer, value) in changes {
            change(&mut object, pointer, value);
        }
        cases.push((format!("{}: {}", rules[0].field, rules[0].message), object));
    }
    assert_eq!(covered.len(), MACHINE.len(), "each rule has a breach");
    let objects: Vec<_> = cases.iter().map(|(_, object)| object.clone()).collect();
    let refused = refusals("baseline", &objects);
    for (message, object) in cases {
        let name = object["metadata"]["name"].as_str().unwrap();
        let error = refused.get(name).map_or("nothing", String::as_str);
        assert!(
            error.contains(&message),
            "{message} is not said of {object}: {error}"
        );
    }
}

#[test]
#[ignore = "needs an API server: cargo xtask test cluster"]
fn names_and_pools_are_judged() {
    set_up();
    let long = "a".repeat(60);
    let mut unlike = pool("unlike");
    unlike["spec"]["virtualMachineTemplate"]["metadata"]["labels"]["app"] = json!("other");
    let mut empty = pool("empty");
    empty["spec"]["selector"] = json!({});
    let mut stuck = pool("stuck");
    stuck["spec"]["updateStrategy"] =
        json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": "0%" } });
    let mut within = pool("within");
    within["spec"]["virtualMachineTemplate"]["spec"]["running"] = json!(true);
    let objects = [
        machine(&long),
        machine("dots.in.it"),
        pool(&long[..45]),
        unlike,
        empty,
        stuck,
        within,
    ];
    let mut objects = objects.to_vec();
    // Without cloud-init, keys let in root.
    let mut keys = machine("keys");
    keys["spec"]["template"]["spec"]["accessCredentials"] = json!([{ "sshPublicKey": {
        "source": { "secret": { "secretName": "a" } }, "propagationMethod": { "noCloud": {} },
    } }]);
    objects.extend([machine("good"), pool("well"), keys]);
    let refused = refusals("baseline", &objects);
    let says = |name: &str, text: &str| {
        let error = refused.get(name).map_or("nothing", String::as_str);
        assert!(error.contains(text), "{name}: {error}");
    };
    says(&long, MACHINE_NAME.message);
    says("dots.in.it", MACHINE_NAME.message);
    says(&long[..45], POOL_NAME.message);
    says("unlike", "must have the labels of selector");
    says("empty", "matchLabels is empty");
    says("stuck", "not both it and maxSurge are 0");
    says("within", "set exactly one of runStrategy and running");
    assert_eq!(refused.len(), 7, "{refused:?}");
    assert_eq!(POOL.len(), 4);
    // The fourth rule is about changes.
    done(
        &["apply", "--server-side", "-n", "baseline", "-f", "-"],
        &pool("kept").to_string(),
    );
    let patch = r#"{"spec":{"selector":{"matchLabels":{"app":"b"}}}}"#;
    let change = [
        "patch",
        "bvmpool",
        "kept",
        "-n",
        "baseline",
        "--type=merge",
        "-p",
        patch,
    ];
    let output = kubectl(&change, "");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("selector: cannot be changed"), "{error}");
    let scale = ["scale", "bvmpool/kept", "-n", "baseline", "--replicas=3"];
    done(&scale, "");
    let get = [
        "get",
        "bvmpool/kept",
        "-n",
        "baseline",
        "-o",
        "jsonpath={.spec.replicas}",
    ];
    assert_eq!(done(&get, "").0, "3");
}

/// A machine with a field set.
fn with_field(name: &str, path: &str, value: &Value) -> Value {
    let mut object = machine(name);
    let spec = &mut object["spec"];
    spec["template"]["spec"]["accessCredentials"] = Value::Null;
    let mut at = spec;
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        let list = part.ends_with("[]");
        at = &mut at[part.trim_end_matches("[]")];
        if list {
            if at.is_null() {
                *at = json!([{}]);
            }
            at = &mut at[0];
        }
    }
    at[last] = value.clone();
    // Keys come from somewhere: without it the rules are not looked at.
    let keys = "/spec/template/spec/accessCredentials/0/sshPublicKey";
    if let Some(keys) = object.pointer_mut(keys).filter(|_| last != "sshPublicKey") {
        keys["source"] = json!({ "secret": { "secretName": "a" } });
    }
    let spec = object.pointer_mut("/spec/template/spec").unwrap();
    if spec["accessCredentials"].is_null() {
        spec.as_object_mut().unwrap().remove("accessCredentials");
    }
    object
}

/// A value of a field that counts.
fn value_of(kind: Kind, when: When) -> Value {
    match (kind, when) {
        (_, When::True) => json!(true),
        (_, When::False) => json!(false),
        (Kind::Object | Kind::Declared, When::Set) => json!({}),
        (Kind::List, _) => json!([{ "name": "a", "any": { "thing": 1 } }]),
        (_, When::Above(number)) => json!(number + 1),
        (Kind::Integer, _) => json!(1),
        _ => json!("other"),
    }
}

#[test]
#[ignore = "needs an API server: cargo xtask test cluster"]
fn every_field_that_is_not_supported_is_refused_with_its_reason() {
    set_up();
    let refused: Vec<_> = FIELDS.iter().filter(|f| f.fate == Fate::Refused).collect();
    let objects: Vec<_> = (refused.iter().enumerate())
        .map(|(index, field)| {
            let value = value_of(field.kind, field.when);
            with_field(&format!("refused-{index}"), field.path, &value)
        })
        .collect();
    let errors = refusals("baseline", &objects);
    for (index, field) in refused.iter().enumerate() {
        let error = errors
            .get(&format!("refused-{index}"))
            .map_or("nothing", String::as_str);
        let (_, name) = field.path.rsplit_once('.').unwrap_or(("", field.path));
        let words = format!("{name}: not supported: {}", field.why);
        assert!(error.contains(&words), "{}: {error}", field.path);
    }
}

#[test]
#[ignore = "needs an API server: cargo xtask test cluster"]
fn fields_without_effect_are_stored_and_defaults_filled_in() {
    set_up();
    let mut object = machine("stored");
    let spec = object.pointer_mut("/spec/template/spec").unwrap();
    spec["domain"]["machine"] = json!({ "type": "q35" });
    spec["domain"]["features"] = json!({ "hyperv": { "relaxed": {} } });
    spec["domain"]["devices"]["disks"][0]["cache"] = json!("none");
    spec["domain"]["resources"] = json!({ "requests": { "cpu": "2", "memory": "64M" } });
    spec["readinessProbe"] = json!({ "tcpSocket": { "port": "http" } });
    let create = [
        "create",
        "--dry-run=server",
        "-o",
        "json",
        "-n",
        "baseline",
        "-f",
        "-",
    ];
    let (out, warnings) = done(&create, &object.to_string());
    assert_eq!(warnings, "");
    let stored: Value = serde_json::from_str(&out).unwrap();
    let spec = &stored["spec"]["template"]["spec"];
    assert_eq!(spec["domain"]["machine"]["type"], "q35");
    assert_eq!(
        spec["domain"]["features"]["hyperv"],
        json!({ "relaxed": {} })
    );
    assert_eq!(spec["domain"]["devices"]["disks"][0]["cache"], "none");
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    let probe = &spec["readinessProbe"];
    let numbers = [
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    assert_eq!(
        numbers.map(|name| probe[name].as_i64().unwrap()),
        [1, 10, 1, 3]
    );
    // What was stored is understood, and is stored again unchanged.
    let vm: VirtualMachine = serde_json::from_value(stored.clone()).unwrap();
    assert_eq!(serde_json::to_value(&vm.spec).unwrap(), stored["spec"]);
}

#[test]
#[ignore = "needs an API server: cargo xtask test cluster"]
fn converted_manifests_and_their_pods_are_admitted() {
    set_up();
    let folder = workspace().join("testdata/manifests");
    let (mut objects, mut pods) = (Vec::new(), Vec::new());
    let launcher = Launcher {
        image: "registry.example.com/bootwright:1".into(),
        emulation: false,
        user_namespaces: true,
        metrics_port: Some(9478),
        image_volumes: true,
    };
    let claims: BTreeMap<_, _> = [("web-data".to_owned(), VolumeMode::Block)].into();
    let mut add = |object: Value, namespace: &str| {
        let mut vm: VirtualMachine = serde_json::from_value(object).unwrap();
        vm.metadata.namespace = Some(namespace.into());
        vm.metadata.uid = Some("4b8f6a52-91d2-4c67-a7d5-0d4d4f8c2b11".into());
        pods.push((
            namespace.to_owned(),
            pod::pod(&vm, &launcher, &claims).unwrap(),
        ));
    };
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for object in convert::read(&fs::read_to_string(&path).unwrap()).unwrap() {
            let converted = convert::convert(&object);
            let mut object = converted.object.clone();
            if object["apiVersion"] != "bootwright.dev/v1alpha1" || converted.is_lossy() {
                continue;
            }
            object["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("namespace");
            if object["kind"] == "VirtualMachine" {
                add(object.clone(), "restricted");
            }
            objects.push(object);
        }
    }
    add(machine("image"), "baseline");
    assert!(objects.len() >= 40, "{} objects", objects.len());
    assert_eq!(refusals("restricted", &objects), BTreeMap::new());
    for namespace in ["restricted", "baseline"] {
        let of: Vec<_> = (pods.iter().filter(|(its, _)| its == namespace))
            .map(|(_, pod)| {
                let mut pod = serde_json::to_value(pod).unwrap();
                pod["apiVersion"] = json!("v1");
                pod["kind"] = json!("Pod");
                pod
            })
            .collect();
        assert_eq!(refusals(namespace, &of), BTreeMap::new(), "{namespace}");
    }
}
