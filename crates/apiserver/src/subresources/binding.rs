//! `pods/binding`: gives an unscheduled pod its node.

use api::status::Status;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::object::{self, Meta};
use crate::pipeline::body::{self, RequestBody, ResponseBody};
use crate::pipeline::call::Call;
use crate::pipeline::options::WriteOptions;
use crate::pipeline::render;
use crate::pipeline::update::{self, Map, Target};
use crate::state::Core;
use crate::strategy::Part;

/// Binds the pod of the URL.
pub(crate) async fn bind(
    core: &Core,
    call: &Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let bytes = body::read(request.into_body()).await?;
    let expected = crate::wire::Expected {
        api_version: "v1",
        kind: "Binding",
        schema: crate::wire::definition("core.v1.Binding")?,
    };
    let binding = crate::wire::decode_as(call, &bytes, options.field_validation, &expected)?;
    let kind = object::text(&binding, "target.kind");
    if !kind.is_empty() && kind != "Node" && kind != "Minion" {
        let mut errors = crate::field::Errors::new();
        let target = crate::field::Path::new("target");
        errors.not_supported(&target.child("kind"), &Value::from(kind), &["Node", "<empty>"]);
        return Err(Status::invalid("", "Binding", binding.name(), errors.into_causes()));
    }
    let node = object::text(&binding, "target.name");
    if node.is_empty() {
        let mut errors = crate::field::Errors::new();
        let target = crate::field::Path::new("target");
        errors.required(&target.child("name"), "");
        return Err(Status::invalid("", "Binding", binding.name(), errors.into_causes()));
    }
    let name = call.info.name.as_str();
    let stamp = call.stamp();
    let change = Map(|pod: &Value| {
        let conflict = |why: String| {
            let resource = api::gvk::GroupResource { group: String::new(), resource: "pods/binding".to_owned() };
            Err(Status::conflict(&resource, name, &why))
        };
        let refused = |why: String| conflict(why);
        if pod.deleting() {
            return refused(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        let bound = object::text(pod, "spec.nodeName");
        if !bound.is_empty() {
            return refused(format!("pod {name} is already assigned to node \"{bound}\""));
        }
        if !object::items(pod, "spec.schedulingGates").is_empty() {
            return refused(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut next = pod.clone();
        object::map_mut(&mut next, "spec").insert("nodeName".to_owned(), node.into());
        for (key, value) in binding.meta("annotations").as_object().into_iter().flatten() {
            let annotations = object::metadata(&mut next).entry("annotations").or_insert_with(|| json!({}));
            object::as_map(annotations).insert(key.clone(), value.clone());
        }
        scheduled(&mut next, &stamp);
        Ok(next)
    });
    let target = Target { name, part: Part::Other("binding"), subresource: "binding" };
    let (_, _) = update::update(core, call, &target, &change, &options).await?;
    let mut status = Status::success();
    status.code = Some(201);
    Ok(render::value(&call.accept, 201, &serde_json::to_value(&status).unwrap_or_default()))
}

/// Sets the condition that says that the pod has a node.
fn scheduled(pod: &mut Value, stamp: &str) {
    let status = object::map_mut(pod, "status");
    // It named the node that was being made free; the pod has one now.
    status.remove("nominatedNodeName");
    let fresh = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": stamp});
    let conditions = object::list_mut(status, "conditions");
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(condition) => *condition = fresh,
        None => conditions.push(fresh),
    }
}
