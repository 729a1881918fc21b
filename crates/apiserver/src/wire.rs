//! Between bytes and trees: the pipeline's use of codec, schemas and patches.
//! Which rules they follow is theirs; which one a request needs is decided here.

use api::status::Status;
use bytes::Bytes;
use serde_json::Value;

use crate::pipeline::call::Call;
use crate::pipeline::options::{FieldValidation, WriteOptions};
use crate::pipeline::patch::PatchType;
use crate::resource::Resource;

/// Generated facts of a served version.
pub(crate) struct Row {}

/// Decodes a body of the call's kind.
pub(crate) fn decode(call: &Call, bytes: &Bytes, _validation: FieldValidation) -> Result<Value, Status> {
    let mut object = tree(call, bytes)?;
    let resource = &call.resource;
    let map = crate::object::as_map(&mut object);
    for (field, own) in [("apiVersion", resource.api_version.as_str()), ("kind", resource.kind())] {
        match map.get(field).and_then(Value::as_str) {
            None | Some("") => {
                map.insert(field.to_owned(), own.into());
            }
            Some(given) if given == own => {}
            Some(given) => {
                let what = if field == "kind" { "kind" } else { "API version" };
                return Err(Status::bad_request(format!(
                    "the {what} in the data ({given}) does not match the expected {what} ({own})"
                )));
            }
        }
    }
    Ok(object)
}

/// Decodes `DeleteOptions`.
pub(crate) fn decode_options(call: &Call, bytes: &Bytes) -> Result<Value, Status> {
    tree(call, bytes)
}

fn tree(call: &Call, bytes: &Bytes) -> Result<Value, Status> {
    let header = call.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match header.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => serde_json::from_slice(bytes).map_err(|error| Status::bad_request(error.to_string())),
        "application/yaml" => serde_yaml_ng::from_slice(bytes).map_err(|error| Status::bad_request(error.to_string())),
        _ => Err(Status::unsupported_media_type(crate::pipeline::negotiate::SUPPORTED)),
    }
}

/// Decodes a patch.
pub(crate) fn decode_patch(_call: &Call, kind: PatchType, bytes: &Bytes, _options: &WriteOptions) -> Result<Value, Status> {
    match kind {
        PatchType::Apply => serde_yaml_ng::from_slice(bytes).map_err(|error| Status::bad_request(error.to_string())),
        _ => serde_json::from_slice(bytes).map_err(|error| Status::bad_request(error.to_string())),
    }
}

/// Applies a patch to a served object.
pub(crate) fn patch(
    _call: &Call,
    kind: PatchType,
    current: &Value,
    patch: &Value,
    _options: &WriteOptions,
) -> Result<Value, Status> {
    let mut next = current.clone();
    match kind {
        PatchType::Json => {
            let patch: json_patch::Patch =
                serde_json::from_value(patch.clone()).map_err(|error| Status::bad_request(error.to_string()))?;
            json_patch::patch(&mut next, &patch)
                .map_err(|error| Status::failure(422, "Invalid", error.to_string()))?;
        }
        PatchType::Merge | PatchType::Strategic | PatchType::Apply => json_patch::merge(&mut next, patch),
    }
    Ok(next)
}

/// Applies a configuration to a served object, or makes one of it.
pub(crate) fn apply(call: &Call, current: Option<&Value>, patch: &Value, options: &WriteOptions) -> Result<Value, Status> {
    match current {
        None => Ok(patch.clone()),
        Some(current) => self::patch(call, PatchType::Merge, current, patch, options),
    }
}

/// Records who set which fields of a new hub object.
pub(crate) fn manage_create(_resource: &Resource, _object: &mut Value, _manager: &str, _stamp: &str) {}

/// Records who changed which fields of a hub object.
pub(crate) fn manage_update(
    _resource: &Resource,
    _old: &Value,
    _new: &mut Value,
    _manager: &str,
    _subresource: &str,
    _stamp: &str,
) {
}

/// Encodes a tree of a built-in kind as protobuf.
pub(crate) fn protobuf(_value: &Value) -> Result<Vec<u8>, Status> {
    Err(Status::not_acceptable("application/json, application/yaml"))
}

/// Encodes a watch event as a protobuf frame.
pub(crate) fn protobuf_event(_kind: &str, _object: &Value) -> Result<Vec<u8>, Status> {
    Err(Status::not_acceptable("application/json, application/yaml"))
}
