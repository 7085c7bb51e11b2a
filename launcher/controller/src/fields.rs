//! The fields of KubeVirt's schema that mean nothing here.
//!
//! A manifest may carry fields for which there is nothing in this system. The
//! ones whose loss leaves the machine what it is are kept and named in the
//! condition `FieldsIgnored`; the others are refused by the API server. In:
//! a spec as JSON. Out: a [`Finding`] for each such field that is set.

mod table;

use serde_json::Value;

pub use table::FIELDS;

/// A field, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its path from the spec of a `VirtualMachine`; `[]` is each of a list.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Which values count.
    pub when: When,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, or what is so instead.
    pub why: &'static str,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the types of [`crate::api`] say.
    Declared,
    /// An object that nobody looks into.
    Object,
    /// A list of such objects.
    List,
    /// A truth value.
    Bool,
    /// A text.
    Text,
    /// A whole number.
    Integer,
}

/// Which values of a field count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All.
    Set,
    /// True only.
    True,
    /// False only.
    False,
    /// Texts other than this one.
    Not(&'static str),
    /// Numbers above this one.
    Above(i64),
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The object is not admitted.
    Refused,
    /// It has no effect.
    Ignored,
}

/// A field that is set and means nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its path from the spec, with indices: `template.spec.volumes[1].hostDisk`.
    pub path: String,
    /// The field.
    pub field: &'static Field,
}

/// Finds the fields that mean nothing here in the spec of a `VirtualMachine`,
/// in the order of [`FIELDS`].
pub fn review(spec: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for field in FIELDS {
        visit(spec, field.path, String::new(), &mut |path, value| {
            if field.when.holds(value) {
                findings.push(Finding { path, field });
            }
        });
    }
    findings
}

/// Calls `found` for every value at `path` below `value`.
fn visit(value: &Value, path: &str, at: String, found: &mut impl FnMut(String, &Value)) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let name = first.trim_end_matches("[]");
    let Some(child) = value.get(name) else { return };
    let dot = if at.is_empty() { "" } else { "." };
    let here = format!("{at}{dot}{name}");
    match (rest, child) {
        (None, child) => found(here, child),
        (Some(rest), Value::Array(items)) if first.ends_with("[]") => {
            for (index, item) in items.iter().enumerate() {
                visit(item, rest, format!("{here}[{index}]"), found);
            }
        }
        (Some(rest), child) => visit(child, rest, here, found),
    }
}

impl When {
    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) => false,
            (Self::Set, Value::Array(items)) => !items.is_empty(),
            (Self::Set, _) => true,
            (Self::True, value) => *value == Value::Bool(true),
            (Self::False, value) => *value == Value::Bool(false),
            (Self::Not(text), value) => value.as_str() != Some(text),
            (Self::Above(number), value) => value.as_i64().is_some_and(|v| v > number),
        }
    }

    /// The condition in CEL under which a field named `name` of `self` does
    /// not count.
    pub(crate) fn admits(self, name: &str) -> String {
        match self {
            Self::Set => format!("!has(self.{name})"),
            Self::True => format!("!has(self.{name}) || !self.{name}"),
            Self::False => format!("!has(self.{name}) || self.{name}"),
            Self::Not(text) => format!("!has(self.{name}) || self.{name} == '{text}'"),
            Self::Above(number) => format!("!has(self.{name}) || self.{name} <= {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_is_in_the_table_once() {
        let paths: BTreeSet<_> = FIELDS.iter().map(|f| f.path).collect();
        assert_eq!(paths.len(), FIELDS.len());
    }

    #[test]
    fn fields_are_found_where_they_are_and_named_with_indices() {
        let spec = json!({
            "template": { "spec": {
                "domain": { "devices": {
                    "disks": [
                        { "name": "a", "disk": { "bus": "virtio" } },
                        { "name": "b", "cache": "none", "disk": { "bus": "sata" } },
                    ],
                    "gpus": [{ "name": "g" }],
                    "useVirtioTransitional": false,
                } },
                "volumes": [{ "name": "b", "hostDisk": { "path": "/" } }],
            } },
        });
        let found: Vec<_> = (review(&spec).into_iter())
            .map(|f| (f.path, f.field.fate))
            .collect();
        let expected = [
            ("template.spec.domain.devices.gpus", Fate::Refused),
            (
                "template.spec.domain.devices.disks[1].disk.bus",
                Fate::Ignored,
            ),
            ("template.spec.domain.devices.disks[1].cache", Fate::Ignored),
            ("template.spec.volumes[0].hostDisk", Fate::Refused),
        ];
        for (path, fate) in expected {
            assert!(
                found.contains(&(path.to_owned(), fate)),
                "{path}: {found:?}"
            );
        }
        assert_eq!(found.len(), expected.len(), "{found:?}");
    }

    #[test]
    fn what_is_absent_empty_or_null_is_not_found() {
        let devices = json!({ "gpus": [], "watchdog": null, "tpm": null });
        let spec = json!({ "template": { "spec": { "domain": { "devices": devices } } } });
        assert_eq!(review(&spec), []);
        assert_eq!(review(&Value::Null), []);
        assert_eq!(review(&json!({ "template": [1, 2] })), []);
    }
}
