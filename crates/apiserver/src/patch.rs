//! The four patches: JSON patch, merge patch, strategic merge patch, and apply
//! with the tracking of field owners. A patch gives a tree; decoding,
//! defaulting and validating it is for the pipeline.

pub mod managed;

mod json_patch;
mod strategic;

use api::schema::Schema;
use api::status::Status;
use serde_json::{Map, Value};

use crate::codec::{self, DecodeError, Decoded};

/// Operations that a JSON patch may have, as upstream has it.
pub const JSON_PATCH_OPERATIONS: usize = 10_000;

/// A patched tree.
#[derive(Clone, PartialEq, Debug)]
pub struct Patched {
    /// Not yet checked against its schema.
    pub object: Value,
    /// The patch as it was read.
    pub patch: Value,
    /// Duplicate fields of the patch: `duplicate field "metadata.labels"`.
    pub strict: Vec<String>,
}

/// Why a patch cannot be applied; messages are upstream's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatchError {
    /// The body is not one of this kind of patch.
    #[error("error decoding patch: {0}")]
    Decode(DecodeError),
    /// The same for a strategic merge patch.
    #[error("{0}")]
    Body(DecodeError),
    /// A merge patch of `null`.
    #[error("Invalid JSON Patch")]
    Invalid,
    /// More operations than [`JSON_PATCH_OPERATIONS`].
    #[error("The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS}, got {0}")]
    TooMany(usize),
    /// An operation does not apply to this object.
    #[error("the server rejected our request due to an error in our request")]
    NotApplicable,
    /// A directive of a strategic merge patch is malformed.
    #[error("{0}")]
    Format(&'static str),
    /// A strategic merge patch contradicts itself or the object.
    #[error("{0}")]
    Merge(String),
}

impl PatchError {
    /// What the client is told.
    pub fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::Decode(_) | Self::Body(_) | Self::Invalid | Self::Format(_) => {
                Status::failure(400, "BadRequest", message)
            }
            Self::TooMany(_) => {
                Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
            }
            Self::NotApplicable => {
                let mut status = Status::failure(422, "Invalid", message);
                status.details = Some(api::status::StatusDetails::default());
                status
            }
            Self::Merge(_) => Status::failure(500, "", message),
        }
    }
}

/// RFC 6902, as evanphx/json-patch reads it: a missing member is null, an index
/// may be negative.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Patched, PatchError> {
    let Decoded { object: operations, strict } = codec::parse_json(patch).map_err(PatchError::Decode)?;
    let object = json_patch::apply(object, &operations)?;
    Ok(Patched { object, patch: operations, strict })
}

/// RFC 7396.
pub fn merge_patch(object: &Value, patch: &[u8]) -> Result<Patched, PatchError> {
    let Decoded { object: patch, strict } = codec::parse_json(patch).map_err(PatchError::Decode)?;
    let mut object = object.clone();
    match &patch {
        Value::Null => return Err(PatchError::Invalid),
        Value::Object(_) => merge(&mut object, &patch),
        other => return Err(PatchError::Decode(not_a_map(other))),
    }
    Ok(Patched { object, patch, strict })
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Kubernetes' own merge patch with merge keys and directives; built-in kinds only.
pub fn strategic_merge_patch(object: &Value, patch: &[u8], schema: &Schema) -> Result<Patched, PatchError> {
    let Decoded { object: patch, strict } = codec::parse_json(patch).map_err(PatchError::Body)?;
    let object = match &patch {
        Value::Null => object.clone(),
        Value::Object(map) => strategic::apply(object, map.clone(), schema)?,
        other => return Err(PatchError::Body(not_a_map(other))),
    };
    Ok(Patched { object, patch, strict })
}

fn not_a_map(value: &Value) -> DecodeError {
    DecodeError::Type {
        value: go_kind(value).to_owned(),
        place: "value ".to_owned(),
        go_type: "map[string]interface {}".to_owned(),
    }
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as Go's `%v` prints it, which messages about patches quote:
/// `map[spec:map[replicas:many]]`.
pub fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let members: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", printed(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
