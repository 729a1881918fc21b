//! What a definition publishes of a version: its schema as upstream words it in
//! either style of OpenAPI (`apiextensions-apiserver/pkg/controller/openapi/builder`,
//! 1.36). Checks no schema: that happened when the definition was written.

use serde_json::{Map, Value, json};

use super::custom::METADATA;
use super::definitions::Style;

/// Nesting that is followed; a deeper schema was refused as a body.
const DEPTH: usize = 128;

/// The schema of one served version of a custom kind.
#[derive(Debug)]
pub struct Published {
    schema: Value,
    selectable: Vec<String>,
    digest: String,
}

impl Published {
    /// Takes an `openAPIV3Schema` and the paths of selectable fields, without
    /// their leading dot.
    pub fn new(schema: Value, selectable: Vec<String>) -> Self {
        let text = format!("{selectable:?}{schema}");
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let digest = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { schema, selectable, digest }
    }

    /// The `openAPIV3Schema` as it was written.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Changes whenever what is published does. Lower-case hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// `x-kubernetes-selectable-fields`, if there are any.
    pub(super) fn selectable(&self) -> Option<Value> {
        let fields: Vec<Value> = self.selectable.iter().map(|path| json!({"fieldPath": path})).collect();
        (!fields.is_empty()).then(|| fields.into())
    }

    /// The schema without kind, version and metadata of its root. `None` where
    /// nothing may be said of fields, or clients would refuse unknown ones.
    pub(super) fn object(&self, style: Style, meta: &Value) -> Option<Map<String, Value>> {
        if style == Style::V2 && self.schema["x-kubernetes-preserve-unknown-fields"] == true {
            return None;
        }
        Some(Publisher { style, meta }.structural(&self.schema, 0))
    }
}

struct Publisher<'a> {
    style: Style,
    /// Reference to the metadata of objects.
    meta: &'a Value,
}

impl Publisher<'_> {
    fn structural(&self, schema: &Value, depth: usize) -> Map<String, Value> {
        let mut out = self.plain(schema, depth);
        let is = |key: &str| schema[key] == true;
        if is("x-kubernetes-int-or-string") && self.style == Style::V3 {
            int_or_string(&mut out);
        }
        let unknown = is("x-kubernetes-preserve-unknown-fields");
        if self.style == Style::V2 {
            self.for_v2(schema, unknown, &mut out);
        }
        if is("x-kubernetes-embedded-resource") && !(unknown && self.style == Style::V2) {
            self.embedded(&mut out);
        }
        out
    }

    /// The words that both styles know.
    fn plain(&self, schema: &Value, depth: usize) -> Map<String, Value> {
        let mut out = Map::new();
        let Some(map) = schema.as_object().filter(|_| depth < DEPTH) else { return out };
        for (key, value) in map {
            let value = match key.as_str() {
                "properties" => {
                    let properties = value.as_object().into_iter().flatten();
                    let of = |(name, one): (&String, &Value)| (name.clone(), self.structural(one, depth + 1).into());
                    Value::Object(properties.map(of).collect())
                }
                "items" => self.structural(value, depth + 1).into(),
                "additionalProperties" if value.is_object() => self.structural(value, depth + 1).into(),
                "allOf" | "anyOf" | "oneOf" if self.style == Style::V3 => {
                    let nested = value.as_array().into_iter().flatten();
                    nested.map(|one| Value::Object(self.plain(one, depth + 1))).collect()
                }
                "not" if self.style == Style::V3 => self.plain(value, depth + 1).into(),
                "allOf" | "anyOf" | "oneOf" | "not" => continue,
                // Version 2 says no defaults: clients took them for their own.
                "default" if self.style == Style::V2 => continue,
                "x-kubernetes-validations" => validations(value),
                _ => value.clone(),
            };
            if !is_zero(key, &value) {
                out.insert(key.clone(), value);
            }
        }
        out
    }

    /// What version 2, and kubectl reading it, cannot take.
    fn for_v2(&self, schema: &Value, unknown: bool, out: &mut Map<String, Value>) {
        let nullable = schema["nullable"] == true;
        out.remove("nullable");
        if nullable || unknown {
            out.remove("items");
            out.remove("properties");
        }
        let kind = out.get("type").and_then(Value::as_str).unwrap_or_default();
        if nullable || (kind == "array" && !out.contains_key("items")) || (unknown && kind == "object") {
            out.remove("type");
        }
        let drop_all = schema["additionalProperties"]["nullable"] == true;
        if let Some(Value::Array(required)) = out.get_mut("required") {
            let nullable = |name: &str| !nullable && !unknown && schema["properties"][name]["nullable"] == true;
            required.retain(|name| !drop_all && !nullable(name.as_str().unwrap_or_default()));
            if required.is_empty() {
                out.remove("required");
            }
        }
    }

    /// An object within an object has kind, version and metadata.
    fn embedded(&self, out: &mut Map<String, Value>) {
        let properties = out.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = json!({"type": "string", "description": EMBEDDED_API_VERSION});
        properties["kind"] = json!({"type": "string", "description": EMBEDDED_KIND});
        let mut meta = self.meta.clone();
        meta["description"] = METADATA.into();
        properties["metadata"] = meta;
        if let Value::Array(required) = out.entry("required").or_insert_with(|| json!([])) {
            for name in ["kind", "apiVersion"] {
                if !required.iter().any(|one| one == name) {
                    required.push(name.into());
                }
            }
        }
    }
}

/// Says in plain words that the value is an integer or a text, unless the
/// author has done so.
fn int_or_string(out: &mut Map<String, Value>) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let first = out.get("allOf").and_then(|all| all.get(0));
    if out.get("anyOf") == Some(&either) || first.is_some_and(|first| first.get("anyOf") == Some(&either)) {
        return;
    }
    if !out.contains_key("anyOf") {
        out.insert("anyOf".to_owned(), either);
        return;
    }
    if let Value::Array(all) = out.entry("allOf").or_insert_with(|| json!([])) {
        all.insert(0, json!({"anyOf": either}));
    }
}

/// Rules without their empty fields.
fn validations(rules: &Value) -> Value {
    let one = |rule: &Value| -> Value {
        let fields = rule.as_object().into_iter().flatten().filter(|(name, value)| {
            name.as_str() == "rule" || !(value.is_null() || **value == "" || **value == Value::Bool(false))
        });
        Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    rules.as_array().into_iter().flatten().map(one).collect()
}

/// Values that upstream's encoder leaves out.
fn is_zero(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => key != "default",
        Value::Bool(on) => !on && !matches!(key, "default" | "example" | "additionalProperties"),
        Value::String(text) => text.is_empty() && !matches!(key, "default" | "example"),
        Value::Array(items) => items.is_empty() && !matches!(key, "default" | "example" | "enum"),
        Value::Object(map) => map.is_empty() && key == "properties",
        Value::Number(_) => false,
    }
}

const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
