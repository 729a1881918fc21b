//! The operations of a JSON patch with the leniency of the library upstream
//! uses, which clients have come to rely on.

use serde_json::{Map, Value};

use super::{JSON_PATCH_OPERATIONS, PatchError, go_kind};
use crate::codec::DecodeError;

/// Applies a list of operations, all or nothing.
pub(super) fn apply(object: &Value, operations: &Value) -> Result<Value, PatchError> {
    let wrong = |value: &Value, go_type: &str| {
        let (value, go_type) = (go_kind(value).to_owned(), go_type.to_owned());
        PatchError::Decode(DecodeError::Type { value, place: "value ".to_owned(), go_type })
    };
    let operations = match operations {
        Value::Null => return Ok(object.clone()),
        Value::Array(operations) => operations,
        other => return Err(wrong(other, "[]handlers.jsonPatchOp")),
    };
    if operations.len() > JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooMany(operations.len()));
    }
    if let Some(other) = operations.iter().find(|operation| !operation.is_object()) {
        return Err(wrong(other, "handlers.jsonPatchOp"));
    }
    let mut object = object.clone();
    for operation in operations {
        one(&mut object, operation).ok_or(PatchError::NotApplicable)?;
    }
    Ok(object)
}

/// Applies one operation; none if it does not apply.
fn one(object: &mut Value, operation: &Value) -> Option<()> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let value = operation.get("value").cloned().unwrap_or_default();
    let path = text("path")?;
    match text("op")? {
        "add" => add(object, path, value),
        "remove" => remove(object, path),
        "replace" if path.is_empty() => {
            *object = value;
            Some(())
        }
        "replace" => replace(object, path, value),
        "move" => {
            let from = text("from")?;
            let value = get(object, from)?;
            remove(object, from)?;
            add(object, path, value)
        }
        "copy" => {
            let value = get(object, text("from")?)?;
            add(object, path, value)
        }
        "test" => (get(object, path)? == value).then_some(()),
        _ => None,
    }
}

/// The container of a path's last element, and that element.
fn container<'a>(object: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut parts = path.split('/').map(|part| part.replace("~1", "/").replace("~0", "~"));
    parts.next()?;
    let mut parts: Vec<String> = parts.collect();
    let last = parts.pop()?;
    let mut at = object;
    for part in parts {
        at = match at {
            Value::Object(map) => map.get_mut(&part)?,
            Value::Array(items) => {
                let index = index(&part, items.len())?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then_some((at, last))
}

/// A position in a list; negative ones count from its end.
fn index(text: &str, length: usize) -> Option<usize> {
    let position: i64 = text.parse().ok()?;
    match position {
        0.. => usize::try_from(position).ok(),
        _ => length.checked_sub(usize::try_from(position.unsigned_abs()).ok()?),
    }
}

/// The value at a path; a missing member of a map is null.
fn get(object: &mut Value, path: &str) -> Option<Value> {
    let (container, last) = container(object, path)?;
    match container {
        Value::Object(map) => Some(map.get(&last).cloned().unwrap_or_default()),
        Value::Array(items) => items.get(index(&last, items.len())?).cloned(),
        _ => None,
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    let (container, last) = container(object, path)?;
    match container {
        Value::Object(map) => put(map, last, value),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let position = index(&last, items.len() + 1)?;
            if position > items.len() {
                return None;
            }
            items.insert(position, value);
        }
        _ => return None,
    }
    Some(())
}

fn put(map: &mut Map<String, Value>, key: String, value: Value) {
    map.insert(key, value);
}

fn remove(object: &mut Value, path: &str) -> Option<()> {
    let (container, last) = container(object, path)?;
    match container {
        Value::Object(map) => map.remove(&last).map(|_| ()),
        Value::Array(items) => {
            let position = index(&last, items.len())?;
            (position < items.len()).then(|| items.remove(position)).map(|_| ())
        }
        _ => None,
    }
}

fn replace(object: &mut Value, path: &str, value: Value) -> Option<()> {
    let (container, last) = container(object, path)?;
    match container {
        Value::Object(map) => put(map, last, value),
        Value::Array(items) => {
            let position = index(&last, items.len())?;
            *items.get_mut(position)? = value;
        }
        _ => return None,
    }
    Some(())
}
