//! Merging an applied tree into a live one, and removing paths from a tree,
//! with the semantics of structured-merge-diff.

use std::collections::{HashMap, HashSet};

use api::schema::{ListType, Schema, Shape};
use serde_json::{Map, Value};

use super::set::{self, Tree};
use super::typed::{Atom, Members, atom, element, free};
use crate::patch::printed as go;

/// The live tree with everything that the applied one sets.
pub(super) fn merge(live: &Value, applied: &Value, schema: &Schema) -> Result<Value, String> {
    Ok(merge_at(Some(live), Some(applied), schema)?.unwrap_or(Value::Null))
}

fn merge_at(live: Option<&Value>, applied: Option<&Value>, schema: &Schema) -> Result<Option<Value>, String> {
    let deciding = applied.filter(|value| !value.is_null()).or(live);
    let empty = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    if empty(live) && empty(applied) {
        return Ok(applied.or(live).cloned());
    }
    match atom(schema, deciding) {
        Atom::Map(members) => {
            let (live, applied) = (live.and_then(Value::as_object), applied.and_then(Value::as_object));
            merge_map(live, applied, members)
        }
        Atom::List(items, list) => {
            let (live, applied) = (live.and_then(Value::as_array), applied.and_then(Value::as_array));
            let live = live.map_or(&[][..], Vec::as_slice);
            merge_list(live, applied.map_or(&[][..], Vec::as_slice), items, list)
        }
        Atom::Leaf => Ok(applied.or(live).cloned()),
    }
}

fn merge_map(live: Option<&Tree>, applied: Option<&Tree>, members: Members<'_>) -> Result<Option<Value>, String> {
    let mut out = Map::new();
    let names: std::collections::BTreeSet<&String> =
        live.into_iter().flatten().chain(applied.into_iter().flatten()).map(|(name, _)| name).collect();
    for name in names {
        let (live, applied) = (live.and_then(|map| map.get(name)), applied.and_then(|map| map.get(name)));
        let merged = match applied {
            None => live.cloned(),
            Some(_) => merge_at(live, applied, members.get(name).unwrap_or(free()))?,
        };
        if let Some(value) = merged {
            out.insert(name.clone(), value);
        }
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

/// Merges elements. Their order is that of the applied list, with live
/// elements kept as near to where they were as that allows.
fn merge_list(live: &[Value], applied: &[Value], items: &Schema, list: &ListType) -> Result<Option<Value>, String> {
    let names = |elements: &[Value]| -> Result<Vec<String>, String> {
        let named = elements.iter().enumerate();
        named
            .map(|(index, item)| element(item, items, list).map_err(|error| format!("element {index}: {error}")))
            .collect()
    };
    let (live_names, applied_names) = (names(live)?, names(applied)?);
    let mut live_by: HashMap<&str, Option<&Value>> = HashMap::new();
    for (name, item) in live_names.iter().zip(live) {
        // Two live elements of one name are replaced as a whole.
        live_by.entry(name).and_modify(|found| *found = None).or_insert(Some(item));
    }
    let mut applied_by: HashMap<&str, &Value> = HashMap::new();
    for (name, item) in applied_names.iter().zip(applied) {
        if applied_by.insert(name, item).is_some() {
            return Err(format!("duplicate entries for key {}", set::printed(name)));
        }
    }
    let mut shared = applied_names.iter().filter(|name| live_by.contains_key(name.as_str()));
    let mut next_shared = shared.next();
    let mut merged: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < applied.len() {
        if l < live.len() && r < applied.len() {
            let name = live_names[l].as_str();
            if name == applied_names[r] {
                merged.insert(name);
                out.extend(merge_at(live_by[name], Some(applied_by[name]), items)?);
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if applied_by.contains_key(name) && next_shared.is_some_and(|next| next != name) {
                l += 1;
                continue;
            }
        }
        if l < live.len() {
            let name = live_names[l].as_str();
            if !applied_by.contains_key(name) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if merged.contains(name) {
                l += 1;
            }
        }
        if r < applied.len() {
            let name = applied_names[r].as_str();
            merged.insert(name);
            let live = live_by.get(name).copied().flatten();
            out.extend(merge_at(live, Some(applied_by[name]), items)?);
            r += 1;
            if next_shared.is_some_and(|next| next == name) {
                next_shared = shared.next();
            }
        }
    }
    Ok((!out.is_empty()).then_some(Value::Array(out)))
}

/// The tree without these paths.
pub(super) fn remove(value: &Value, paths: &Tree, schema: &Schema) -> Value {
    remove_at(value, paths, schema).unwrap_or(Value::Null)
}

fn remove_at(value: &Value, paths: &Tree, schema: &Schema) -> Option<Value> {
    match (atom(schema, Some(value)), value) {
        (Atom::Map(members), Value::Object(map)) => {
            let mut out = Map::new();
            let mut matched = false;
            for (name, value) in map {
                let key = set::field(name);
                if set::has(paths, &key) {
                    continue;
                }
                let kept = match set::below(paths, &key) {
                    Some(below) => {
                        matched = true;
                        removed_inside(value, below, members.get(name).unwrap_or(free()))
                    }
                    None => value.clone(),
                };
                out.insert(name.clone(), kept);
            }
            (!out.is_empty() || matched).then_some(Value::Object(out))
        }
        (Atom::List(items, list), Value::Array(elements)) => {
            let mut out = Vec::with_capacity(elements.len());
            let mut matched = false;
            for item in elements {
                let Ok(key) = element(item, items, list) else {
                    out.push(item.clone());
                    continue;
                };
                if set::has(paths, &key) {
                    continue;
                }
                out.push(match set::below(paths, &key) {
                    Some(below) => {
                        matched = true;
                        removed_inside(item, below, items)
                    }
                    None => item.clone(),
                });
            }
            (!out.is_empty() || matched).then_some(Value::Array(out))
        }
        // Upstream drops a value that is taken as a whole when a path leads into it.
        (Atom::Leaf, Value::Object(_) | Value::Array(_)) => None,
        _ => Some(value.clone()),
    }
}

fn removed_inside(value: &Value, paths: &Tree, schema: &Schema) -> Value {
    remove_at(value, paths, schema).unwrap_or(match value {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    })
}

/// What upstream's typed form objects to in an applied tree, in its words.
pub(super) fn validate(value: &Value, schema: &Schema) -> Result<(), String> {
    let mut errors = Vec::new();
    check(value, schema, "", &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn check(value: &Value, schema: &Schema, path: &str, errors: &mut Vec<String>) {
    let mut object_to = |path: &str, message: String| {
        errors.push(if path.is_empty() { message } else { format!("{path}: {message}") });
    };
    match (schema.shape(), value) {
        (_, Value::Null) | (Shape::Any | Shape::Raw | Shape::Fields | Shape::Json, _) => {}
        (Shape::Struct(known), Value::Object(map)) => {
            for (name, value) in map {
                let below = format!("{path}.{name}");
                match known.field(name) {
                    Some(field) => check(value, &field.schema, &below, errors),
                    None if known.preserve_unknown => {}
                    None => {
                        errors.push(format!("{below}: field not declared in schema"));
                        return;
                    }
                }
            }
        }
        (Shape::Map(values), Value::Object(map)) => {
            for (name, value) in map {
                check(value, values, &format!("{path}.{name}"), errors);
            }
        }
        (Shape::List(items), Value::Array(elements)) => check_list(elements, items, &schema.list, path, errors),
        (Shape::Struct(_) | Shape::Map(_), other) => object_to(path, format!("expected map, got &{{{}}}", go(other))),
        (Shape::List(_), other) => object_to(path, format!("expected list, got &{{{}}}", go(other))),
        (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Duration, other) => {
            if !other.is_string() {
                let shown = go_syntax(other);
                object_to(path, format!("expected string, got &value.valueUnstructured{{Value:{shown}}}"));
            }
        }
        (Shape::Int32 | Shape::Int64 | Shape::Float, other) => {
            if !other.is_number() {
                object_to(path, format!("expected numeric (int or float), got {}", go_type(other)));
            }
        }
        (Shape::Bool, other) if !other.is_boolean() => {
            object_to(path, format!("expected boolean, got &{{{}}}", go(other)));
        }
        (Shape::Quantity | Shape::IntOrString, other @ (Value::Object(_) | Value::Array(_))) => {
            object_to(path, format!("expected any scalar, got &{{{}}}", go(other)));
        }
        _ => {}
    }
}

fn check_list(elements: &[Value], items: &Schema, list: &ListType, path: &str, errors: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, item) in elements.iter().enumerate() {
        let name = match list {
            ListType::Atomic => format!("[{index}]"),
            _ => match element(item, items, list) {
                Ok(key) => {
                    let shown = set::printed(&key);
                    if !seen.insert(key) {
                        errors.push(format!("{path}: duplicate entries for key {shown}"));
                    }
                    shown
                }
                Err(error) => {
                    errors.push(format!("{path}: element {index}: {error}"));
                    return;
                }
            },
        };
        check(item, items, &format!("{path}{name}"), errors);
    }
}

/// A value as Go's `%#v` prints it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let members: Vec<String> = map.iter().map(|(key, value)| format!("{key:?}:{}", go_syntax(value))).collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
