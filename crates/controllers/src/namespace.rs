//! Empties namespaces that are to be deleted, pods first, and lets them go.

mod apply;
mod plan;

use client::{Controller, Delta, ObjectKey};

use crate::context::{Context, Error};

/// Upstream's `concurrent-namespace-syncs`.
const CONCURRENT: usize = 10;

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let informers = context.informers.clone();
    let context = context.clone();
    let namespaces = informers.namespaces.clone();
    Controller::new("namespace", move |key| apply::reconcile(context.clone(), key))
        .watches(&informers.namespaces, |delta| match delta {
            Delta::Deleted(_) => None,
            Delta::Added(_) | Delta::Updated { .. } => Some(ObjectKey::of(&**delta.object())),
        })
        // The last pod to go is what the rest waits for.
        .watches(&informers.pods, move |delta| {
            let Delta::Deleted(pod) = delta else { return None };
            let key = ObjectKey::cluster(pod.metadata.namespace.as_deref().unwrap_or_default());
            namespaces.get(&key).filter(|namespace| namespace.metadata.deletion_timestamp.is_some()).map(|_| key)
        })
        .concurrency(CONCURRENT)
}
