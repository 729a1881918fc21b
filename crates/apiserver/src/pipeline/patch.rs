//! PATCH in its four types. How a patch is applied to a tree is the patch
//! modules'; this is what the pipeline does around it.

use api::status::Status;
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::body::ResponseBody;
use super::call::Call;
use super::options::WriteOptions;
use super::render;
use super::update::{self, Change, Target};
use crate::object::{self, Meta};
use crate::state::Core;
use crate::strategy::Part;

/// `Content-Type` of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own merge by keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

const SUPPORTED: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
const SUPPORTED_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// Reads the patch type of a request.
pub(crate) fn patch_type(call: &Call) -> Result<PatchType, Status> {
    let header = call.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let custom = call.resource.custom;
    match header.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" if !custom => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(Status::unsupported_media_type(if custom { SUPPORTED_CUSTOM } else { SUPPORTED })),
    }
}

/// Patches the object or its status.
pub(crate) async fn patch(core: &Core, call: &Call, bytes: &Bytes) -> Result<Response<ResponseBody>, Status> {
    let part = super::verbs::part(call);
    let (stored, created) = patch_part(core, call, bytes, part).await?;
    Ok(render::stored(call, if created { 201 } else { 200 }, stored))
}

/// Patches a part of the object.
pub(crate) async fn patch_part(
    core: &Core,
    call: &Call,
    bytes: &Bytes,
    part: Part,
) -> Result<(super::write::Stored, bool), Status> {
    let kind = patch_type(call)?;
    let options = WriteOptions::parse(&call.query, "PatchOptions", kind == PatchType::Apply)?;
    let patch = crate::wire::decode_patch(call, kind, bytes, &options)?;
    let change = Patch { call, kind, patch, options: &options, part };
    let target = Target { name: &call.info.name, part, subresource: &call.info.subresource };
    update::update(core, call, &target, &change, &options).await
}

/// Applies a patch of any type to a current hub object.
pub(crate) fn patched(
    call: &Call,
    kind: PatchType,
    patch: &crate::wire::PatchBody,
    options: &WriteOptions,
    old: &Value,
) -> Result<Value, Status> {
    let resource = &call.resource;
    let mut current = old.clone();
    resource.from_hub(&mut current);
    let mut next = if kind == PatchType::Apply {
        crate::wire::apply(call, Some(&current), patch, options)?
    } else {
        crate::wire::patch(call, kind, &current, patch, options)?
    };
    let (was, now) = (resource.api_version.as_str(), object::text(&next, "apiVersion"));
    if now != was || object::text(&next, "kind") != resource.kind() {
        let message = format!("kind or apiVersion must not be changed by a patch ({now}, {was})");
        return Err(Status::bad_request(message));
    }
    if next.name() != old.name() {
        let message =
            format!("the name of the object ({}) does not match the name on the URL ({})", next.name(), old.name());
        return Err(Status::bad_request(message));
    }
    resource.to_hub(&mut next);
    resource.collection.strategy.default(&mut next);
    Ok(next)
}

struct Patch<'a> {
    call: &'a Call,
    kind: PatchType,
    patch: crate::wire::PatchBody,
    options: &'a WriteOptions,
    part: Part,
}

impl Change for Patch<'_> {
    fn next(&self, old: Option<&Value>) -> Result<Value, Status> {
        let resource = &self.call.resource;
        let Some(old) = old else {
            // Only apply creates.
            let mut object = crate::wire::apply(self.call, None, &self.patch, self.options)?;
            resource.to_hub(&mut object);
            resource.collection.strategy.default(&mut object);
            return Ok(object);
        };
        patched(self.call, self.kind, &self.patch, self.options, old)
    }

    fn manages(&self) -> bool {
        self.kind != PatchType::Apply
    }

    fn creates(&self) -> bool {
        self.kind == PatchType::Apply && self.part == Part::Main
    }
}
