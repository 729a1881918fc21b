//! One function a verb: decodes what the verb needs, calls the step that does
//! it, renders the answer.

use std::sync::Arc;

use api::status::Status;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use serde_json::Value;

use super::body::{self, RequestBody, ResponseBody};
use super::call::Call;
use super::delete::{self, Deleted};
use super::options::{DeleteOptions, ListOptions, WriteOptions};
use super::read::{self, Filter};
use super::update::{self, Replace, Target};
use super::{create, patch, render, watch};
use crate::object::Meta;
use crate::state::Core;
use crate::strategy::Part;
use crate::subresources;

/// Carries out an authorized request.
pub(crate) async fn answer(
    core: &Arc<Core>,
    mut call: Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    if call.info.legacy_watch {
        call.info.verb = "watch".to_owned();
        if !call.info.name.is_empty() {
            call.info.selected = std::mem::take(&mut call.info.name);
        }
    }
    call.warn(call.resource.deprecation.clone());
    if call.info.subresource == "status" || call.info.subresource.is_empty() {
        if call.resource.collection.prefix.is_empty() {
            return subresources::virtual_resource(core, call, request).await;
        }
        return stored(core, call, request).await;
    }
    subresources::answer(core, call, request).await
}

async fn stored(core: &Arc<Core>, call: Call, request: Request<RequestBody>) -> Result<Response<ResponseBody>, Status> {
    let verb = call.info.verb.clone();
    let mut response = match verb.as_str() {
        "get" => {
            let item = read::get(core, &call, &call.info.name).await?;
            Ok(render::item(&call, &item))
        }
        "list" => {
            let filter = Filter::parse(&call)?;
            let options = ListOptions::parse(&call.query, false)?;
            let listed = read::list(core, &call, &filter, &options).await?;
            Ok(render::list(&call, &listed))
        }
        "watch" => {
            let filter = if call.info.selected.is_empty() {
                Filter::parse(&call)?
            } else {
                Filter::parse(&call)?.named(&call.info.selected)
            };
            let options = ListOptions::parse(&call.query, true)?;
            return watch::watch(core, call, filter, options).await;
        }
        "create" => {
            let bytes = body::read(request.into_body()).await?;
            post(core, &call, &bytes).await
        }
        "update" => {
            let bytes = body::read(request.into_body()).await?;
            put(core, &call, &bytes).await
        }
        "patch" => {
            let bytes = body::read(request.into_body()).await?;
            patch::patch(core, &call, &bytes).await
        }
        "delete" => {
            let bytes = body::read(request.into_body()).await?;
            remove(core, &call, &bytes).await
        }
        "deletecollection" => {
            let bytes = body::read(request.into_body()).await?;
            remove_all(core, &call, &bytes).await
        }
        _ => Err(Status::method_not_allowed()),
    }
    .unwrap_or_else(|status| render::error(&call.accept, &status));
    add_warnings(&call, &mut response);
    Ok(response)
}

/// Puts the call's warnings into the answer's headers.
pub(crate) fn add_warnings(call: &Call, response: &mut Response<ResponseBody>) {
    for warning in call.take_warnings() {
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}

/// Decodes a body of the call's kind into its hub form, with defaults.
pub(crate) fn decode(call: &Call, bytes: &Bytes, options: &WriteOptions) -> Result<Value, Status> {
    let mut object = crate::wire::decode(call, bytes, options.field_validation)?;
    call.resource.to_hub(&mut object);
    call.resource.collection.strategy.default(&mut object);
    Ok(object)
}

async fn post(core: &Core, call: &Call, bytes: &Bytes) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let object = decode(call, bytes, &options)?;
    let stored = create::create(core, call, object, &options, true).await?;
    Ok(render::stored(call, 201, stored))
}

async fn put(core: &Core, call: &Call, bytes: &Bytes) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
    let object = decode(call, bytes, &options)?;
    let name = call.info.name.as_str();
    if object.name() != name {
        let why = if object.name().is_empty() {
            "name must be provided".to_owned()
        } else {
            format!("the name of the object ({}) does not match the name on the URL ({name})", object.name())
        };
        return Err(Status::bad_request(why));
    }
    let part = part(call);
    let creates = part == Part::Main && call.resource.collection.strategy.create_on_update();
    let target = Target { name, part, subresource: &call.info.subresource };
    let (stored, created) = update::update(core, call, &target, &Replace { object, creates }, &options).await?;
    Ok(render::stored(call, if created { 201 } else { 200 }, stored))
}

/// Which part the URL means.
pub(crate) fn part(call: &Call) -> Part {
    if call.info.subresource == "status" { Part::Status } else { Part::Main }
}

fn delete_options(call: &Call, bytes: &Bytes) -> Result<DeleteOptions, Status> {
    let body = if bytes.is_empty() { None } else { Some(crate::wire::decode_options(call, bytes)?) };
    DeleteOptions::parse(body.as_ref(), &call.query)
}

async fn remove(core: &Core, call: &Call, bytes: &Bytes) -> Result<Response<ResponseBody>, Status> {
    let options = delete_options(call, bytes)?;
    match delete::delete(core, call, &call.info.name, &options).await? {
        Deleted::Gone(status) => {
            let tree = serde_json::to_value(&status).unwrap_or_default();
            Ok(render::value(&call.accept, 200, &tree))
        }
        Deleted::Object(stored, gone) => {
            let accepted = !gone && options.orphan == Some(false);
            Ok(render::stored(call, if accepted { 202 } else { 200 }, stored))
        }
    }
}

async fn remove_all(core: &Core, call: &Call, bytes: &Bytes) -> Result<Response<ResponseBody>, Status> {
    let options = delete_options(call, bytes)?;
    let filter = Filter::parse(call)?;
    let listing = ListOptions::parse(&call.query, false)?;
    let listed = read::list(core, call, &filter, &listing).await?;
    for item in &listed.items {
        match delete::delete_at(core, call, &item.facet.namespace, &item.facet.name, &options).await {
            Ok(_) => {}
            Err(status) if status.is("NotFound") => {}
            Err(status) => return Err(status),
        }
    }
    Ok(render::list(call, &listed))
}
