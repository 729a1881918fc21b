//! Measures what is used of each ResourceQuota and writes it to its status.
//! New objects are charged by the API server; this heals what was charged
//! wrongly and gives back what was released. It refuses nothing.

mod apply;
mod counted;
mod plan;

use std::sync::Arc;

use client::{Client, Controller, Delta, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Error};
use crate::pods;

use self::counted::Counted;

/// Runs until `shutdown`.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    let informers = context.informers.clone();
    let client: Client = context.client.clone();
    let counted = Arc::new(Counted::default());
    let controller = Controller::<Error>::new("resourcequota", {
        let (context, counted) = (context.clone(), counted.clone());
        move |key| apply::reconcile(context.clone(), counted.clone(), key)
    });
    let quotas = informers.resource_quotas.clone();
    let (of_pods, of_services, of_claims) = (quotas.clone(), quotas.clone(), quotas.clone());
    let controller =
        controller
            .watches(&informers.resource_quotas, |delta| quota_matters(delta).then(|| ObjectKey::of(&**delta.object())))
            .watches(
                &informers.pods,
                move |delta| {
                    if pod_matters(delta) { in_namespace_of(&of_pods, delta) } else { Vec::new() }
                },
            )
            .watches(&informers.services, move |delta| {
                if service_matters(delta) { in_namespace_of(&of_services, delta) } else { Vec::new() }
            })
            .watches(&informers.claims, move |delta| {
                if claim_matters(delta) { in_namespace_of(&of_claims, delta) } else { Vec::new() }
            });
    let queue = controller.queue();
    tokio::join!(controller.run(shutdown.clone()), counted::run(client, quotas, counted, queue, shutdown));
}

fn in_namespace_of<K>(quotas: &Informer<ResourceQuota>, delta: &Delta<K>) -> Vec<ObjectKey>
where
    K: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
{
    let namespace = delta.object().metadata().namespace.as_deref().unwrap_or_default();
    quotas.in_namespace(namespace).iter().map(|quota| ObjectKey::of(&**quota)).collect()
}

/// Not what the API server charged: an object is charged before it is there,
/// so measuring at once would give its share away a second time.
fn quota_matters(delta: &Delta<ResourceQuota>) -> bool {
    delta.old().is_none_or(|old| old.spec != delta.object().spec)
}

/// Whether the change can give back what the pod takes. New objects never do:
/// they are charged by the API server, and others may be charged already that
/// do not show yet.
fn pod_matters(delta: &Delta<Pod>) -> bool {
    let Some(old) = delta.old() else { return matches!(delta, Delta::Deleted(_)) };
    let new = delta.object();
    let deadline = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
    let statuses = |pod: &Pod| {
        let status = pod.status.as_ref();
        let all = status.and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        all.into_iter().map(|one| (one.name, one.resources, one.allocated_resources)).collect::<Vec<_>>()
    };
    pods::is_finished(old) != pods::is_finished(new)
        || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || deadline(old) != deadline(new)
        || statuses(old) != statuses(new)
}

fn service_matters(delta: &Delta<Service>) -> bool {
    delta.old().map_or(matches!(delta, Delta::Deleted(_)), |old| old.spec != delta.object().spec)
}

fn claim_matters(delta: &Delta<PersistentVolumeClaim>) -> bool {
    let Some(old) = delta.old() else { return matches!(delta, Delta::Deleted(_)) };
    let (old, new) = (&**old, &**delta.object());
    let allocated = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|s| s.allocated_resources.clone());
    old.spec != new.spec || allocated(old) != allocated(new)
}
