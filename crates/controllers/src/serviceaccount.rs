//! What every namespace is furnished with: the service account `default`. It
//! makes no tokens; those are asked for when a pod needs one.

use client::{Action, Controller, Delta, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::{Context, Error};

/// The account of pods that name none.
const DEFAULT: &str = "default";

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let informers = context.informers.clone();
    let context = context.clone();
    Controller::new("serviceaccount", move |key| reconcile(context.clone(), key))
        .watches(&informers.namespaces, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.service_accounts, |delta| match delta {
            Delta::Deleted(account) => account.metadata.namespace.as_deref().map(ObjectKey::cluster),
            Delta::Added(_) | Delta::Updated { .. } => None,
        })
}

/// True for a namespace in which things can be made.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

async fn reconcile(context: Context, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.service_accounts.caught_up().await?;
    let is_wanted = informers.namespaces.get(&key).is_some_and(|namespace| is_active(&namespace));
    let namespace = &*key.name;
    if !is_wanted || informers.service_accounts.get(&ObjectKey::new(namespace, DEFAULT)).is_some() {
        return Ok(Action::Done);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(DEFAULT.into()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    match context.client.of(&account).create(&account).await {
        Ok(made) => informers.service_accounts.wrote(made.metadata.resource_version.as_deref()),
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
        // The namespace has gone meanwhile.
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::Done)
}
