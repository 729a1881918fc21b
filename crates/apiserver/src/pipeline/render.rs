//! Answers as bytes: objects, lists, tables, partial metadata and errors, in
//! the encoding asked for. Stored bytes are spliced, not parsed, wherever the
//! form allows it.

use api::status::Status;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use store::{Entry, Revision};

use super::body::{ResponseBody, full};
use super::call::Call;
use super::negotiate::{Accept, Encoding, Form};
use super::read::{Item, Listed};
use super::write::Stored;
use crate::facet::Facet;
use crate::object::{self, Meta};
use crate::resource::Resource;
use crate::table;

/// What precedes an object's metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// `apiVersion` and `kind`.
    Full,
    /// Nothing: items of typed lists.
    Item,
}

/// Appends an entry as JSON, its revision spliced in as resourceVersion.
pub(crate) fn push_entry(out: &mut Vec<u8>, resource: &Resource, entry: &Entry, facet: &Facet, head: Head) {
    if resource.serves_stored()
        && let Some((start, end)) = facet.splice
    {
        let bytes = &entry.value;
        let head_bytes: &[u8] = if head == Head::Full || resource.custom { &bytes[..start] } else { b"{" };
        out.extend_from_slice(head_bytes);
        out.extend_from_slice(&bytes[start..end]);
        out.extend_from_slice(b"\"resourceVersion\":\"");
        out.extend_from_slice(entry.modified.to_string().as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(&bytes[end..]);
        return;
    }
    let mut object = served(resource, entry);
    if head == Head::Item && !resource.custom {
        let map = object::as_map(&mut object);
        map.remove("apiVersion");
        map.remove("kind");
    }
    push_value(out, &object);
}

/// An entry as a tree in the served version.
pub(crate) fn served(resource: &Resource, entry: &Entry) -> Value {
    let mut object: Value = serde_json::from_slice(&entry.value).unwrap_or_else(|_| json!({}));
    object::set_meta(&mut object, "resourceVersion", entry.modified.to_string());
    resource.from_hub(&mut object);
    object
}

/// Appends a tree as JSON.
pub(crate) fn push_value(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a tree with text keys serialises into memory");
}

/// An answer of bytes.
pub(crate) fn respond(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer of one tree, in the encoding asked for.
pub(crate) fn value(accept: &Accept, code: u16, value: &Value) -> Response<ResponseBody> {
    let bytes = match accept.encoding {
        Encoding::Json => Bytes::from(json_bytes(value, accept.pretty)),
        Encoding::Yaml => crate::codec::encode_yaml(value),
        Encoding::Protobuf => match crate::wire::protobuf(value) {
            Ok(bytes) => bytes,
            Err(status) => return error(&Accept::JSON, &status),
        },
    };
    respond(code, accept.encoding.content_type(), bytes)
}

fn json_bytes(value: &Value, pretty: bool) -> Vec<u8> {
    let mut out = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) }.unwrap_or_default();
    out.push(b'\n');
    out
}

/// A refusal.
pub(crate) fn error(accept: &Accept, status: &Status) -> Response<ResponseBody> {
    let tree = serde_json::to_value(status).unwrap_or_default();
    let code = status.code.unwrap_or(500);
    let mut response = value(accept, code, &tree);
    let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to a write, or to a GET of one object.
pub(crate) fn stored(call: &Call, code: u16, stored: Stored) -> Response<ResponseBody> {
    if call.accept.form == Form::Object
        && call.accept.encoding == Encoding::Json
        && !call.accept.pretty
        && let Some(entry) = &stored.entry
    {
        let facet = Facet::of(&call.resource.collection, entry);
        return entry_json(call, code, entry, &facet);
    }
    let mut object = stored.object;
    call.resource.from_hub(&mut object);
    tree(call, code, object)
}

/// The answer to a GET of one object.
pub(crate) fn item(call: &Call, item: &Item) -> Response<ResponseBody> {
    if call.accept.form == Form::Object && call.accept.encoding == Encoding::Json && !call.accept.pretty {
        return entry_json(call, 200, &item.entry, &item.facet);
    }
    tree(call, 200, served(&call.resource, &item.entry))
}

fn entry_json(call: &Call, code: u16, entry: &Entry, facet: &Facet) -> Response<ResponseBody> {
    const REVISION_ROOM: usize = 48;
    let mut out = Vec::with_capacity(entry.value.len() + REVISION_ROOM);
    push_entry(&mut out, &call.resource, entry, facet, Head::Full);
    out.push(b'\n');
    respond(code, "application/json", out)
}

/// One served object in the form asked for.
pub(crate) fn tree(call: &Call, code: u16, object: Value) -> Response<ResponseBody> {
    let object = match call.accept.form {
        Form::Object => object,
        Form::Partial(version) => partial(&object, version),
        Form::Table(version) => {
            let revision = object.resource_version().to_owned();
            let meta = if revision.is_empty() { json!({}) } else { json!({"resourceVersion": revision}) };
            let rows = vec![row(call, &object, version)];
            table_of(call, version, meta, rows, true)
        }
    };
    value(&call.accept, code, &object)
}

/// The metadata of an object as a kind of its own.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    json!({
        "apiVersion": format!("meta.k8s.io/{version}"),
        "kind": "PartialObjectMetadata",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A table row for a served object, in the form that `includeObject` asks for.
pub(crate) fn row(call: &Call, object: &Value, version: &str) -> Value {
    let mut hub = object.clone();
    call.resource.to_hub(&mut hub);
    let cells = call.resource.collection.strategy.cells_in(&call.resource.version, &hub, call.now.as_second());
    let mut row = json!({"cells": cells});
    match call.query.get("includeObject").unwrap_or_default() {
        "None" => {
            row["object"] = Value::Null;
        }
        "Object" => row["object"] = object.clone(),
        _ => row["object"] = partial(object, version),
    }
    row
}

/// A table of rows.
pub(crate) fn table_of(call: &Call, version: &str, meta: Value, rows: Vec<Value>, headings: bool) -> Value {
    let columns = if headings {
        table::definitions(&call.resource.collection.strategy.columns_in(&call.resource.version))
    } else {
        Value::Null
    };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// The answer to a LIST.
pub(crate) fn list(call: &Call, listed: &Listed) -> Response<ResponseBody> {
    let accept = &call.accept;
    if accept.form == Form::Object && accept.encoding == Encoding::Json && !accept.pretty {
        return respond(
            200,
            "application/json",
            list_json(&call.resource, listed, &Value::Object(list_meta(call, listed))),
        );
    }
    let meta = Value::Object(list_meta(call, listed));
    let objects = listed.items.iter().map(|item| served(&call.resource, &item.entry));
    let tree = match accept.form {
        Form::Object => {
            let strip = |mut object: Value| {
                if !call.resource.custom {
                    let map = object::as_map(&mut object);
                    map.remove("apiVersion");
                    map.remove("kind");
                }
                object
            };
            json!({
                "kind": call.resource.list_kind,
                "apiVersion": call.resource.api_version,
                "metadata": meta,
                "items": objects.map(strip).collect::<Vec<_>>(),
            })
        }
        Form::Partial(version) => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": meta,
            "items": objects.map(|object| partial(&object, version)).collect::<Vec<_>>(),
        }),
        Form::Table(version) => {
            let rows = objects.map(|object| row(call, &object, version)).collect();
            table_of(call, version, meta, rows, true)
        }
    };
    value(accept, 200, &tree)
}

fn list_meta(call: &Call, listed: &Listed) -> Map<String, Value> {
    let mut meta = Map::new();
    if call.resource.custom && matches!(call.accept.form, Form::Object) {
        // Untyped lists always say whether they go on.
        meta.insert("continue".to_owned(), "".into());
    }
    meta.insert("resourceVersion".to_owned(), listed.revision.to_string().into());
    if !listed.next.is_empty() {
        meta.insert("continue".to_owned(), listed.next.as_str().into());
    }
    if let Some(remaining) = listed.remaining {
        meta.insert("remainingItemCount".to_owned(), remaining.into());
    }
    meta
}

/// A list as the concatenation of its items' bytes.
fn list_json(resource: &Resource, listed: &Listed, meta: &Value) -> Vec<u8> {
    const ROOM: usize = 64;
    let size: usize = listed.items.iter().map(|item| item.entry.value.len() + ROOM).sum();
    let mut out = Vec::with_capacity(size + 4 * ROOM);
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(resource.list_kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(resource.api_version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    push_value(&mut out, meta);
    out.extend_from_slice(b",\"items\":[");
    for (index, item) in listed.items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_entry(&mut out, resource, &item.entry, &item.facet, Head::Item);
    }
    out.extend_from_slice(b"]}\n");
    out
}

/// The metadata of a bookmark: an object of the kind with nothing but a
/// revision.
pub(crate) fn bookmark(resource: &Resource, revision: Revision, initial_end: bool) -> Value {
    let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_end {
        meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"kind": resource.kind(), "apiVersion": resource.api_version, "metadata": meta})
}
