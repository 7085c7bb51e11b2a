//! From KubeVirt's manifests to ours.
//!
//! In: one object as JSON. Out: the object as it is applied here, and what
//! does not carry over, with its path and the reason. Objects of other API
//! groups are left as they are.

mod schema;

use serde_json::{Map, Value, json};

use crate::api::{GROUP, VERSION, VirtualMachine, VirtualMachinePoolSpec, VirtualMachineSpec};
use crate::fields::{self, Fate, Kind};
use crate::pod::{self, Launcher, VolumeMode};

/// An object and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The object as it is applied here.
    pub object: Value,
    /// What does not carry over.
    pub notes: Vec<Note>,
}

/// A field that does not carry over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its path in the manifest; empty for the whole object.
    pub path: String,
    /// How much that matters.
    pub weight: Weight,
    /// Why, or what is so instead.
    pub why: String,
}

/// How much it matters that a field does not carry over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The machine would be another one without it.
    Lost,
    /// The machine is the same without it.
    Ignored,
}

impl Converted {
    /// Whether the machine would be another one.
    pub fn is_lossy(&self) -> bool {
        self.notes.iter().any(|note| note.weight == Weight::Lost)
    }

    fn lost(&mut self, path: impl Into<String>, why: impl Into<String>) {
        self.note(path, Weight::Lost, why);
    }

    fn note(&mut self, path: impl Into<String>, weight: Weight, why: impl Into<String>) {
        self.notes.push(Note {
            path: path.into(),
            weight,
            why: why.into(),
        });
    }
}

/// A text that holds no objects.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

/// Reads the objects of a manifest, YAML or JSON, and those of lists in it.
/// Empty documents are left out.
///
/// # Errors
/// If the text is not YAML, or a document is no object.
pub fn read(text: &str) -> Result<Vec<Value>, ManifestError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| ManifestError(error.to_string()))?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
                match list.remove("items") {
                    Some(Value::Array(items)) => objects.extend(items),
                    _ => return Err(ManifestError("a List has no items".into())),
                }
            }
            Value::Object(object) => objects.push(Value::Object(object)),
            _ => return Err(ManifestError("a document is no object".into())),
        }
    }
    Ok(objects)
}

/// Objects as YAML, each a document.
///
/// # Errors
/// If one cannot be written.
pub fn write(objects: &[Value]) -> Result<String, ManifestError> {
    let mut text = String::new();
    for object in objects {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        let yaml = serde_saphyr::to_string(object);
        text.push_str(&yaml.map_err(|error| ManifestError(error.to_string()))?);
    }
    Ok(text)
}

/// Metadata that the API server sets, and no manifest.
const SET_BY_THE_SERVER: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Converts an object.
pub fn convert(object: &Value) -> Converted {
    let mut converted = Converted {
        object: object.clone(),
        notes: Vec::new(),
    };
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or("");
    let (group, _) = text("apiVersion").split_once('/').unwrap_or(("", ""));
    match (group, text("kind")) {
        ("kubevirt.io", "VirtualMachine") => machine(&mut converted),
        ("kubevirt.io", "VirtualMachineInstance") => instance(&mut converted),
        ("kubevirt.io", "VirtualMachineInstanceReplicaSet") => replica_set(&mut converted),
        ("pool.kubevirt.io", "VirtualMachinePool") => pool(&mut converted),
        (group, kind) if group == "kubevirt.io" || group.ends_with(".kubevirt.io") => {
            converted.lost("", format!("there is no counterpart of {group} {kind}"));
        }
        _ => {}
    }
    converted
}

fn machine(converted: &mut Converted) {
    let mut spec = take(converted, "spec");
    clean(converted, &mut spec, &[]);
    finish(converted, "VirtualMachine", spec);
    check_machine(converted);
}

/// An instance runs once, and so does the machine that it becomes.
fn instance(converted: &mut Converted) {
    let labels = converted.object.pointer("/metadata/labels").cloned();
    let spec = take(converted, "spec");
    let mut template = json!({ "spec": spec });
    if let Some(labels) = labels {
        template["metadata"] = json!({ "labels": labels });
    }
    let mut spec = json!({ "runStrategy": "Once", "template": template });
    clean(converted, &mut spec, &[]);
    for note in &mut converted.notes {
        note.path = note.path.replacen("spec.template.spec", "spec", 1);
    }
    finish(converted, "VirtualMachine", spec);
    check_machine(converted);
}

fn replica_set(converted: &mut Converted) {
    let mut old = take(converted, "spec");
    let template = old.get_mut("template").map(Value::take);
    let mut template = (template.filter(Value::is_object)).unwrap_or_else(|| json!({}));
    let metadata = template.get("metadata").cloned().unwrap_or(json!({}));
    template["metadata"] = metadata.clone();
    let mut spec = json!({
        "virtualMachineTemplate": {
            "metadata": metadata,
            "spec": { "runStrategy": "Always", "template": template },
        },
    });
    move_fields(
        converted,
        &old,
        &mut spec,
        &["replicas", "selector", "paused"],
        &["template"],
    );
    clean(
        converted,
        &mut spec["virtualMachineTemplate"]["spec"],
        &["virtualMachineTemplate", "spec"],
    );
    finish(converted, "VirtualMachinePool", spec);
    check_pool(converted);
}

fn pool(converted: &mut Converted) {
    let old = take(converted, "spec");
    let mut spec = json!({});
    let same = ["replicas", "selector", "paused", "virtualMachineTemplate"];
    move_fields(converted, &old, &mut spec, &same, &["maxUnavailable"]);
    if let Some(count) = old.get("maxUnavailable") {
        spec["updateStrategy"] = json!({ "rollingUpdate": { "maxUnavailable": count } });
    }
    if let Some(machine) = spec.pointer_mut("/virtualMachineTemplate/spec") {
        let mut machine = machine.take();
        clean(converted, &mut machine, &["virtualMachineTemplate", "spec"]);
        spec["virtualMachineTemplate"]["spec"] = machine;
    }
    finish(converted, "VirtualMachinePool", spec);
    check_pool(converted);
}

/// Moves the fields of an old spec that a new one has too, and names those
/// that it does not have.
fn move_fields(
    converted: &mut Converted,
    old: &Value,
    new: &mut Value,
    same: &[&str],
    done: &[&str],
) {
    for (name, value) in old.as_object().into_iter().flatten() {
        if same.contains(&name.as_str()) {
            new[name] = value.clone();
        } else if !done.contains(&name.as_str()) {
            converted.note(
                format!("spec.{name}"),
                Weight::Ignored,
                "a pool has no such field",
            );
        }
    }
}

fn take(converted: &mut Converted, name: &str) -> Value {
    (converted.object.get_mut(name)).map_or_else(|| json!({}), Value::take)
}

/// Removes what means nothing here from the spec of a machine, and names it.
fn clean(converted: &mut Converted, spec: &mut Value, below: &[&str]) {
    let prefix: String = (std::iter::once("spec").chain(below.iter().copied()))
        .map(|name| format!("{name}."))
        .collect();
    if let Some(metadata) = spec.pointer_mut("/template/metadata") {
        forget_server_fields(metadata);
    }
    for finding in fields::review(spec) {
        let weight = match finding.field.fate {
            Fate::Refused => Weight::Lost,
            Fate::Ignored => Weight::Ignored,
        };
        converted.note(
            format!("{prefix}{}", finding.path),
            weight,
            finding.field.why,
        );
        // Declared fields are understood: a cdrom is not written.
        if finding.field.kind != Kind::Declared {
            remove(spec, &finding.path);
        }
    }
    match schema::machine() {
        Ok(schema) => {
            for path in schema::unknown(spec, &schema) {
                converted.lost(format!("{prefix}{path}"), "there is no such field");
                remove(spec, &path);
            }
        }
        Err(error) => converted.lost("spec", error.to_string()),
    }
}

/// Removes a value by a path as [`fields::review`] writes them.
fn remove(value: &mut Value, path: &str) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let (name, index) = match first.split_once('[') {
        Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (first, None),
    };
    match (rest, index) {
        (Some(rest), None) => {
            if let Some(child) = value.get_mut(name) {
                remove(child, rest);
            }
        }
        (Some(rest), Some(index)) => {
            if let Some(child) = value.get_mut(name).and_then(|list| list.get_mut(index)) {
                remove(child, rest);
            }
        }
        (None, _) => {
            if let Some(object) = value.as_object_mut() {
                object.remove(name);
            }
        }
    }
}

fn forget_server_fields(metadata: &mut Value) {
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    for name in SET_BY_THE_SERVER {
        metadata.remove(*name);
    }
}

/// Puts the object together again.
fn finish(converted: &mut Converted, kind: &str, spec: Value) {
    let mut metadata = take(converted, "metadata");
    forget_server_fields(&mut metadata);
    if metadata.get("finalizers").is_some() {
        remove(&mut metadata, "finalizers");
        let why = "KubeVirt's own";
        converted.note("metadata.finalizers", Weight::Ignored, why);
    }
    if let Some(annotations) = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.retain(|name, _| {
            let owner = name.split_once('/').map_or("", |(owner, _)| owner);
            let theirs = owner == "kubevirt.io" || owner.ends_with(".kubevirt.io");
            !theirs && name != "kubectl.kubernetes.io/last-applied-configuration"
        });
        if annotations.is_empty() {
            remove(&mut metadata, "annotations");
        }
    }
    let mut object = Map::new();
    object.insert("apiVersion".into(), format!("{GROUP}/{VERSION}").into());
    object.insert("kind".into(), kind.into());
    object.insert("metadata".into(), metadata);
    object.insert("spec".into(), spec);
    converted.object = Value::Object(object);
}

/// Reads the spec as our own, and makes its pod, for what the schema does not
/// tell.
fn check_machine(converted: &mut Converted) {
    match serde_json::from_value::<VirtualMachineSpec>(converted.object["spec"].clone()) {
        Ok(spec) => check(converted, "spec", spec),
        Err(error) => converted.lost("spec", error.to_string()),
    }
}

fn check_pool(converted: &mut Converted) {
    match serde_json::from_value::<VirtualMachinePoolSpec>(converted.object["spec"].clone()) {
        Ok(spec) => {
            let machine = spec.virtual_machine_template.spec;
            check(converted, "spec.virtualMachineTemplate.spec", machine);
        }
        Err(error) => converted.lost("spec", error.to_string()),
    }
}

fn check(converted: &mut Converted, at: &str, spec: VirtualMachineSpec) {
    // What was lost explains most of what is wrong with the rest.
    if converted.is_lossy() {
        return;
    }
    if spec.run_strategy.is_some() == spec.running.is_some() {
        let why = "set exactly one of runStrategy and running";
        converted.lost(format!("{at}.runStrategy"), why);
    }
    let claims = claims(&spec);
    let mut machine = VirtualMachine::new("machine", spec);
    machine.metadata.namespace = Some("default".into());
    machine.metadata.uid = Some(String::new());
    let launcher = Launcher {
        image: String::new(),
        emulation: false,
        user_namespaces: true,
        metrics_port: None,
        image_volumes: true,
    };
    if let Err(error) = pod::pod(&machine, &launcher, &claims) {
        converted.lost(format!("{at}.template.spec"), error.to_string());
    }
}

/// The claims that a machine names, as if they were all there.
fn claims(spec: &VirtualMachineSpec) -> std::collections::BTreeMap<String, VolumeMode> {
    let names = pod::claims(&spec.template.spec).into_iter();
    names.map(|name| (name, VolumeMode::Filesystem)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_as_yaml_json_and_lists_and_written_back() {
        let text = "kind: A\n---\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n";
        let objects = read(text).unwrap();
        let kinds = [
            json!({"kind": "A"}),
            json!({"kind": "B"}),
            json!({"kind": "C"}),
        ];
        assert_eq!(objects, kinds);
        assert_eq!(read(&write(&objects).unwrap()).unwrap(), objects);
        assert_eq!(read("{\"kind\": \"A\"}").unwrap(), kinds[..1]);
        for text in ["- 1", "text", "kind: List", "a: [", "a: *b"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn objects_of_others_are_left_alone() {
        let service = json!({ "apiVersion": "v1", "kind": "Service", "status": {} });
        let converted = convert(&service);
        assert_eq!((converted.object, converted.notes), (service, vec![]));
    }

    #[test]
    fn what_has_no_counterpart_is_told() {
        let preset = json!({ "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt" });
        assert!(convert(&preset).is_lossy());
    }

    #[test]
    fn hostile_objects_are_told_and_do_not_panic() {
        let kinds = [
            "VirtualMachine",
            "VirtualMachineInstance",
            "VirtualMachineInstanceReplicaSet",
        ];
        let specs = [
            Value::Null,
            json!([]),
            json!("text"),
            json!({ "template": [1] }),
            json!({ "template": { "metadata": 3, "spec": { "volumes": {}, "domain": 1 } } }),
            json!({ "domain": { "devices": { "disks": [null, 3, { "cdrom": 1 }] } } }),
        ];
        for kind in kinds {
            for spec in &specs {
                let object = json!({ "apiVersion": "kubevirt.io/v1", "kind": kind, "spec": spec });
                assert!(convert(&object).is_lossy(), "{kind} {spec}");
            }
        }
        for spec in &specs {
            let pool = json!({
                "apiVersion": "pool.kubevirt.io/v1beta1",
                "kind": "VirtualMachinePool",
                "metadata": [],
                "spec": { "virtualMachineTemplate": spec },
            });
            assert!(convert(&pool).is_lossy(), "{spec}");
        }
        assert!(!convert(&Value::Null).is_lossy());
    }
}
