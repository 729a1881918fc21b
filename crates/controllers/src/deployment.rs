//! Deployment: replaces the pods of one template by those of another at a
//! bounded pace, through ReplicaSets. It never touches a pod.

mod apply;
mod conditions;
mod plan;
mod rollback;
mod sets;
mod sizes;
#[cfg(test)]
mod tests;

use api::selector::Selector;
use client::informer::controller_of;
use client::{Controller, Delta, Informer, ObjectKey};
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::claim::selects;
use crate::context::{Context, Error};

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let context = context.named("deployment-controller");
    let informers = context.informers.clone();
    let (deployments, sets) = (informers.deployments.clone(), informers.replica_sets.clone());
    Controller::new("deployment", {
        let context = context.clone();
        move |key| apply::reconcile(context.clone(), key)
    })
    .watches(&informers.deployments, |delta| [ObjectKey::of(&**delta.object())])
    .watches(&informers.replica_sets, {
        let deployments = deployments.clone();
        move |delta| set_keys(delta, &deployments)
    })
    .watches(&informers.pods, move |delta| pod_keys(delta, &sets, &deployments))
}

fn owner(set: &ReplicaSet) -> Option<ObjectKey> {
    ObjectKey::of_controller(set, Deployment::API_VERSION, Deployment::KIND)
}

/// Old and new owner of a set; of an orphan those that would adopt it.
fn set_keys(delta: &Delta<ReplicaSet>, deployments: &Informer<Deployment>) -> Vec<ObjectKey> {
    let set = delta.object();
    let mut keys: Vec<_> = delta.old().and_then(|old| owner(old)).into_iter().collect();
    keys.extend(owner(set));
    if controller_of(&**set).is_none() && !matches!(delta, Delta::Deleted(_)) {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        for deployment in deployments.in_namespace(namespace) {
            let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
            if Selector::from_label_selector(selector)
                .is_ok_and(|selector| !selector.is_empty() && selects(&selector, &set.metadata))
            {
                keys.push(ObjectKey::of(&*deployment));
            }
        }
    }
    keys.dedup();
    keys
}

/// Pods matter only to a Deployment that waits for the last old one to go.
fn pod_keys(delta: &Delta<Pod>, sets: &Informer<ReplicaSet>, deployments: &Informer<Deployment>) -> Option<ObjectKey> {
    let Delta::Deleted(pod) = delta else { return None };
    let set = ObjectKey::of_controller(&**pod, ReplicaSet::API_VERSION, ReplicaSet::KIND)?;
    let key = owner(&*sets.get(&set)?)?;
    let deployment = deployments.get(&key)?;
    (!plan::is_rolling(&deployment)).then_some(key)
}
