//! Carries out the plan. Decides nothing.

use client::{Action, ClientError, DeleteParams, ObjectKey};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::is_managed;
use super::plan::{self, Observed};
use crate::context::{Context, Error};
use crate::services;

pub(super) async fn reconcile(context: Context, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.endpoint_slices.caught_up().await?;
    // Slices of a deleted Service go by garbage collection.
    let Some(service) = informers.services.get(&key) else { return Ok(Action::Done) };
    let Some(spec) = services::selecting(&service) else { return Ok(Action::Done) };
    let pods = services::selected(&informers.pods, &key.namespace, spec);
    let mut slices = informers.endpoint_slices.in_namespace(&key.namespace);
    slices.retain(|slice| is_managed(slice, &key.name) && slice.metadata.deletion_timestamp.is_none());
    let plan = plan::plan(&Observed {
        service: &service,
        pods: &pods,
        slices: &slices,
        node: &|name| informers.nodes.get(&ObjectKey::cluster(name)),
    });
    if !plan.missing_nodes.is_empty() {
        // Its appearance brings the Service back here.
        tracing::debug!(service = %key, nodes = ?plan.missing_nodes, "pods left out: their node is not known");
    }
    let result = write(&context, &key, plan).await;
    if let Err(Error::Client(error)) = &result
        && !error.is_conflict()
    {
        let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
        context.recorder.warning(&*service, "FailedToUpdateEndpointSlices", message);
    }
    result.map(|()| Action::Done)
}

async fn write(context: &Context, key: &ObjectKey, plan: plan::Plan) -> Result<(), Error> {
    let api = context.client.namespaced::<EndpointSlice>(&key.namespace);
    let informer = &context.informers.endpoint_slices;
    for slice in plan.create {
        match api.create(&slice).await {
            Ok(created) => informer.wrote(created.metadata.resource_version.as_deref()),
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    for slice in plan.update {
        let name = slice.metadata.name.clone().unwrap_or_default();
        let updated = api.replace(&name, &slice).await?;
        informer.wrote(updated.metadata.resource_version.as_deref());
    }
    for name in plan.delete {
        match api.delete_revision(&name, &DeleteParams::default()).await {
            Ok(revision) => informer.wrote(revision.as_deref()),
            Err(ref error @ ClientError::Api(_)) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
