//! Removes pods that nobody else will: of nodes that are gone, terminating
//! ones that were never bound, those stuck on a node declared out of service,
//! and the oldest finished ones beyond a number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Action, Controller, DeleteParams, ObjectKey, Patch};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::time::Instant;

use crate::context::{Context, Error};
use crate::tainteviction::disruption;
use crate::{pods, taints};

/// How long a node must be missing before its pods go; upstream's quarantine.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Since when nodes that pods name are missing. Bounded by the pods that exist.
type Missing = Arc<Mutex<HashMap<String, Instant>>>;

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let informers = context.informers.clone();
    let context = context.named("pod-garbage-collector");
    let missing = Missing::default();
    let pods = informers.pods.clone();
    Controller::new("pod-gc", move |key| reconcile(context.clone(), missing.clone(), key))
        .watches(&informers.pods, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.nodes, move |delta| {
            let node = delta.object();
            let is_out = taints::of(node).iter().any(|taint| taint.key == taints::OUT_OF_SERVICE);
            let matters = is_out || !matches!(delta, client::Delta::Updated { .. });
            let name = node.metadata.name.clone().unwrap_or_default();
            let pods = if matters { pods.list() } else { Vec::new() };
            pods.into_iter().filter(|pod| pods::node(pod) == name).map(|pod| ObjectKey::of(&*pod)).collect::<Vec<_>>()
        })
}

async fn reconcile(context: Context, missing: Missing, key: ObjectKey) -> Result<Action, Error> {
    let Some(pod) = context.informers.pods.get(&key) else { return Ok(Action::Done) };
    let node_name = pods::node(&pod).to_owned();
    let is_leaving = pod.metadata.deletion_timestamp.is_some();
    if node_name.is_empty() {
        if is_leaving {
            remove(&context, &pod, None).await?;
        }
        return Ok(Action::Done);
    }
    let forget = || missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&node_name);
    if let Some(node) = context.informers.nodes.get(&ObjectKey::cluster(node_name.as_str())) {
        forget();
        let is_out = taints::of(&node).iter().any(|taint| taint.key == taints::OUT_OF_SERVICE);
        if is_leaving && is_out && taints::condition(&node, "Ready") != "True" {
            remove(&context, &pod, None).await?;
        }
        return Ok(Action::Done);
    }
    let since = *missing
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(node_name.clone())
        .or_insert_with(Instant::now);
    if let Some(left) = QUARANTINE.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
        return Ok(Action::After(left));
    }
    // The copy may be behind; a pod killed by mistake is not.
    if context.client.all::<Node>().get_opt(&node_name).await?.is_some() {
        forget();
        return Ok(Action::Done);
    }
    remove(&context, &pod, Some(("DeletionByPodGC", "PodGC: node no longer exists"))).await?;
    Ok(Action::Done)
}

/// Marks the pod failed, with the reason if there is one, and deletes it at once.
async fn remove(context: &Context, pod: &Pod, reason: Option<(&str, &str)>) -> Result<(), Error> {
    let api = context.client.of(pod);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut result = Ok(());
    if !pods::is_finished(pod) {
        let mut patch = match reason {
            Some((reason, message)) => disruption(pod, reason, message),
            None => json!({"metadata": {"uid": pod.metadata.uid}, "status": {}}),
        };
        patch["status"]["phase"] = json!("Failed");
        patch["status"]["observedGeneration"] = json!(pod.metadata.generation);
        result = api.patch_status(name, &Patch::Strategic(patch)).await.map(drop);
    }
    if result.is_ok() {
        result = api.delete(name, &DeleteParams { grace: Some(Duration::ZERO), ..DeleteParams::default() }).await;
    }
    match result {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

// TODO-correctness: finished pods beyond upstream's threshold of 12500 are not
// removed, until the informer can count its finished pods without a scan.
