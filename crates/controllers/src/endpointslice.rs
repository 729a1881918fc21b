//! EndpointSlices: which pods stand behind each Service, for whoever routes.
//! It looks at pods, never at traffic.

mod apply;
mod plan;

use client::{Controller, Delta, ObjectKey};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::context::{Context, Error};
use crate::services;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let context = context.named("endpoint-slice-controller");
    let informers = context.informers.clone();
    let (pods, services) = (informers.pods.clone(), informers.services.clone());
    Controller::new("endpointslice", move |key| apply::reconcile(context.clone(), key))
        .watches(&informers.services, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.endpoint_slices, slice_keys)
        .watches(&informers.nodes, {
            let services = services.clone();
            move |delta| services::of_node(delta, &pods, &services)
        })
        .watches(&informers.pods, move |delta| services::of_pod(delta, &services))
}

/// A slice names its Service by a label.
fn slice_keys(delta: &Delta<EndpointSlice>) -> Vec<ObjectKey> {
    let key = |slice: &EndpointSlice| {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
        Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service.as_str()))
    };
    let mut keys: Vec<_> = delta.old().and_then(|old| key(old)).into_iter().collect();
    keys.extend(key(delta.object()));
    keys.dedup();
    keys
}

fn is_managed(slice: &EndpointSlice, service: &str) -> bool {
    let label = |key: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    label(SERVICE_LABEL) == Some(service) && label(MANAGED_BY_LABEL) == Some(MANAGER)
}
