//! Subresources that write one part of the object and keep the rest: a
//! namespace's finalizers, a signing request's approval, a pod's debug
//! containers and its resources.

use api::status::Status;
use http::{Request, Response};
use serde_json::Value;

use crate::object::{self, Meta, Object};
use crate::pipeline::body::{self, RequestBody, ResponseBody};
use crate::pipeline::call::Call;
use crate::pipeline::options::WriteOptions;
use crate::pipeline::update::{self, Map, Replace, Target};
use crate::pipeline::{patch, read, render, verbs};
use crate::state::Core;
use crate::strategy::Part;

/// A part: its name, and how it is taken from what was sent.
pub(super) struct PartOf {
    name: &'static str,
    /// The current object with the part of the sent one.
    take: fn(&Value, &Value, &Call) -> Value,
}

/// `namespaces/finalize`.
pub(super) const FINALIZE: PartOf = PartOf {
    name: "finalize",
    take: |old, sent, _| {
        let mut next = old.clone();
        match object::at(sent, "spec.finalizers") {
            Value::Array(finalizers) if !finalizers.is_empty() => {
                object::map_mut(&mut next, "spec").insert("finalizers".to_owned(), finalizers.clone().into());
            }
            _ => {
                object::map_mut(&mut next, "spec").remove("finalizers");
            }
        }
        next
    },
};

/// `certificatesigningrequests/approval`: only conditions, with their times.
pub(super) const APPROVAL: PartOf = PartOf {
    name: "approval",
    take: |old, sent, call| {
        let mut next = old.clone();
        let mut conditions = object::items(sent, "status.conditions").to_vec();
        let before = object::items(old, "status.conditions");
        let stamp = call.stamp();
        for condition in &mut conditions {
            let same = before.iter().find(|one| one["type"] == condition["type"]);
            let map = object::as_map(condition);
            object::default(map, "lastUpdateTime", stamp.as_str());
            let since = same.and_then(|one| one.get("lastTransitionTime")).cloned();
            object::default(map, "lastTransitionTime", since.unwrap_or_else(|| stamp.as_str().into()));
        }
        object::map_mut(&mut next, "status").insert("conditions".to_owned(), conditions.into());
        next
    },
};

/// `pods/ephemeralcontainers`: existing ones stay, new ones are added.
pub(super) const EPHEMERAL_CONTAINERS: PartOf = PartOf {
    name: "ephemeralcontainers",
    take: |old, sent, _| {
        let mut next = old.clone();
        let containers = object::items(sent, "spec.ephemeralContainers").to_vec();
        object::map_mut(&mut next, "spec").insert("ephemeralContainers".to_owned(), containers.into());
        next
    },
};

/// `pods/resize`: resources of the pod and its containers, and their resize
/// policies. Other containers than the pod has are left for validation to
/// refuse.
pub(super) const RESIZE: PartOf = PartOf {
    name: "resize",
    take: |old, sent, _| {
        let mut next = old.clone();
        let names = |pod: &Value, list: &str| -> Vec<Value> {
            object::items(pod, &format!("spec.{list}")).iter().map(|container| container["name"].clone()).collect()
        };
        if ["containers", "initContainers"].iter().any(|list| names(old, list) != names(sent, list)) {
            object::as_map(&mut next).insert("spec".to_owned(), object::at(sent, "spec").clone());
            return next;
        }
        let spec = object::map_mut(&mut next, "spec");
        for list in ["containers", "initContainers"] {
            let wanted = object::items(sent, &format!("spec.{list}"));
            let own = spec.get_mut(list).and_then(Value::as_array_mut);
            for (container, wanted) in own.into_iter().flatten().zip(wanted) {
                for field in ["resources", "resizePolicy"] {
                    take(object::as_map(container), wanted, field);
                }
            }
        }
        take(spec, object::at(sent, "spec"), "resources");
        next
    },
};

fn take(target: &mut Object, source: &Value, field: &str) {
    match source.get(field) {
        Some(value) => target.insert(field.to_owned(), value.clone()),
        None => target.remove(field),
    };
}

/// GET, PUT and PATCH of a part.
pub(super) async fn answer(
    core: &Core,
    call: &Call,
    request: Request<RequestBody>,
    part: &'static PartOf,
) -> Result<Response<ResponseBody>, Status> {
    let name = call.info.name.as_str();
    if call.info.verb == "get" {
        let item = read::get(core, call, name).await?;
        return Ok(render::item(call, &item));
    }
    let bytes = body::read(request.into_body()).await?;
    let target = Target { name, part: Part::Other(part.name), subresource: part.name };
    if call.info.verb == "patch" {
        let kind = patch::patch_type(call)?;
        let options = WriteOptions::parse(&call.query, "PatchOptions", kind == patch::PatchType::Apply)?;
        let sent = crate::wire::decode_patch(call, kind, &bytes, &options)?;
        let change = Map(|old: &Value| {
            let patched = patch::patched(call, kind, &sent, &options, old)?;
            Ok(with_meta((part.take)(old, &patched, call), &patched))
        });
        let (stored, _) = update::update(core, call, &target, &change, &options).await?;
        return Ok(render::stored(call, 200, stored));
    }
    let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
    let sent = verbs::decode(call, &bytes, &options)?;
    let check = Replace { object: sent.clone(), creates: false };
    if sent.name() != name {
        let message = format!("the name of the object ({}) does not match the name on the URL ({name})", sent.name());
        return Err(Status::bad_request(message));
    }
    let change = Map(|old: &Value| Ok(with_meta((part.take)(old, &check.object, call), &check.object)));
    let (stored, _) = update::update(core, call, &target, &change, &options).await?;
    Ok(render::stored(call, 200, stored))
}

/// What identifies the write is the sent object's: version, uid, owners of fields.
fn with_meta(mut next: Value, sent: &Value) -> Value {
    for field in ["resourceVersion", "uid", "managedFields"] {
        object::set_meta(&mut next, field, sent.meta(field).clone());
    }
    next
}
