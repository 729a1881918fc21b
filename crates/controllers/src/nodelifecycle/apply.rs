//! Carries out the plan for one node.

use std::sync::Arc;

use client::events::EventType;
use client::{Action, ObjectKey, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use serde_json::json;
use tokio::time::Instant;

use super::health::Health;
use super::plan::{self, GRACE, Pace, STARTUP_GRACE};
use crate::context::{Context, Error};
use crate::pods;
use crate::taints::condition;

pub(super) async fn reconcile(context: Context, health: Arc<Health>, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.nodes.caught_up().await?;
    let name = &*key.name;
    let Some(node) = informers.nodes.get(&key) else {
        if let Some(uid) = health.forget(name) {
            record(&context, name, &uid, "RemovingNode", &format!("Removing Node {name} from Controller"));
        }
        return Ok(Action::Done);
    };
    let lease = informers.leases.get(&ObjectKey::new(crate::informers::NODE_LEASE_NAMESPACE, name));
    let seen = health.look(&node, lease.as_deref());
    if seen.is_new {
        let uid = node.metadata.uid.clone().unwrap_or_default();
        record(&context, name, &uid, "RegisteredNode", &format!("Registered Node {name} in Controller"));
    }
    let grace = if condition(&node, "Ready").is_empty() { STARTUP_GRACE } else { GRACE };
    let deadline = seen.at + grace;
    let mut wait = Action::Done;
    if Instant::now() < deadline {
        wait = Action::After(deadline - Instant::now());
    } else if let Some(silent) = plan::silent(&node, Timestamp::now()) {
        let was_ready = condition(&node, "Ready") == "True";
        let written = context.client.all::<Node>().replace_status(name, &silent).await?;
        informers.nodes.wrote(written.metadata.resource_version.as_deref());
        if was_ready {
            // Without the event's prefix: this one is about the status.
            let reference = reference(name, &node.metadata.uid.clone().unwrap_or_default());
            let message = format!("Node {name} status is now: NodeNotReady");
            context.recorder.event(&reference, EventType::Normal, "NodeNotReady", message);
            mark_pods_not_ready(&context, name).await?;
        }
        // The own write brings the node back here, with its new conditions.
        return Ok(Action::Done);
    }
    Ok(wait.or(taint(&context, &health, &node).await?))
}

async fn taint(context: &Context, health: &Health, node: &Node) -> Result<Action, Error> {
    let now = Timestamp::now();
    let mut wait = Action::Done;
    let mut evict = true;
    // Only a node that is to be given up needs to ask whether it may.
    if matches!(condition(node, "Ready"), "False" | "Unknown") && plan::taints(node, true, now) != plan::taints(node, false, now) {
        let is_tainted = crate::taints::of(node).iter().any(|taint| {
            taint.effect == "NoExecute" && (taint.key == crate::taints::NOT_READY || taint.key == crate::taints::UNREACHABLE)
        });
        let nodes = context.informers.nodes.list();
        let zone = plan::zone(node);
        evict = match plan::pace(nodes.iter().map(|node| &**node), &zone) {
            Pace::Never => false,
            Pace::NotNow => is_tainted,
            Pace::Every(_) if is_tainted => true,
            Pace::Every(interval) => match health.may_evict(&zone, interval) {
                Ok(()) => true,
                Err(later) => {
                    wait = Action::After(later);
                    false
                }
            },
        };
    }
    if let Some(taints) = plan::taints(node, evict, now) {
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": if taints.is_empty() { None } else { Some(taints) }},
        });
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let written = context.client.all::<Node>().patch(name, &Patch::Merge(patch)).await?;
        context.informers.nodes.wrote(written.metadata.resource_version.as_deref());
    }
    Ok(wait)
}

/// Pods of a node that is silent are not ready for anyone.
async fn mark_pods_not_ready(context: &Context, node: &str) -> Result<(), Error> {
    let pods = context.informers.pods.list();
    for pod in pods.iter().filter(|pod| pods::node(pod) == node && pods::is_ready(pod)) {
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": "Ready",
                "status": "False",
                "lastTransitionTime": api::time::format(Timestamp::now()),
            }]},
        });
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match context.client.of(&**pod).patch_status(name, &Patch::Strategic(patch)).await {
            Ok(_) => context.recorder.warning(&**pod, "NodeNotReady", "Node is not ready"),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn reference(name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

fn record(context: &Context, name: &str, uid: &str, reason: &str, message: &str) {
    let message = format!("Node {name} event: {message}");
    context.recorder.event(&reference(name, uid), EventType::Normal, reason, message);
}
