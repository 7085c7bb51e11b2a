//! The definitions that a cluster's API server enforces.
//!
//! In: the types, the rules of [`super::rules`] and the fields of
//! [`crate::fields`]. Out: a `CustomResourceDefinition` as YAML. Nothing is
//! read or written.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use super::rules::{self, Rule};
use super::{VirtualMachine, VirtualMachinePool};
use crate::fields::{FIELDS, Fate, Field, Kind};

/// A definition cannot be made: the tables do not fit the types.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A table names a field that is not there.
    #[error("{definition} has no field {path}")]
    NoSuchField {
        /// The definition's name.
        definition: &'static str,
        /// The path that leads nowhere.
        path: String,
    },
    /// A table declares a field that the types have already.
    #[error("{definition} has field {path} already")]
    FieldTwice {
        /// The definition's name.
        definition: &'static str,
        /// The field's path.
        path: String,
    },
    /// The definition cannot be written as JSON or YAML.
    #[error("cannot write {definition}: {reason}")]
    Write {
        /// The definition's name.
        definition: &'static str,
        /// Why not.
        reason: String,
    },
}

/// All definitions, by the name of the file that they are kept in.
///
/// # Errors
/// If the tables of rules and fields do not fit the types.
pub fn all() -> Result<Vec<(&'static str, String)>, CrdError> {
    Ok(vec![
        ("virtualmachines.yaml", machine()?.yaml()?),
        ("virtualmachinepools.yaml", pool()?.yaml()?),
    ])
}

/// The schema of the spec of a `VirtualMachine`.
///
/// # Errors
/// If the tables of rules and fields do not fit the types.
pub(crate) fn machine_spec() -> Result<Value, CrdError> {
    Ok(machine()?.schema(&["spec"], "")?.take())
}

/// A definition in the making.
struct Definition {
    name: &'static str,
    json: Value,
}

fn machine() -> Result<Definition, CrdError> {
    let mut definition = Definition::of("VirtualMachine", &VirtualMachine::crd())?;
    definition.add_rules(&[], &[rules::MACHINE_NAME])?;
    definition.add_fields(&["spec"])?;
    definition.add_rules(&["spec"], rules::MACHINE)?;
    Ok(definition)
}

fn pool() -> Result<Definition, CrdError> {
    let mut definition = Definition::of("VirtualMachinePool", &VirtualMachinePool::crd())?;
    let template = ["spec", "virtualMachineTemplate", "spec"];
    definition.add_rules(&[], &[rules::POOL_NAME])?;
    definition.add_fields(&template)?;
    definition.add_rules(&template, rules::MACHINE)?;
    definition.add_rules(&["spec"], rules::POOL)?;
    Ok(definition)
}

impl Definition {
    fn of(name: &'static str, crd: &CustomResourceDefinition) -> Result<Self, CrdError> {
        match serde_json::to_value(crd) {
            Ok(mut json) => {
                forget_formats(&mut json);
                Ok(Self { name, json })
            }
            Err(error) => Err(CrdError::Write {
                definition: name,
                reason: error.to_string(),
            }),
        }
    }

    /// The schema at the path `below` the fields `root`.
    fn schema(&mut self, root: &[&str], below: &str) -> Result<&mut Value, CrdError> {
        let missing = CrdError::NoSuchField {
            definition: self.name,
            path: format!("{}.{below}", root.join(".")),
        };
        let mut schema = self
            .json
            .pointer_mut("/spec/versions/0/schema/openAPIV3Schema");
        let parts = below.split('.').filter(|part| !part.is_empty());
        for part in root.iter().copied().chain(parts) {
            let (name, list) = match part.strip_suffix("[]") {
                Some(name) => (name, true),
                None => (part, false),
            };
            schema = schema.and_then(|s| s.get_mut("properties")?.get_mut(name));
            if list {
                schema = schema.and_then(|s| s.get_mut("items"));
            }
        }
        schema.ok_or(missing)
    }

    fn add_rules(&mut self, root: &[&str], rules: &[Rule]) -> Result<(), CrdError> {
        for rule in rules {
            let entry = json!({
                "rule": rule.cel,
                "message": format!("{}: {}", rule.field, rule.message),
                "fieldPath": format!(".{}", rule.field),
            });
            // A breach can only be told at a field that the schema has.
            let within = self.schema(root, rule.at)?;
            let entry = match rule
                .field
                .split('.')
                .try_fold(&*within, |schema, name| schema.get("properties")?.get(name))
            {
                Some(_) => entry,
                None => without(entry, "fieldPath"),
            };
            add_rule(within, entry);
        }
        Ok(())
    }

    fn add_fields(&mut self, root: &[&str]) -> Result<(), CrdError> {
        for field in FIELDS {
            let (parent, name) = field.path.rsplit_once('.').unwrap_or(("", field.path));
            let twice = CrdError::FieldTwice {
                definition: self.name,
                path: field.path.to_owned(),
            };
            let missing = CrdError::NoSuchField {
                definition: self.name,
                path: field.path.to_owned(),
            };
            let schema = self.schema(root, parent)?;
            if field.fate == Fate::Refused {
                let entry = json!({
                    "rule": field.when.admits(name),
                    "message": format!("{name}: not supported: {}", field.why),
                    "fieldPath": format!(".{name}"),
                });
                add_rule(schema, entry);
            }
            let Some(properties) = properties(schema) else {
                return Err(missing);
            };
            match (field.kind, properties.contains_key(name)) {
                (Kind::Declared, true) => {}
                (Kind::Declared, false) => return Err(missing),
                (_, true) => return Err(twice),
                (_, false) => {
                    properties.insert(name.to_owned(), schema_of(field));
                }
            }
        }
        Ok(())
    }

    fn yaml(&self) -> Result<String, CrdError> {
        let text = serde_saphyr::to_string(&self.json).map_err(|error| CrdError::Write {
            definition: self.name,
            reason: error.to_string(),
        })?;
        Ok(format!("# Made by `cargo xtask generate`.\n{text}"))
    }
}

/// Removes the formats of integers that OpenAPI does not know, of which API
/// servers complain.
fn forget_formats(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let known = object.get("format").and_then(Value::as_str);
            if known.is_some_and(|format| format.starts_with("uint")) {
                object.remove("format");
            }
            object.values_mut().for_each(forget_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_formats),
        _ => {}
    }
}

fn properties(schema: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    let object = schema.as_object_mut()?;
    object
        .entry("properties")
        .or_insert_with(|| json!({}))
        .as_object_mut()
}

fn without(mut entry: Value, key: &str) -> Value {
    if let Some(object) = entry.as_object_mut() {
        object.remove(key);
    }
    entry
}

fn add_rule(schema: &mut Value, entry: Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    let list = object
        .entry("x-kubernetes-validations")
        .or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.push(entry);
    }
}

/// The schema of a field that the types do not have.
fn schema_of(field: &Field) -> Value {
    let fate = match field.fate {
        Fate::Ignored => "Ignored",
        Fate::Refused => "Not supported",
    };
    let description = format!("{fate}: {}.", field.why);
    let opaque = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let mut schema = match field.kind {
        Kind::Object | Kind::Declared => opaque,
        Kind::List => json!({ "type": "array", "items": opaque, "maxItems": 256 }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Text => json!({ "type": "string", "maxLength": 256 }),
        Kind::Integer => json!({ "type": "integer" }),
    };
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), description.into());
        object.insert("nullable".to_owned(), true.into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_on_disk_are_those_of_the_types() {
        let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../templates/cluster/crds");
        for (name, text) in all().unwrap() {
            let path = format!("{kept}/{name}");
            let old = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                old == text,
                "{path} is out of date: run `cargo xtask generate`"
            );
        }
    }

    #[test]
    fn a_table_that_names_no_field_is_told() {
        let mut definition = machine().unwrap();
        let error = definition
            .schema(&["spec"], "template.nowhere")
            .unwrap_err();
        let error = error.to_string();
        assert_eq!(error, "VirtualMachine has no field spec.template.nowhere");
        let error = definition.add_fields(&["spec"]).unwrap_err().to_string();
        assert_eq!(error, "VirtualMachine has field instancetype already");
    }

    #[test]
    fn breaches_are_told_at_their_fields() {
        let mut definition = machine().unwrap();
        let cpu = definition.schema(&["spec"], "template.spec.domain.cpu");
        let rules = cpu.unwrap()["x-kubernetes-validations"].clone();
        let told: Vec<_> = (rules.as_array().unwrap().iter())
            .map(|rule| rule["fieldPath"].as_str().unwrap())
            .collect();
        assert!(told.contains(&".dedicatedCpuPlacement"), "{told:?}");
        assert!(told.contains(&".cores"), "{told:?}");
    }
}
