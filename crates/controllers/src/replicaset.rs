//! ReplicaSet: keeps a number of pods of one template. It knows nothing of
//! versions; that is the Deployment's business.

mod apply;
mod plan;

use client::informer::controller_of;
use client::{Controller, Delta, Informer, ObjectKey};
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use api::selector::Selector;

use crate::claim::selects;
use crate::context::{Context, Error};

/// Upstream's `concurrent-replicaset-syncs`.
const CONCURRENT: usize = 5;

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let context = context.named("replicaset-controller");
    let informers = context.informers.clone();
    let sets = informers.replica_sets.clone();
    Controller::new("replicaset", move |key| apply::reconcile(context.clone(), key))
        .watches(&informers.replica_sets, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.pods, move |delta| keys(delta, &sets))
        .concurrency(CONCURRENT)
}

/// The sets that a changed pod concerns: its old and new owner, and if it has
/// none, every set that would adopt it.
fn keys(delta: &Delta<Pod>, sets: &Informer<ReplicaSet>) -> Vec<ObjectKey> {
    let owner = |pod: &Pod| ObjectKey::of_controller(pod, ReplicaSet::API_VERSION, ReplicaSet::KIND);
    let pod = delta.object();
    let mut keys: Vec<_> = delta.old().and_then(|old| owner(old)).into_iter().collect();
    keys.extend(owner(pod));
    if controller_of(&**pod).is_none() && !matches!(delta, Delta::Deleted(_)) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for set in sets.in_namespace(namespace) {
            let selector = set.spec.as_ref().map(|spec| &spec.selector);
            if Selector::from_label_selector(selector)
                .is_ok_and(|selector| !selector.is_empty() && selects(&selector, &pod.metadata))
            {
                keys.push(ObjectKey::of(&*set));
            }
        }
    }
    keys.dedup();
    keys
}
