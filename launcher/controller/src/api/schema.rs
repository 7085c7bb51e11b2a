//! Schemas of types that are not ours.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::{JsonSchema as _, Schema, SchemaGenerator, json_schema};

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

/// The longest value of a label, of Kubernetes' own.
const LABEL_LENGTH: u32 = 63;

/// Labels. The limits let the API server foresee what the rules cost.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 128,
        "additionalProperties": { "type": "string", "maxLength": LABEL_LENGTH },
    })
}

/// A selector, of at most 16 labels by value.
pub(super) fn selector(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = LabelSelector::json_schema(generator);
    if let Some(by_value) = schema.pointer_mut("/properties/matchLabels") {
        by_value["maxProperties"] = 16.into();
        by_value["additionalProperties"]["maxLength"] = LABEL_LENGTH.into();
    }
    schema
}

/// Texts by name.
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
