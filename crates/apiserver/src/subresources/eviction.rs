//! `pods/eviction`: deletes a pod if the budgets that cover it allow.

use api::selector::Selector;
use api::status::{Status, StatusCause};
use http::{Request, Response};
use serde_json::{Value, json};
use store::Precondition;

use crate::object::{self, Meta};
use crate::pipeline::body::{self, RequestBody, ResponseBody};
use crate::pipeline::call::Call;
use crate::pipeline::delete;
use crate::pipeline::options::{DeleteOptions, WriteOptions};
use crate::pipeline::write::{self, Current, Refused};
use crate::pipeline::{read, render};
use crate::state::Core;

/// Pods that a budget remembers as disrupted; more are a conflict.
const DISRUPTED_LIMIT: usize = 2000;
/// Attempts to take a disruption from a budget.
const ATTEMPTS: usize = 20;

/// Evicts the pod of the URL.
pub(super) async fn evict(
    core: &Core,
    call: &Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let bytes = body::read(request.into_body()).await?;
    let expected = crate::wire::Expected {
        api_version: "policy/v1",
        kind: "Eviction",
        schema: crate::wire::definition("policy.v1.Eviction")?,
    };
    let eviction = crate::wire::decode_as(call, &bytes, options.field_validation, &expected)?;
    let name = call.info.name.as_str();
    if !eviction.name().is_empty() && eviction.name() != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let item = read::get(core, call, name).await?;
    let pod = write::decode(&item.entry)?;
    let delete_options = eviction.get("deleteOptions").filter(|options| options.is_object());
    let mut deletion = DeleteOptions::parse(delete_options, &call.query)?;
    deletion.dry_run |= options.dry_run;
    if !free_to_go(&pod) {
        take_disruption(core, call, &pod, deletion.dry_run).await?;
    }
    delete::delete(core, call, name, &deletion).await?;
    let mut status = Status::success();
    status.code = Some(201);
    Ok(render::value(&call.accept, 201, &serde_json::to_value(&status).unwrap_or_default()))
}

/// Pods that are over or never started need no budget.
fn free_to_go(pod: &Value) -> bool {
    matches!(object::text(pod, "status.phase"), "Succeeded" | "Failed" | "Pending") || pod.deleting()
}

async fn take_disruption(core: &Core, call: &Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    for _ in 0..ATTEMPTS {
        let Some(budget) = budget_of(core, call, pod).await? else { return Ok(()) };
        let ready =
            object::items(pod, "status.conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        let current = object::at(&budget.object, "status.currentHealthy").as_i64().unwrap_or(0);
        let desired = object::at(&budget.object, "status.desiredHealthy").as_i64().unwrap_or(0);
        let always = object::text(&budget.object, "spec.unhealthyPodEvictionPolicy") == "AlwaysAllow";
        if !ready && (always || (current >= desired && desired > 0)) {
            return Ok(());
        }
        let next = disrupted(call, pod, &budget.object)?;
        if dry_run {
            return Ok(());
        }
        let budgets = core.collection("policy", "poddisruptionbudgets")?;
        let mut next = next;
        let when = Precondition::ModifiedAt(budget.entry.modified);
        match write::put(core, &budgets, std::sync::Arc::clone(&budget.entry.key), &mut next, when).await {
            Ok(_) => return Ok(()),
            Err(Refused::Conflict) => {}
            Err(Refused::Failed(status)) => return Err(status),
        }
    }
    Err(Status::modified(&call.resource.collection.group_resource, pod.name()))
}

async fn budget_of(core: &Core, call: &Call, pod: &Value) -> Result<Option<Current>, Status> {
    let budgets = core.collection("policy", "poddisruptionbudgets")?;
    let mut found: Option<Current> = None;
    for budget in write::all(core, &budgets, &call.info.namespace).await? {
        let selector = Selector::from_value(object::at(&budget.object, "spec.selector"));
        if !selector.is_ok_and(|selector| selector.matches(pod.meta("labels"))) {
            continue;
        }
        if found.is_some() {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::untyped(why));
        }
        found = Some(budget);
    }
    Ok(found)
}

/// The budget after one more disruption, or why there cannot be one.
fn disrupted(call: &Call, pod: &Value, budget: &Value) -> Result<Value, Status> {
    let refuse = |message: &str, reason: &str, detail: String, seconds: Option<u32>| {
        let mut status = Status::failure(429, "TooManyRequests", message);
        let details = status.details.get_or_insert_default();
        details.retry_after_seconds = seconds;
        details.causes.push(StatusCause { reason: Some(reason.to_owned()), message: Some(detail), field: None });
        status
    };
    const MESSAGE: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
    if object::at(budget, "status.observedGeneration").as_i64().unwrap_or(0) < budget.generation() {
        let detail = format!("The disruption budget {} is still being processed by the server.", budget.name());
        return Err(refuse(MESSAGE, "DisruptionBudget", detail, Some(10)));
    }
    let allowed = object::at(budget, "status.disruptionsAllowed").as_i64().unwrap_or(0);
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return Err(Status::forbidden(&call.resource.collection.group_resource, budget.name(), why));
    }
    if object::at(budget, "status.disruptedPods").as_object().map_or(0, serde_json::Map::len) > DISRUPTED_LIMIT {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(&call.resource.collection.group_resource, budget.name(), why));
    }
    if allowed == 0 {
        let number = |path: &str| object::at(budget, path).as_i64().unwrap_or(0);
        let detail = format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            budget.name(),
            number("status.desiredHealthy"),
            number("status.currentHealthy")
        );
        return Err(refuse(MESSAGE, "DisruptionBudget", detail, None));
    }
    let mut next = budget.clone();
    let status = object::map_mut(&mut next, "status");
    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
    let pods = object::as_map(status.entry("disruptedPods").or_insert_with(|| json!({})));
    pods.insert(pod.name().to_owned(), call.stamp().into());
    Ok(next)
}
