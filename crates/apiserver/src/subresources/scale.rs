//! `scale`: the number of replicas of any kind that has one, as an
//! `autoscaling/v1 Scale`.

use api::status::Status;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::object::{self, Meta};
use crate::pipeline::body::{self, RequestBody, ResponseBody};
use crate::pipeline::call::Call;
use crate::pipeline::options::WriteOptions;
use crate::pipeline::patch::{self, PatchType};
use crate::pipeline::update::{self, Map, Target};
use crate::pipeline::{read, render, write};
use crate::state::Core;
use crate::strategy::Part;

/// Where a kind keeps its numbers: dotted paths.
pub(crate) struct Paths {
    pub(crate) replicas: String,
    pub(crate) status: String,
    /// Path of the selector; a map, a selector object or a text.
    pub(crate) selector: Option<String>,
}

fn paths(call: &Call) -> Paths {
    if let Some(paths) = call.resource.collection.strategy.scale_paths(&call.resource.version) {
        return paths;
    }
    Paths {
        replicas: "spec.replicas".to_owned(),
        status: "status.replicas".to_owned(),
        selector: Some("spec.selector".to_owned()),
    }
}

/// GET, PUT and PATCH of the scale.
pub(super) async fn answer(
    core: &Core,
    call: &Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    let name = call.info.name.as_str();
    let paths = paths(call);
    if call.info.verb == "get" {
        let item = read::get(core, call, name).await?;
        let object = write::decode(&item.entry)?;
        return Ok(render::value(&call.accept, 200, &scale_of(call, &object, &paths)?));
    }
    let bytes = body::read(request.into_body()).await?;
    let schema = crate::wire::definition("autoscaling.v1.Scale")?;
    let (options, sent) = if call.info.verb == "patch" {
        (WriteOptions::parse(&call.query, "PatchOptions", patch::patch_type(call)? == PatchType::Apply)?, None)
    } else {
        let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
        let expected = crate::wire::Expected { api_version: "autoscaling/v1", kind: "Scale", schema };
        let sent = crate::wire::decode_as(call, &bytes, options.field_validation, &expected)?;
        (options, Some(sent))
    };
    let change = Map(|old: &Value| {
        let next = match &sent {
            Some(sent) => sent.clone(),
            None => patched(call, &bytes, &scale_of(call, old, &paths)?, schema)?,
        };
        apply(call, old, &next, &paths)
    });
    let target = Target { name, part: Part::Other("scale"), subresource: "scale" };
    let (stored, _) = update::update(core, call, &target, &change, &options).await?;
    Ok(render::value(&call.accept, 200, &scale_of(call, &stored.object, &paths)?))
}

fn patched(call: &Call, bytes: &bytes::Bytes, scale: &Value, schema: &api::schema::Schema) -> Result<Value, Status> {
    let patched = match patch::patch_type(call)? {
        PatchType::Json => crate::patch::json_patch(scale, bytes),
        PatchType::Merge => crate::patch::merge_patch(scale, bytes),
        PatchType::Strategic | PatchType::Apply => crate::patch::strategic_merge_patch(scale, bytes, schema),
    };
    Ok(patched.map_err(|error| error.status())?.object)
}

fn apply(call: &Call, old: &Value, scale: &Value, paths: &Paths) -> Result<Value, Status> {
    let replicas = object::at(scale, "spec.replicas").as_i64().unwrap_or(0);
    if replicas < 0 {
        let mut errors = crate::field::Errors::new();
        if call.resource.custom {
            let path = format!(".{}", paths.replicas);
            errors.invalid(&crate::field::Path::new(&path), &replicas.into(), "should be a non-negative integer");
            let resource = &call.resource;
            return Err(Status::invalid(resource.group(), resource.kind(), &call.info.name, errors.into_causes()));
        }
        let spec = crate::field::Path::new("spec");
        errors.invalid(&spec.child("replicas"), &replicas.into(), "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", &call.info.name, errors.into_causes()));
    }
    let mut next = old.clone();
    set(&mut next, &paths.replicas, replicas.into());
    for field in ["resourceVersion", "uid"] {
        object::set_meta(&mut next, field, scale.meta(field).clone());
    }
    Ok(next)
}

fn set(object: &mut Value, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            object::as_map(object).insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = object::as_map(object).entry(first).or_insert_with(|| json!({}));
            set(inner, rest, value);
        }
    }
}

/// The scale of a hub object.
fn scale_of(call: &Call, object: &Value, paths: &Paths) -> Result<Value, Status> {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !object.meta(field).is_null() {
            metadata[field] = object.meta(field).clone();
        }
    }
    let mut spec = json!({});
    if let Some(replicas) = object::at(object, &paths.replicas).as_i64().filter(|replicas| *replicas != 0) {
        spec["replicas"] = replicas.into();
    } else if call.resource.custom && object::at(object, &paths.replicas).is_null() {
        let message = format!("the spec replicas field \".{}\" does not exist", paths.replicas);
        return Err(Status::internal(message));
    }
    let mut status = json!({"replicas": object::at(object, &paths.status).as_i64().unwrap_or(0)});
    let selector = paths.selector.as_deref().map(|path| selector_text(object::at(object, path))).unwrap_or_default();
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }))
}

fn selector_text(selector: &Value) -> String {
    match selector {
        Value::String(text) => text.clone(),
        Value::Object(map) if map.contains_key("matchLabels") || map.contains_key("matchExpressions") => {
            api::selector::Selector::from_value(selector).map(|one| one.to_string()).unwrap_or_default()
        }
        Value::Object(_) => api::selector::Selector::from_value_map(selector).to_string(),
        _ => String::new(),
    }
}
