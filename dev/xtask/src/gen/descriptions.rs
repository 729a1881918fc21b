//! The texts of `kubectl explain`, one line each. Kept apart from the schemas,
//! because nothing but OpenAPI needs them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// A line `core.v1.Pod text` a type, then ` field text` for each of its fields.
pub(super) fn table(definitions: &BTreeMap<String, Value>) -> String {
    let mut out = String::from(super::HEADER);
    for (name, schema) in definitions {
        line(&mut out, &super::short_name(name), schema);
        let properties = schema.get("properties").and_then(Value::as_object);
        for (field, schema) in properties.into_iter().flatten() {
            line(&mut out, &format!(" {field}"), schema);
        }
    }
    out
}

fn line(out: &mut String, name: &str, schema: &Value) {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    writeln!(out, "{name} {text}").expect("writing to a String cannot fail");
}
