//! Whether a schema of a definition is structural, and the rules about what
//! it may say (`apiextensions/validation`, `apiserver/schema/validation.go`,
//! upstream 1.36). Not for rules in CEL.

use serde_json::Value;

use super::validate;
use crate::field::{Errors, Path};
use crate::object;

/// Nesting that is followed.
const DEPTH: usize = 64;

fn is(schema: &Value, field: &str) -> bool {
    schema[field] == true
}

fn kind(schema: &Value) -> &str {
    schema["type"].as_str().unwrap_or_default()
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// Checks the schema of a version.
pub(super) fn check(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    if is(schema, "nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let mut structure = Errors::new();
    structural(schema, path, Place::Root, &mut structure, 0);
    metadata(schema, path, &mut structure);
    let mut words = Errors::new();
    spoken(schema, path, &mut words, 0);
    if structure.is_empty() && words.is_empty() {
        defaults(schema, path, &mut structure, 0);
    }
    let fine = structure.is_empty() && words.is_empty();
    errors.append(structure);
    errors.append(words);
    if fine {
        super::rules::check(schema, path, errors);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Property,
    Item,
    Value,
}

/// Every value has one type, said in one place.
fn structural(schema: &Value, path: &Path<'_>, place: Place, errors: &mut Errors, depth: usize) {
    if depth > DEPTH {
        return;
    }
    let free = is(schema, "x-kubernetes-int-or-string") || is(schema, "x-kubernetes-preserve-unknown-fields");
    let type_path = path.child("type");
    match (place, kind(schema)) {
        (Place::Root, "") => errors.required(&type_path, "must not be empty at the root"),
        (Place::Root, "object") => {}
        (Place::Root, _) => errors.invalid(&type_path, &schema["type"], "must be object at the root"),
        (_, "") if free => {}
        (Place::Property, "") => errors.required(&type_path, "must not be empty for specified object fields"),
        (Place::Item, "") => errors.required(&type_path, "must not be empty for specified array items"),
        (Place::Value, "") => errors.required(&type_path, "must not be empty for specified object fields"),
        _ => {}
    }
    if is(schema, "x-kubernetes-embedded-resource") && kind(schema) != "object" {
        if kind(schema).is_empty() {
            errors.required(&type_path, "must be object if x-kubernetes-embedded-resource is true");
        } else {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            errors.invalid(&type_path, &schema["type"], detail);
        }
    }
    if is(schema, "x-kubernetes-embedded-resource")
        && !is(schema, "x-kubernetes-preserve-unknown-fields")
        && properties(schema).next().is_none()
    {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), detail);
    }
    if is(schema, "x-kubernetes-int-or-string") && !kind(schema).is_empty() {
        errors.forbidden(&type_path, "must be empty if x-kubernetes-int-or-string is true");
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in object::items(schema, field).iter().enumerate() {
            nested(inner, schema, (&path.child(field).index(index), path), errors, depth + 1);
        }
    }
    if schema["not"].is_object() {
        nested(&schema["not"], schema, (&path.child("not"), path), errors, depth + 1);
    }
    let all = path.child("properties");
    for (name, inner) in properties(schema) {
        structural(inner, &all.key(name), Place::Property, errors, depth + 1);
    }
    if schema["items"].is_object() {
        structural(&schema["items"], &path.child("items"), Place::Item, errors, depth + 1);
    }
    if schema["additionalProperties"].is_object() {
        let inner = &schema["additionalProperties"];
        structural(inner, &path.child("additionalProperties"), Place::Value, errors, depth + 1);
    }
}

/// A schema within `anyOf` and the like only narrows what `spine` declares.
fn nested(schema: &Value, spine: &Value, paths: (&Path<'_>, &Path<'_>), errors: &mut Errors, depth: usize) {
    if depth > DEPTH {
        return;
    }
    let (path, at) = paths;
    let either = is(spine, "x-kubernetes-int-or-string") && matches!(kind(schema), "integer" | "string");
    for (field, empty) in
        [("default", "undefined"), ("nullable", "false"), ("title", "empty"), ("description", "empty")]
    {
        if !matches!(schema[field], Value::Null | Value::Bool(false)) && schema[field] != "" {
            errors.forbidden(&path.child(field), &format!("must be {empty} to be structural"));
        }
    }
    if !kind(schema).is_empty() && !either {
        errors.forbidden(&path.child("type"), "must be empty to be structural");
    }
    if !schema["additionalProperties"].is_null() {
        errors.forbidden(&path.child("additionalProperties"), "must be undefined to be structural");
    }
    let (all, declared) = (path.child("properties"), at.child("properties"));
    for (name, inner) in properties(schema) {
        match spine["properties"].get(name) {
            Some(spine) => nested(inner, spine, (&all.key(name), &declared.key(name)), errors, depth + 1),
            None => {
                errors.required(&declared.key(name), &format!("because it is defined in {}", all.key(name)));
            }
        }
    }
    if schema["items"].is_object() {
        let (inner, declared) = (path.child("items"), at.child("items"));
        match spine.get("items") {
            Some(spine) => nested(&schema["items"], spine, (&inner, &declared), errors, depth + 1),
            None => errors.required(&declared, &format!("because it is defined in {inner}")),
        }
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in object::items(schema, field).iter().enumerate() {
            nested(inner, spine, (&path.child(field).index(index), at), errors, depth + 1);
        }
    }
    if schema["not"].is_object() {
        nested(&schema["not"], spine, (&path.child("not"), at), errors, depth + 1);
    }
}

/// Of metadata only names may be narrowed.
fn metadata(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(meta) = schema["properties"].get("metadata") else { return };
    let all = path.child("properties");
    let path = all.key("metadata");
    if kind(meta) != "object" {
        errors.invalid(&path.child("type"), &meta["type"], "must be object");
    }
    let other = meta.as_object().into_iter().flatten().any(|(field, value)| match field.as_str() {
        "type" | "description" => false,
        "properties" => properties(meta).any(|(name, _)| !matches!(name.as_str(), "name" | "generateName")),
        _ => !value.is_null() && *value != false,
    });
    if other {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&path, detail);
    }
}

/// Rules about single words, and about words that need each other.
fn spoken(schema: &Value, path: &Path<'_>, errors: &mut Errors, depth: usize) {
    if depth > DEPTH {
        return;
    }
    if kind(schema) == "array" && !schema["items"].is_object() && !is(schema, "x-kubernetes-preserve-unknown-fields") {
        errors.required(&path.child("items"), "must be specified");
    }
    if is(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    if properties(schema).next().is_some() && !matches!(schema["additionalProperties"], Value::Null | Value::Bool(true))
    {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = crate::cel::regex(pattern)
    {
        let last = error.to_string();
        let detail =
            format!("must be a valid regular expression, but isn't: {}", last.lines().last().unwrap_or_default());
        errors.invalid_text(&path.child("pattern"), pattern, &detail);
    }
    let unknown = "x-kubernetes-preserve-unknown-fields";
    if schema[unknown] == false {
        errors.invalid(&path.child(unknown), &schema[unknown], "must be true or undefined");
    }
    typed(schema, "x-kubernetes-map-type", "object", path, errors);
    if let Some(map) = schema["x-kubernetes-map-type"].as_str().filter(|map| !matches!(*map, "atomic" | "granular")) {
        errors.not_supported(&path.child("x-kubernetes-map-type"), &map.into(), &["atomic", "granular"]);
    }
    list(schema, path, errors);
    let all = path.child("properties");
    for (name, inner) in properties(schema) {
        spoken(inner, &all.key(name), errors, depth + 1);
    }
    for field in ["items", "additionalProperties", "not"] {
        if schema[field].is_object() {
            spoken(&schema[field], &path.child(field), errors, depth + 1);
        }
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in object::items(schema, field).iter().enumerate() {
            spoken(inner, &path.child(field).index(index), errors, depth + 1);
        }
    }
}

/// The word makes sense for one type only.
fn typed(schema: &Value, word: &str, wanted: &str, path: &Path<'_>, errors: &mut Errors) {
    if schema[word].is_null() || kind(schema) == wanted {
        return;
    }
    let detail = format!("must be {wanted} if {word} is specified");
    match kind(schema) {
        "" => errors.required(&path.child("type"), &detail),
        _ => errors.invalid(&path.child("type"), &schema["type"], &detail),
    }
}

fn list(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (word, keys_word) = ("x-kubernetes-list-type", "x-kubernetes-list-map-keys");
    typed(schema, word, "array", path, errors);
    let (of, items, items_path) = (schema[word].as_str(), &schema["items"], path.child("items"));
    let keys: Vec<&str> = object::items(schema, keys_word).iter().filter_map(Value::as_str).collect();
    if of == Some("set") && kind(schema) == "array" {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        match kind(items) {
            "array" if items[word].as_str().is_some_and(|of| of != "atomic") => {
                errors.invalid(&items_path.child(word), &items[word], detail);
            }
            "object" if items["x-kubernetes-map-type"] != "atomic" => {
                errors.invalid(&items_path.child("x-kubernetes-map-type"), &items[word], detail);
            }
            _ => {}
        }
    }
    match of {
        Some("atomic" | "set" | "map") | None => {}
        Some(other) => errors.not_supported(&path.child(word), &other.into(), &["atomic", "set", "map"]),
    }
    if !keys.is_empty() && of != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match of {
            None => errors.required(&path.child(word), detail),
            Some(other) => errors.invalid_text(&path.child(word), other, detail),
        }
    }
    if of != Some("map") {
        return;
    }
    if keys.is_empty() {
        errors.required(&path.child(keys_word), "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_object() {
        errors.required(&items_path, "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if kind(items) != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(&items_path.child("type"), &items["type"], detail);
        return;
    }
    let all = items_path.child("properties");
    let required: Vec<&str> = object::items(items, "required").iter().filter_map(Value::as_str).collect();
    for (index, key) in keys.iter().enumerate() {
        let place = all.key(key);
        let Some(inner) = items["properties"].get(*key) else {
            errors.invalid(&path.child(keys_word), &schema[keys_word], "entries must all be names of item properties");
            continue;
        };
        if matches!(kind(inner), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&place.child("type"), &items["type"], detail);
        }
        if keys[..index].contains(key) {
            errors.invalid(&path.child(keys_word), &schema[keys_word], "must not contain duplicate entries");
        }
        if inner.get("default").is_none() && !required.contains(key) {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&place.child("default"), detail);
        }
        if is(inner, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&place.child("nullable"), detail);
        }
    }
}

/// Defaults are values of their schemas, and lose nothing by pruning.
fn defaults(schema: &Value, path: &Path<'_>, errors: &mut Errors, depth: usize) {
    if depth > DEPTH {
        return;
    }
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let place = path.child("default");
        if unknown(default, schema, 0) {
            errors.invalid(&place, default, "must not have unknown fields");
        } else {
            validate::default(default, schema, &place, errors);
        }
    }
    let all = path.child("properties");
    for (name, inner) in properties(schema) {
        defaults(inner, &all.key(name), errors, depth + 1);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            defaults(&schema[field], &path.child(field), errors, depth + 1);
        }
    }
}

/// True if pruning would take something away.
fn unknown(value: &Value, schema: &Value, depth: usize) -> bool {
    if depth > DEPTH || is(schema, "x-kubernetes-preserve-unknown-fields") {
        return false;
    }
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| match schema["properties"].get(name) {
            Some(schema) => unknown(value, schema, depth + 1),
            None if schema["additionalProperties"].is_object() => {
                unknown(value, &schema["additionalProperties"], depth + 1)
            }
            None => schema["additionalProperties"] != true && kind(schema) == "object",
        }),
        Value::Array(items) => items.iter().any(|item| unknown(item, &schema["items"], depth + 1)),
        _ => false,
    }
}
