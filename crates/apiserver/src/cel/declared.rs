//! Structural schemas as types, and values that conform to them
//! (`apiserver/pkg/cel/common`, 1.36). Decides nothing about rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::Value;

use super::library;
use super::types::{Object, Type};
use super::value::{Items, Key, Order, Val};

/// Nesting that is declared.
const DEPTH: usize = 64;

/// Words that cannot name a field.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name under which expressions know a field; `None` if they cannot.
pub(crate) fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

/// The type of values of a schema; `None` where expressions cannot see them.
/// `root`: the schema is that of an object with kind and metadata.
pub(crate) fn declare(schema: &Value, root: bool) -> Option<Type> {
    of(schema, root, "object", 0)
}

fn of(schema: &Value, root: bool, path: &str, depth: usize) -> Option<Type> {
    if depth > DEPTH {
        return None;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return Some(Type::Dyn);
    }
    let root = root || schema["x-kubernetes-embedded-resource"] == true;
    match schema["type"].as_str().unwrap_or_default() {
        "array" => Some(Type::list(of(schema.get("items")?, false, &format!("{path}.@idx"), depth + 1)?)),
        "object" if schema["additionalProperties"].is_object() => {
            let values = of(&schema["additionalProperties"], false, &format!("{path}.@elem"), depth + 1)?;
            Some(Type::map(Type::String, values))
        }
        "object" => {
            let mut fields = BTreeMap::new();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                if root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let kind = of(schema, false, &format!("{path}.{name}"), depth + 1);
                if let (Some(name), Some(kind)) = (escape(name), kind) {
                    fields.insert(name, kind);
                }
            }
            if root {
                let meta = ["name", "generateName"].map(|name| (name.to_owned(), Type::String)).into();
                let meta = Object { name: format!("{path}.metadata"), fields: meta };
                fields.insert("apiVersion".to_owned(), Type::String);
                fields.insert("kind".to_owned(), Type::String);
                fields.insert("metadata".to_owned(), Type::Object(Arc::new(meta)));
            }
            Some(Type::Object(Arc::new(Object { name: path.to_owned(), fields })))
        }
        "string" => Some(match schema["format"].as_str().unwrap_or_default() {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        }),
        "boolean" => Some(Type::Bool),
        "number" => Some(Type::Double),
        "integer" => Some(Type::Int),
        _ => None,
    }
}

/// A value of a schema. What the schema does not name is left out.
pub(crate) fn value_of(value: &Value, schema: &Value, root: bool) -> Val {
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    let root = root || schema["x-kubernetes-embedded-resource"] == true;
    match value {
        Value::Null => Val::Null,
        Value::Bool(on) => Val::Bool(*on),
        Value::Number(number) if schema["type"] == "number" => Val::Double(number.as_f64().unwrap_or_default()),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Val::Int(whole),
            None => Val::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) if int_or_string => Val::text(text),
        Value::String(text) => of_text(text, schema["format"].as_str().unwrap_or_default()),
        Value::Array(items) => {
            let values = items.iter().map(|item| value_of(item, &schema["items"], false)).collect();
            let kind = match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Order::Set,
                Some("map") => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                    Order::Keyed(keys.filter_map(|key| escape(key.as_str()?)).collect())
                }
                _ => Order::Atomic,
            };
            Val::List(Arc::new(Items { values, kind }))
        }
        Value::Object(map) if schema["additionalProperties"].is_object() => {
            let inner = &schema["additionalProperties"];
            let entries =
                map.iter().map(|(key, value)| (Key::Text(key.as_str().into()), value_of(value, inner, false)));
            Val::Map(Arc::new(entries.collect()))
        }
        Value::Object(map) => {
            let mut fields = BTreeMap::new();
            for (name, value) in map {
                if root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    fields.insert(name.clone(), of_meta(name, value));
                    continue;
                }
                if let (Some(escaped), Some(schema)) = (escape(name), schema["properties"].get(name)) {
                    fields.insert(escaped, value_of(value, schema, false));
                }
            }
            Val::Object(Arc::new(fields))
        }
    }
}

fn of_meta(name: &str, value: &Value) -> Val {
    match (name, value) {
        ("metadata", Value::Object(map)) => {
            let shown = ["name", "generateName"];
            let fields =
                shown.iter().filter_map(|name| Some(((*name).to_owned(), Val::text(map.get(*name)?.as_str()?))));
            Val::Object(Arc::new(fields.collect()))
        }
        (_, Value::String(text)) => Val::text(text),
        _ => Val::Null,
    }
}

/// A text that does not have its format stays one: reading it as what it
/// should be fails then.
fn of_text(text: &str, format: &str) -> Val {
    match format {
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).ok().map(|bytes| Val::Bytes(bytes.into())),
        "duration" => library::duration(text).map(Val::Duration),
        "date-time" => text.parse().ok().map(Val::Timestamp),
        "date" => format!("{text}T00:00:00Z").parse().ok().map(Val::Timestamp),
        _ => None,
    }
    .unwrap_or_else(|| Val::text(text))
}
