//! Evicts pods from nodes with NoExecute taints that they do not tolerate, at
//! once or when the time they tolerate it is over.

mod plan;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use client::{Action, Controller, DeleteParams, ObjectKey, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use self::plan::Fate;
use crate::clock;
use crate::context::{Context, Error};
use crate::pods;

/// Pods whose eviction is under way or was announced, by uid; to say so when
/// it is called off. Bounded by the pods that exist.
type Marked = Arc<Mutex<HashSet<String>>>;

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let context = context.named("taint-eviction-controller");
    let informers = context.informers.clone();
    let marked = Marked::default();
    let pods = informers.pods.clone();
    Controller::new("taint-eviction", move |key| reconcile(context.clone(), marked.clone(), key))
        .watches(&informers.pods, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.nodes, move |delta| {
            let is_tainted = |node| crate::taints::of(node).iter().any(|taint| taint.effect == "NoExecute");
            let matters = is_tainted(delta.object()) || delta.old().is_some_and(|old| is_tainted(old));
            let name = delta.object().metadata.name.clone().unwrap_or_default();
            let pods = if matters { pods.list() } else { Vec::new() };
            let pods = pods.into_iter().filter(|pod| pods::node(pod) == name);
            pods.map(|pod| ObjectKey::of(&*pod)).collect::<Vec<_>>()
        })
}

async fn reconcile(context: Context, marked: Marked, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.nodes.caught_up().await?;
    let Some(pod) = informers.pods.get(&key) else { return Ok(Action::Done) };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let node = informers.nodes.get(&ObjectKey::cluster(pods::node(&pod)));
    let now = Timestamp::now();
    let mark = |is_marked: bool| {
        let mut marked = marked.lock().unwrap_or_else(PoisonError::into_inner);
        if is_marked { marked.insert(uid.clone()) } else { marked.remove(&uid) }
    };
    match plan::fate(&pod, node.as_deref(), now) {
        Fate::Stays => {
            if mark(false) && pod.metadata.deletion_timestamp.is_none() {
                let message = format!("Cancelling deletion of Pod {key}");
                context.recorder.normal(&*pod, "TaintManagerEviction", message);
            }
            Ok(Action::Done)
        }
        Fate::LeavesAt(when) => {
            mark(true);
            Ok(Action::After(clock::until(when, now)))
        }
        Fate::Leaves => {
            evict(&context, &pod, &key).await?;
            mark(false);
            Ok(Action::Done)
        }
    }
}

async fn evict(context: &Context, pod: &Pod, key: &ObjectKey) -> Result<(), Error> {
    context.recorder.normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
    let message = "Taint manager: deleting due to NoExecute taint";
    let api = context.client.of(pod);
    let result = match api.patch_status(&key.name, &Patch::Strategic(disruption(pod, "DeletionByTaintManager", message))).await {
        Ok(_) => api.delete(&key.name, &DeleteParams::uid(pod.metadata.uid.clone().unwrap_or_default())).await,
        Err(error) => Err(error),
    };
    match result {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// A patch that gives the pod the condition DisruptionTarget.
pub(crate) fn disruption(pod: &Pod, reason: &str, message: &str) -> serde_json::Value {
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": message,
            "observedGeneration": pod.metadata.generation,
            "lastTransitionTime": api::time::format(Timestamp::now()),
        }]},
    })
}
