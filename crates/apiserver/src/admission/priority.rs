//! Priority: a pod's priority and preemption policy come from its class.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::object;
use crate::pipeline::write;

pub(super) struct Priority;

impl Plugin for Priority {
    fn handles(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Create => request.is("", "pods") || request.is("scheduling.k8s.io", "priorityclasses"),
            Operation::Update => request.is("", "pods"),
            Operation::Delete => false,
        }
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !request.is("", "pods") {
                return Ok(());
            }
            if request.operation == Operation::Update {
                keep(pod, request.old);
                return Ok(());
            }
            resolve(request, pod).await
        })
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, class: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let default = class.get("globalDefault").and_then(Value::as_bool) == Some(true);
            if !request.is("scheduling.k8s.io", "priorityclasses") || !default {
                return Ok(());
            }
            match global_default(request).await? {
                Some(other) => {
                    let name = other["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    Err(request.forbid(&format!(
                        "PriorityClass {name} is already marked as default. Only one default can exist"
                    )))
                }
                None => Ok(()),
            }
        })
    }
}

/// A pod keeps the priority it got.
fn keep(pod: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    for field in ["priority", "preemptionPolicy"] {
        let missing = object::at(pod, "spec").get(field).is_none();
        if let (true, Some(value)) = (missing, object::at(old, "spec").get(field)) {
            object::map_mut(pod, "spec").insert(field.to_owned(), value.clone());
        }
    }
}

async fn resolve(request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
    let name = object::text(pod, "spec.priorityClassName").to_owned();
    let class = if name.is_empty() {
        global_default(request).await?
    } else {
        let classes = request.core.collection("scheduling.k8s.io", "priorityclasses")?;
        match write::current(request.core, &classes.key("", &name)).await? {
            Some(current) => Some(current.object),
            None => return Err(request.forbid(&format!("no PriorityClass with name {name} was found"))),
        }
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy = class.as_ref().and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
    let spec = object::map_mut(pod, "spec");
    if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|given| *given != value) {
        return Err(request.forbid(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|given| *given != policy) {
        return Err(request.forbid(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    if let (true, Some(class)) = (name.is_empty(), &class) {
        spec.insert("priorityClassName".to_owned(), class["metadata"]["name"].clone());
    }
    spec.insert("priority".to_owned(), value.into());
    spec.insert("preemptionPolicy".to_owned(), policy.into());
    Ok(())
}

/// The class that pods without one get: of several, the lowest.
async fn global_default(request: &Request<'_>) -> Result<Option<Value>, Status> {
    let mut best: Option<Value> = None;
    for class in request.all("scheduling.k8s.io", "priorityclasses").await? {
        if class["globalDefault"].as_bool() != Some(true) {
            continue;
        }
        let lower = best.as_ref().is_none_or(|best| class["value"].as_i64() < best["value"].as_i64());
        if lower {
            best = Some(class);
        }
    }
    Ok(best)
}
