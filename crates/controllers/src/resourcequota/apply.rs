//! Reads a namespace and writes its quota's status.

use std::sync::Arc;

use client::{Action, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use serde::Serialize;
use serde_json::Value;

use super::counted::Counted;
use super::plan::{self, Found};
use crate::context::{Context, Error};

fn trees<K: Serialize>(objects: &[Arc<K>]) -> Vec<Value> {
    // Typed objects of the API are trees of texts and numbers.
    objects.iter().filter_map(|object| serde_json::to_value(&**object).ok()).collect()
}

pub(super) async fn reconcile(context: Context, counted: Arc<Counted>, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.resource_quotas.caught_up().await?;
    let Some(quota) = informers.resource_quotas.get(&key) else { return Ok(Action::Done) };
    let namespace = &*key.namespace;
    let found = Found {
        pods: trees(&informers.pods.in_namespace(namespace)),
        services: trees(&informers.services.in_namespace(namespace)),
        claims: trees(&informers.claims.in_namespace(namespace)),
    };
    let now = Timestamp::now();
    let tree = serde_json::to_value(&*quota).unwrap_or_default();
    let count = |group: &str, plural: &str| counted.number(group, plural, namespace);
    if let Some(status) = plan::status(&tree, &found, &count, now) {
        let mut next = (*quota).clone();
        next.status = serde_json::from_value(status).ok();
        match context.client.namespaced::<ResourceQuota>(namespace).replace_status(&key.name, &next).await {
            Ok(written) => informers.resource_quotas.wrote(written.metadata.resource_version.as_deref()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(plan::next_release(&found.pods, now).map_or(Action::Done, Action::After))
}
