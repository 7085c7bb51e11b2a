//! Which fields of an object a schema has.

use serde_json::Value;

use crate::api::crd::{self, CrdError};

/// The schema of a machine's spec.
///
/// # Errors
/// If there is no definition of it.
pub(super) fn machine() -> Result<Value, CrdError> {
    crd::machine_spec()
}

/// The paths of all fields of `value` that `schema` does not have.
pub(super) fn unknown(value: &Value, schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    visit(value, schema, String::new(), &mut found);
    found
}

fn visit(value: &Value, schema: &Value, at: String, found: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(item, &schema["items"], format!("{at}[{index}]"), found);
            }
        }
        Value::Object(fields) => {
            let dot = if at.is_empty() { "" } else { "." };
            for (name, field) in fields {
                let here = format!("{at}{dot}{name}");
                if let Some(schema) = schema["properties"].get(name) {
                    visit(field, schema, here, found);
                } else if schema["additionalProperties"].is_null() {
                    found.push(here);
                }
            }
        }
        _ => {}
    }
}
