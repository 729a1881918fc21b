//! Between bytes and trees: the pipeline's use of codec, schemas, patches and
//! field ownership. Which rules they follow is theirs; which one a request
//! needs, and how a failure is told, is decided here.

use api::schema::{Schema, Shape};
use api::status::Status;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::codec::{self, DecodeError, Decoded, Encoding, TypeMeta};
use crate::kinds_table::{self, SchemaRef};
use crate::object;
use crate::patch;
use crate::patch::managed::{self, OneVersion, Tracking};
use crate::pipeline::call::Call;
use crate::pipeline::negotiate;
use crate::pipeline::options::{FieldValidation, WriteOptions};
use crate::pipeline::patch::PatchType;
use crate::resource::Resource;

/// What the decoder needs to know of the kind that a body should be.
pub(crate) struct Expected<'a> {
    /// `apps/v1`.
    pub(crate) api_version: &'a str,
    /// `Deployment`.
    pub(crate) kind: &'a str,
    /// Its fields.
    pub(crate) schema: &'a Schema,
}

/// Decodes a body of the call's kind.
pub(crate) fn decode(call: &Call, bytes: &Bytes, validation: FieldValidation) -> Result<Value, Status> {
    let resource = &call.resource;
    let expected = Expected { api_version: &resource.api_version, kind: resource.kind(), schema: &resource.row.schema };
    decode_as(call, bytes, validation, &expected)
}

/// Decodes a body of a kind.
pub(crate) fn decode_as(
    call: &Call,
    bytes: &Bytes,
    validation: FieldValidation,
    expected: &Expected<'_>,
) -> Result<Value, Status> {
    let encoding = body_encoding(call)?;
    let unrecognized =
        |error: DecodeError| Status::bad_request(codec::unrecognized_message(&error, expected.kind, bytes));
    let document = codec::document(bytes, encoding).map_err(unrecognized)?;
    let mut found = document.type_meta().map_err(unrecognized)?;
    if found.kind.is_empty() {
        found.kind = expected.kind.to_owned();
    }
    if found.api_version.is_empty() {
        found.api_version = expected.api_version.to_owned();
    }
    let unfit = |why: &str| unfit(&found, expected.kind, why);
    if found.api_version != expected.api_version || found.kind != expected.kind {
        let whole = document.decode(expected.schema).map(|decoded| decoded.object).unwrap_or_default();
        return Err(other_kind(
            call,
            &found,
            expected,
            object::at(&whole, "metadata.name").as_str().unwrap_or_default(),
        ));
    }
    let decoded = document.decode(expected.schema).map_err(|error| unfit(&error.to_string()))?;
    let Decoded { mut object, strict } = decoded;
    match validation {
        FieldValidation::Strict if !strict.is_empty() => return Err(unfit(&codec::strict_message(&strict))),
        FieldValidation::Warn => call.warn(strict),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    let map = object::as_map(&mut object);
    map.insert("apiVersion".to_owned(), found.api_version.into());
    map.insert("kind".to_owned(), found.kind.into());
    Ok(object)
}

fn unfit(found: &TypeMeta, expected: &str, why: &str) -> Status {
    let version = found.api_version.rsplit('/').next().unwrap_or_default();
    Status::bad_request(format!(
        "{} in version {} cannot be handled as a {expected}: {why}",
        found.kind,
        crate::field::Quoted(version)
    ))
}

/// A body of another kind or version than the URL's.
fn other_kind(call: &Call, found: &TypeMeta, expected: &Expected<'_>, name: &str) -> Status {
    let gv = api::gvk::GroupVersion::parse(&found.api_version).unwrap_or_default();
    let gvk = api::gvk::GroupVersionKind { group_version: gv, kind: found.kind.clone() };
    if call.resource.custom && found.api_version == expected.api_version {
        let mut errors = crate::field::Errors::new();
        let detail = format!("must be {}", expected.kind);
        errors.invalid_text(&crate::field::Path::new("kind"), &found.kind, &detail);
        let name = if call.info.name.is_empty() { name } else { &call.info.name };
        return Status::invalid(call.resource.group(), &found.kind, name, errors.into_causes());
    }
    let known = kinds_table::builtin().by_kind(&gvk).is_some();
    if known || (found.kind == expected.kind && call.resource.custom) {
        return Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            found.api_version, expected.api_version
        ));
    }
    let why = format!(
        "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        crate::field::Quoted(&found.kind),
        crate::field::Quoted(&found.api_version)
    );
    unfit(found, expected.kind, &why)
}

fn body_encoding(call: &Call) -> Result<Encoding, Status> {
    let header = call.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header.is_empty() {
        return Ok(Encoding::Json);
    }
    match Encoding::from_media_type(header) {
        Some(Encoding::Protobuf) if call.resource.custom => {
            Err(Status::unsupported_media_type("application/json, application/yaml"))
        }
        Some(encoding) => Ok(encoding),
        None if call.resource.custom => Err(Status::unsupported_media_type("application/json, application/yaml")),
        None => Err(Status::unsupported_media_type(negotiate::SUPPORTED)),
    }
}

/// A built-in type by its short name.
pub(crate) fn definition(name: &str) -> Result<&'static Schema, Status> {
    kinds_table::builtin().definition(name).ok_or_else(|| Status::internal(format!("no type {name}")))
}

/// Decodes `DeleteOptions`; upstream accepts them under every group.
pub(crate) fn decode_options(call: &Call, bytes: &Bytes) -> Result<Value, Status> {
    let encoding = body_encoding(call)?;
    let schema = definition("meta.v1.DeleteOptions")?;
    let unrecognized = |error: DecodeError| Status::bad_request(error.to_string());
    let document = codec::document(bytes, encoding).map_err(unrecognized)?;
    let found = document.type_meta().map_err(unrecognized)?;
    if !found.kind.is_empty() && found.kind != "DeleteOptions" {
        return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
    }
    Ok(document.decode(schema).map_err(unrecognized)?.object)
}

/// Checks and normalises a tree of the hub version, in place. Built-in hubs
/// only; a tree that does not fit stays as it is.
pub(crate) fn normalize(resource: &Resource, object: &mut Value) {
    if let Some(schema) = hub_schema(resource)
        && let Ok(decoded) = codec::conform(object, &schema)
    {
        *object = decoded.object;
    }
}

/// Empty lists and maps of built-in kinds become null, as upstream's protobuf
/// storage does to them; what has no schema stays as it is.
pub(crate) fn forget_empty(resource: &Resource, object: &mut Value) {
    let stored_as_json = matches!(resource.group(), "apiextensions.k8s.io" | "apiregistration.k8s.io");
    if resource.custom || stored_as_json {
        return;
    }
    if let Some(schema) = hub_schema(resource) {
        forget(object, &schema);
    }
}

fn forget(value: &mut Value, schema: &Schema) {
    match (schema.shape(), &mut *value) {
        (Shape::Struct(known), Value::Object(map)) => {
            for field in &known.fields {
                if let Some(value) = map.get_mut(field.name.as_ref()) {
                    forget(value, &field.schema);
                }
            }
        }
        (Shape::Map(values), Value::Object(map)) => {
            if map.is_empty() {
                *value = Value::Null;
                return;
            }
            for value in map.values_mut() {
                forget(value, values);
            }
        }
        (Shape::List(items), Value::Array(list)) => {
            if list.is_empty() {
                *value = Value::Null;
                return;
            }
            for value in list {
                forget(value, items);
            }
        }
        _ => {}
    }
}

fn hub_schema(resource: &Resource) -> Option<SchemaRef> {
    if resource.custom || resource.serves_stored() {
        return Some(resource.row.schema.clone());
    }
    let gvk = api::gvk::GroupVersionKind {
        group_version: api::gvk::GroupVersion::parse(&resource.collection.hub)?,
        kind: resource.collection.kind.clone(),
    };
    Some(kinds_table::builtin().by_kind(&gvk)?.schema.clone())
}

/// A patch as it came: how it is read depends on its type.
pub(crate) struct PatchBody {
    bytes: Bytes,
    applied: Option<Value>,
}

/// Reads a patch as far as that needs no object.
pub(crate) fn decode_patch(
    call: &Call,
    kind: PatchType,
    bytes: &Bytes,
    options: &WriteOptions,
) -> Result<PatchBody, Status> {
    if kind != PatchType::Apply {
        return Ok(PatchBody { bytes: bytes.clone(), applied: None });
    }
    let decoded =
        codec::parse_yaml(bytes).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    strict(call, options, &decoded.strict)?;
    Ok(PatchBody { bytes: bytes.clone(), applied: Some(decoded.object) })
}

fn strict(call: &Call, options: &WriteOptions, findings: &[String]) -> Result<(), Status> {
    match options.field_validation {
        FieldValidation::Strict if !findings.is_empty() => Err(Status::bad_request(codec::strict_message(findings))),
        FieldValidation::Warn => {
            call.warn(findings.iter().cloned());
            Ok(())
        }
        FieldValidation::Strict | FieldValidation::Ignore => Ok(()),
    }
}

/// Applies a patch to a served object; the outcome is normalised.
pub(crate) fn patch(
    call: &Call,
    kind: PatchType,
    current: &Value,
    body: &PatchBody,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let schema = &*call.resource.row.schema;
    let patched = match kind {
        PatchType::Json => patch::json_patch(current, &body.bytes),
        PatchType::Merge => patch::merge_patch(current, &body.bytes),
        PatchType::Strategic | PatchType::Apply => patch::strategic_merge_patch(current, &body.bytes, schema),
    }
    .map_err(|error| {
        let mut status = error.status();
        if status.code == Some(422) {
            status.details.get_or_insert_default();
        }
        status
    })?;
    let decoded = codec::conform(&patched.object, schema).map_err(|error| unfit_patch(call, &patched.patch, &error))?;
    let mut findings = patched.strict;
    findings.extend(decoded.strict);
    if options.field_validation == FieldValidation::Strict && !findings.is_empty() {
        return Err(refused_patch(call, &patched.patch, &codec::strict_message(&findings)));
    }
    strict(call, options, &findings)?;
    let mut next = decoded.object;
    label(&mut next, &patched.object);
    Ok(next)
}

fn unfit_patch(call: &Call, patch: &Value, error: &DecodeError) -> Status {
    refused_patch(call, patch, &error.to_string())
}

/// 422 that quotes the patch (upstream's `patch` field error).
fn refused_patch(call: &Call, patch: &Value, why: &str) -> Status {
    let mut errors = crate::field::Errors::new();
    let shown = match patch {
        Value::Object(_) => patch::printed(patch),
        other => other.to_string(),
    };
    errors.invalid_text(&crate::field::Path::new("patch"), &shown, why);
    let _ = call;
    let causes = errors.into_causes();
    let mut status = Status::invalid("", "", "", causes);
    status.details = Some(api::status::StatusDetails::default());
    status
}

fn label(next: &mut Value, from: &Value) {
    for key in ["apiVersion", "kind"] {
        if let Some(value) = from.get(key) {
            object::as_map(next).insert(key.to_owned(), value.clone());
        }
    }
}

/// Applies a configuration to a served object, or makes one of it.
pub(crate) fn apply(
    call: &Call,
    current: Option<&Value>,
    body: &PatchBody,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let resource = &call.resource;
    let mut applied = body.applied.clone().unwrap_or_else(|| json!({}));
    for (key, own) in [("apiVersion", resource.api_version.as_str()), ("kind", resource.kind())] {
        if applied.get(key).is_none_or(Value::is_null) {
            object::as_map(&mut applied).insert(key.to_owned(), own.into());
        }
    }
    let manager = call.manager(&options.field_manager);
    let tracking = tracking(resource, &manager, &call.info.subresource, call.now);
    let schema = &*resource.row.schema;
    let merged = managed::apply(current, applied, options.force.unwrap_or(false), schema, &tracking)
        .map_err(|error| error.status())?;
    let decoded = codec::conform(&merged, schema).map_err(|error| Status::untyped(error.to_string()))?;
    let mut next = decoded.object;
    label(&mut next, &merged);
    Ok(next)
}

fn tracking<'a>(resource: &'a Resource, manager: &'a str, subresource: &'a str, now: jiff::Timestamp) -> Tracking<'a> {
    Tracking {
        manager,
        api_version: &resource.api_version,
        subresource,
        now,
        reset: match subresource {
            "" => resource.collection.strategy.reset_on_main(),
            "status" => resource.collection.strategy.reset_on_status(),
            _ => &[],
        },
        versions: &OneVersion,
    }
}

/// Records who set which fields of a new hub object.
pub(crate) fn manage_create(resource: &Resource, object: &mut Value, manager: &str, now: jiff::Timestamp) {
    manage(resource, None, object, manager, "", now);
}

/// Records who changed which fields of a hub object.
pub(crate) fn manage_update(
    resource: &Resource,
    old: &Value,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: jiff::Timestamp,
) {
    manage(resource, Some(old), new, manager, subresource, now);
}

fn manage(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: jiff::Timestamp,
) {
    let tracking = tracking(resource, manager, subresource, now);
    if resource.serves_stored() {
        managed::update(old, new, &resource.row.schema, &tracking);
        return;
    }
    let mut served = new.clone();
    resource.from_hub(&mut served);
    let live = old.map(|old| {
        let mut live = old.clone();
        resource.from_hub(&mut live);
        live
    });
    managed::update(live.as_ref(), &mut served, &resource.row.schema, &tracking);
    let fields = served.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields")).map(Value::take);
    object::set_meta(new, "managedFields", fields.unwrap_or_default());
}

/// The schema of a tree by its own kind: built-in kinds and their lists, and
/// the kinds of `meta/v1`.
fn schema_of(tree: &Value) -> Result<&'static Schema, Status> {
    let (api_version, kind) = (object::text(tree, "apiVersion"), object::text(tree, "kind"));
    let group_version = api::gvk::GroupVersion::parse(api_version).unwrap_or_default();
    let library = kinds_table::builtin().library();
    let found = library.definitions().find(|definition| {
        definition.gvks().any(|(group, version, name)| {
            group == group_version.group && version == group_version.version && name == kind
        })
    });
    match (found, kind) {
        (Some(definition), _) => Ok(definition.schema()),
        (None, "Status") => definition("meta.v1.Status"),
        (None, "PartialObjectMetadata") => definition("meta.v1.PartialObjectMetadata"),
        (None, "PartialObjectMetadataList") => definition("meta.v1.PartialObjectMetadataList"),
        (None, _) => Err(Status::not_acceptable("application/json, application/yaml")),
    }
}

/// Encodes a tree of a built-in kind as protobuf.
pub(crate) fn protobuf(tree: &Value) -> Result<Bytes, Status> {
    let schema = schema_of(tree)?;
    codec::encode(tree, Encoding::Protobuf, schema).map_err(Status::internal)
}

/// Encodes a watch event as a length-delimited protobuf frame.
pub(crate) fn protobuf_event(kind: &str, tree: &Value) -> Result<Vec<u8>, Status> {
    /// Field numbers of `meta/v1 WatchEvent` and `runtime.RawExtension`, length-delimited.
    const TYPE: u8 = 0x0a;
    const OBJECT: u8 = 0x12;
    const RAW: u8 = 0x0a;
    let object = protobuf(tree)?;
    let mut raw = vec![RAW];
    push_varint(&mut raw, object.len());
    raw.extend_from_slice(&object);
    let mut event = vec![TYPE];
    push_varint(&mut event, kind.len());
    event.extend_from_slice(kind.as_bytes());
    event.push(OBJECT);
    push_varint(&mut event, raw.len());
    event.extend_from_slice(&raw);
    let mut frame = u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    frame.extend_from_slice(&event);
    Ok(frame)
}

fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
