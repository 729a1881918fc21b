//! Publishes the API server's certificate authority into every namespace, from
//! where pods mount it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Action, Controller, ObjectKey};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::{Context, Error};
use crate::informers::ROOT_CA_CONFIG_MAP;
use crate::serviceaccount::is_active;

const DATA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// Clients show it; the words are part of what upstream publishes.
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) fn controller(context: &Context, root_ca: &str) -> Controller<Error> {
    let informers = context.informers.clone();
    let context = context.clone();
    let root_ca: Arc<str> = root_ca.into();
    Controller::new("root-ca", move |key| reconcile(context.clone(), root_ca.clone(), key))
        .watches(&informers.namespaces, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.config_maps, |delta| delta.object().metadata.namespace.as_deref().map(ObjectKey::cluster))
}

/// The map to write, or none if it is right.
fn plan(namespace: &str, root_ca: &str, current: Option<&ConfigMap>) -> Option<ConfigMap> {
    let data = Some(BTreeMap::from([(DATA_KEY.to_owned(), root_ca.to_owned())]));
    let mut wanted = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CA_CONFIG_MAP.into()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    wanted.data = data;
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.insert(DESCRIPTION.into(), DESCRIPTION_TEXT.into());
    (current != Some(&wanted)).then_some(wanted)
}

async fn reconcile(context: Context, root_ca: Arc<str>, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.config_maps.caught_up().await?;
    if !informers.namespaces.get(&key).is_some_and(|namespace| is_active(&namespace)) {
        return Ok(Action::Done);
    }
    let current = informers.config_maps.get(&ObjectKey::new(&*key.name, ROOT_CA_CONFIG_MAP));
    let Some(wanted) = plan(&key.name, &root_ca, current.as_deref()) else { return Ok(Action::Done) };
    let api = context.client.of(&wanted);
    let written = match current {
        Some(_) => api.replace(ROOT_CA_CONFIG_MAP, &wanted).await,
        None => api.create(&wanted).await,
    };
    match written {
        Ok(written) => informers.config_maps.wrote(written.metadata.resource_version.as_deref()),
        Err(error) if error.is_namespace_terminating() || error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_map_that_differs_is_written() {
        let made = plan("n", "CA", None).unwrap();
        assert_eq!(plan("n", "CA", Some(&made)), None);
        let changed = plan("n", "NEW", Some(&made)).unwrap();
        assert_eq!(changed.data.unwrap()[DATA_KEY], "NEW");
    }
}
