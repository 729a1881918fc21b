//! Carries out the plan. Decides nothing.

use client::{Action, ClientError, DeleteParams, ObjectKey};
use k8s_openapi::api::core::v1::Endpoints;

use super::plan;
use crate::context::{Context, Error};
use crate::services;

pub(super) async fn reconcile(context: Context, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.endpoints.caught_up().await?;
    let api = context.client.namespaced::<Endpoints>(&key.namespace);
    let current = informers.endpoints.get(&key);
    let Some(service) = informers.services.get(&key) else {
        // Only a Service makes Endpoints; those without one are someone else's
        // or are left over, and go as upstream lets them go.
        if current.is_some() {
            match api.delete_revision(&key.name, &DeleteParams::default()).await {
                Ok(revision) => informers.endpoints.wrote(revision.as_deref()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(Action::Done);
    };
    let Some(spec) = services::selecting(&service) else { return Ok(Action::Done) };
    let pods = services::selected(&informers.pods, &key.namespace, spec);
    let Some(wanted) = plan::plan(&service, &pods, current.as_deref()) else { return Ok(Action::Done) };
    let written: Result<Endpoints, ClientError> = match current {
        Some(_) => api.replace(&key.name, &wanted).await,
        None => api.create(&wanted).await,
    };
    match written {
        Ok(written) => informers.endpoints.wrote(written.metadata.resource_version.as_deref()),
        Err(error) if error.is_namespace_terminating() => {}
        Err(error) => {
            if !error.is_conflict() {
                let (reason, verb) = match wanted.metadata.resource_version {
                    None => ("FailedToCreateEndpoint", "create endpoint for service"),
                    Some(_) => ("FailedToUpdateEndpoint", "update endpoint"),
                };
                context.recorder.warning(&wanted, reason, format!("Failed to {verb} {key}: {error}"));
            }
            return Err(error.into());
        }
    }
    Ok(Action::Done)
}
