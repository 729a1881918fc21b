//! Tells node agents how long they may keep Secrets and ConfigMaps: longer in
//! larger clusters.

use client::{Action, Controller, ObjectKey, Patch};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::context::{Context, Error};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let informers = context.informers.clone();
    let context = context.clone();
    Controller::new("ttl", move |key| reconcile(context.clone(), key))
        .watches(&informers.nodes, |delta| [ObjectKey::of(&**delta.object())])
}

/// Seconds for a cluster of this many nodes.
fn seconds(nodes: usize) -> u32 {
    match nodes {
        0..=100 => 0,
        101..=500 => 15,
        501..=1000 => 30,
        1001..=2000 => 60,
        _ => 300,
    }
}

async fn reconcile(context: Context, key: ObjectKey) -> Result<Action, Error> {
    let nodes = &context.informers.nodes;
    nodes.caught_up().await?;
    let Some(node) = nodes.get(&key) else { return Ok(Action::Done) };
    let wanted = seconds(nodes.list().len()).to_string();
    if node.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION)) == Some(&wanted) {
        return Ok(Action::Done);
    }
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: wanted}}}));
    match context.client.all::<Node>().patch(&key.name, &patch).await {
        Ok(written) => nodes.wrote(written.metadata.resource_version.as_deref()),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::Done)
}
