//! Schemas of types that are not ours.

use schemars::{Schema, SchemaGenerator, json_schema};

/// What an amount may look like: digits, then a unit. Negative amounts have no
/// meaning in this API.
const AMOUNT: &str = r"^[0-9]+(\.[0-9]*)?(m|[kMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$";

/// The longest amount.
const AMOUNT_LENGTH: u32 = 32;

/// An amount such as `2Gi`, `500m` or 4.
pub(super) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": AMOUNT,
        "maxLength": AMOUNT_LENGTH,
    })
}

/// Amounts by the name of a resource.
pub(super) fn quantities(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": quantity(generator),
    })
}

/// A port's number or name.
pub(super) fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

/// Labels or annotations.
pub(super) fn strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": { "type": "string" },
    })
}

/// A number of machines, or a percentage.
pub(super) fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": "^[0-9]{1,3}%$",
        "minimum": 0,
    })
}
