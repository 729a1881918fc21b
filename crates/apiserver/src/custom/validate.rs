//! Values against OpenAPI schemas of custom kinds, in upstream's words. Not
//! for rules in CEL.
// TODO-correctness: rarer formats (uri, email, mac, …) pass until somebody needs them refused.

use base64::Engine as _;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::validation::metadata;

/// Nesting that is followed; deeper values are refused by the decoder.
const DEPTH: usize = 64;

/// Checks a whole object; its metadata has rules of its own.
pub(super) fn object(object: &Value, schema: &Value, errors: &mut Errors) {
    let properties = schema.get("properties").and_then(Value::as_object);
    required(object, schema, &Path::ROOT, errors);
    for (name, schema) in properties.into_iter().flatten() {
        if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(value) = object.get(name) {
            check(value, schema, &Path::new(name), errors, 0);
        }
    }
}

/// Checks the status of an object; upstream names fields below it alone.
pub(super) fn status(object: &Value, schema: &Value, errors: &mut Errors) {
    let (Some(value), Some(schema)) = (object.get("status"), schema["properties"].get("status")) else { return };
    let mut found = Errors::new();
    check(value, schema, &Path::new("status"), &mut found, 0);
    found.each_message(|message| *message = message.replace(": status.", ": ").replace("\"status.", "\""));
    errors.append(found);
}

/// Checks a default; upstream names no field in these texts.
pub(super) fn default(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut found = Errors::new();
    check(value, schema, path, &mut found, 0);
    let spoken = format!("{path} in body");
    found.each_message(|message| *message = message.replace(&spoken, " in body"));
    errors.append(found);
}

fn required(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            errors.required(&path.child(name), "");
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors, depth: usize) {
    if depth > DEPTH || (value.is_null() && schema["nullable"] == true) {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !matches!(type_name(value), "integer" | "string") {
            let detail = format!("{path} in body must be of type integer,string: \"{}\"", type_name(value));
            errors.type_invalid(path, &type_name(value).into(), &detail);
        }
        return;
    }
    if let Some(wanted) = schema["type"].as_str() {
        let is = type_name(value);
        let fits = wanted == is || (wanted == "number" && is == "integer");
        if !fits {
            let detail = format!("{path} in body must be of type {wanted}: \"{is}\"");
            errors.type_invalid(path, &is.into(), &detail);
            return;
        }
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let texts: Vec<String> =
            allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        errors.not_supported(path, value, &texts);
    }
    format(value, schema, path, errors);
    combined(value, schema, path, errors, depth);
    match value {
        Value::String(text) => {
            lengths(text.chars().count(), schema, ("minLength", "maxLength"), path, value, errors);
            // Upstream says no more of a text whose length is wrong.
            let count = text.chars().count() as u64;
            let long = schema["maxLength"].as_u64().is_some_and(|most| count > most);
            let short = schema["minLength"].as_u64().is_some_and(|least| count < least);
            if let Some(pattern) = schema["pattern"].as_str().filter(|pattern| !pattern.is_empty() && !long && !short)
                && !crate::cel::regex(pattern).is_ok_and(|pattern| pattern.is_match(text))
            {
                errors.invalid(path, value, &format!("{path} in body should match '{pattern}'"));
            }
        }
        Value::Number(_) => bounds(value, schema, path, errors),
        Value::Array(items) => {
            lengths(items.len(), schema, ("minItems", "maxItems"), path, value, errors);
            for (index, item) in items.iter().enumerate() {
                check(item, &schema["items"], &path.index(index), errors, depth + 1);
            }
            list_keys(items, schema, path, errors);
        }
        Value::Object(map) => {
            lengths(map.len(), schema, ("minProperties", "maxProperties"), path, value, errors);
            required(value, schema, path, errors);
            if schema["x-kubernetes-embedded-resource"] == true {
                embedded(value, path, errors);
            }
            for (name, value) in map {
                match schema["properties"].get(name) {
                    Some(schema) => check(value, schema, &path.child(name), errors, depth + 1),
                    None if schema["additionalProperties"].is_object() => {
                        check(value, &schema["additionalProperties"], &path.child(name), errors, depth + 1);
                    }
                    None => {}
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// Formats of texts and ranges of numbers; unknown formats say nothing.
fn format(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let format = schema["format"].as_str().unwrap_or_default();
    match value {
        Value::String(text) => {
            let fits = match format {
                "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
                "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
                "duration" => crate::cel::duration(text).is_some(),
                "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
                "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
                "cidr" => text.split_once('/').is_some_and(|(address, length)| {
                    let most = if address.contains(':') { 128 } else { 32 };
                    address.parse::<std::net::IpAddr>().is_ok()
                        && length.parse::<u8>().is_ok_and(|length| length <= most)
                }),
                "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
                "uuid" | "uuid3" | "uuid4" | "uuid5" => uuid(text, format.chars().nth(4)),
                "hostname" => hostname(text),
                _ => return,
            };
            if !fits {
                errors.type_invalid(path, value, &format!("{path} in body must be of type {format}: \"{text}\""));
            }
        }
        Value::Number(number) => {
            let fits = match format {
                "int32" => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                "int64" => number.is_i64(),
                _ => return,
            };
            if !fits {
                let kind = schema["type"].as_str().unwrap_or("integer");
                let detail = format!("Checked value must be of type {kind} with format {format} in {path}");
                errors.whole(&detail);
            }
        }
        _ => {}
    }
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = text.len() - digits.len();
    digits.len() == 32
        && digits.chars().all(|c| c.is_ascii_hexdigit())
        && matches!(dashes, 0 | 4)
        && version.is_none_or(|version| digits.chars().nth(12) == Some(version))
}

fn hostname(text: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

/// `allOf` and its kin.
fn combined(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors, depth: usize) {
    let mut fits = |inner: &Value| {
        let mut found = Errors::new();
        check(value, inner, path, &mut found, depth + 1);
        found.is_empty()
    };
    let list = |field: &str| schema[field].as_array().map(Vec::as_slice).filter(|list| !list.is_empty());
    let mut wrong: Vec<String> = Vec::new();
    if let Some(any) = list("anyOf")
        && !any.iter().any(&mut fits)
    {
        wrong.push(format!("\"{path}\" must validate at least one schema (anyOf)"));
    }
    if let Some(one) = list("oneOf") {
        let count = one.iter().filter(|inner| fits(inner)).count();
        if count != 1 {
            let found =
                if count == 0 { "Found none valid".to_owned() } else { format!("Found {count} valid alternatives") };
            wrong.push(format!("\"{path}\" must validate one and only one schema (oneOf). {found}"));
        }
    }
    if let Some(all) = list("allOf")
        && !all.iter().all(&mut fits)
    {
        wrong.push(format!("\"{path}\" must validate all the schemas (allOf)"));
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        wrong.push(format!("\"{path}\" must not validate the schema (not)"));
    }
    for detail in wrong {
        errors.whole(&detail);
    }
    // What is wrong in detail follows, as far as it is certain.
    for inner in list("allOf").unwrap_or_default() {
        check(value, inner, path, errors, depth + 1);
    }
}

/// An object within an object has kind and version, and sound metadata.
fn embedded(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["apiVersion", "kind"] {
        match value.get(field) {
            None => errors.required(&path.child(field), ""),
            Some(text) if *text == "" => errors.required(&path.child(field), "must not be empty"),
            Some(_) => {}
        }
    }
    let metadata = path.child("metadata");
    for (field, check) in
        [("labels", metadata::labels as fn(&Value, &Path<'_>, &mut Errors)), ("annotations", metadata::annotations)]
    {
        let given = &value["metadata"][field];
        if given.is_object() {
            check(given, &metadata.child(field), errors);
        }
    }
}

fn lengths(
    length: usize,
    schema: &Value,
    (least, most): (&str, &str),
    path: &Path<'_>,
    value: &Value,
    errors: &mut Errors,
) {
    let what = match least {
        "minLength" => "chars long",
        "minItems" => "items",
        _ => "properties",
    };
    if let Some(least) = schema[least].as_u64().filter(|least| (length as u64) < *least) {
        let detail = match what {
            "chars long" => format!("{path} in body should be at least {least} chars long"),
            _ => format!("{path} in body should have at least {least} {what}"),
        };
        // Long lists would make messages without end: their length is shown.
        let shown = if what == "chars long" { value.clone() } else { length.into() };
        errors.invalid(path, &shown, &detail);
    }
    if let Some(most) = schema[most].as_u64().filter(|most| (length as u64) > *most) {
        match what {
            "chars long" => errors.too_long(path, most as usize),
            _ => errors.too_many(path, length, most as usize),
        }
    }
}

fn bounds(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(number) = value.as_f64() else { return };
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < least || (exclusive && number == least) {
            let word = if exclusive { "greater than" } else { "greater than or equal to" };
            errors.invalid(path, value, &format!("{path} in body should be {word} {}", schema["minimum"]));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > most || (exclusive && number == most) {
            let word = if exclusive { "less than" } else { "less than or equal to" };
            errors.invalid(path, value, &format!("{path} in body should be {word} {}", schema["maximum"]));
        }
    }
    // Whole numbers are divided by whole ones upstream.
    if let Some(step) = schema["multipleOf"].as_f64()
        && (value.is_i64() || value.is_u64())
        && step < 1.0
    {
        errors.invalid(
            path,
            value,
            &format!("factor MultipleOf declared for {path} must be positive: {}", step as i64),
        );
    } else if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step != 0.0)
        && (number / step).fract().abs() > f64::EPSILON
    {
        errors.invalid(path, value, &format!("{path} in body should be a multiple of {}", schema["multipleOf"]));
    }
}

/// Items of sets and maps occur once.
fn list_keys(items: &[Value], schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => {
            for (index, item) in items.iter().enumerate() {
                if items[..index].contains(item) {
                    errors.duplicate(&path.index(index), item);
                }
            }
        }
        Some("map") => {
            let names: Vec<&str> = schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let key = |item: &Value| -> Value {
                names.iter().map(|name| ((*name).to_owned(), item[*name].clone())).collect()
            };
            for (index, item) in items.iter().enumerate() {
                if items[..index].iter().any(|one| key(one) == key(item)) {
                    errors.duplicate(&path.index(index), &key(item));
                }
            }
        }
        _ => {}
    }
}
