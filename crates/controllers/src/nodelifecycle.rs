//! Watches nodes by their leases and conditions: a node that falls silent is
//! marked, its pods no longer count as ready, and taints tell scheduler and
//! evictions. It never deletes a node or a pod.

mod apply;
mod health;
mod plan;

use std::sync::Arc;

use client::{Controller, ObjectKey};

use crate::context::{Context, Error};

use self::health::Health;

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let context = context.named("node-controller");
    let informers = context.informers.clone();
    let health = Arc::new(Health::default());
    Controller::new("node-lifecycle", move |key| apply::reconcile(context.clone(), health.clone(), key))
        .watches(&informers.nodes, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.leases, |delta| delta.object().metadata.name.as_deref().map(ObjectKey::cluster))
        .waits_for(&informers.pods)
}
