//! Secrets of type `kubernetes.io/service-account-token`: fills in those that
//! name a service account, and deletes those whose account is gone. Tokens of
//! pods are not made here; they are asked for by the node agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Action, Controller, Delta, DeleteParams, Informer, ObjectKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};

use crate::context::{Context, Error};
use crate::run::TokenSigner;

pub(crate) const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What is put into the Secrets.
#[derive(Clone)]
pub(crate) struct Contents {
    pub(crate) signer: Arc<dyn TokenSigner>,
    /// PEM.
    pub(crate) root_ca: Option<String>,
}

pub(crate) fn controller(context: &Context, contents: Contents) -> Controller<Error> {
    let informers = context.informers.clone();
    let context = context.clone();
    let secrets = informers.token_secrets.clone();
    Controller::new("serviceaccount-token", move |key| reconcile(context.clone(), contents.clone(), key))
        .watches(&informers.token_secrets, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.service_accounts, move |delta| secrets_of(delta, &secrets))
}

fn account_of(secret: &Secret) -> Option<&str> {
    secret.metadata.annotations.as_ref()?.get(ACCOUNT_NAME).map(String::as_str).filter(|name| !name.is_empty())
}

/// The Secrets that name an account which came or went.
fn secrets_of(delta: &Delta<ServiceAccount>, secrets: &Informer<Secret>) -> Vec<ObjectKey> {
    if matches!(delta, Delta::Updated { .. }) {
        return Vec::new();
    }
    let account = delta.object();
    let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
    let mut secrets = secrets.in_namespace(namespace);
    secrets.retain(|secret| account_of(secret) == account.metadata.name.as_deref());
    secrets.iter().map(|secret| ObjectKey::of(&**secret)).collect()
}

/// The claims of a token that lasts as long as its Secret.
fn claims(account: &ServiceAccount, secret: &Secret) -> Value {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&account.metadata.namespace), text(&account.metadata.name));
    json!({
        "iss": "kubernetes/serviceaccount",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": text(&account.metadata.uid),
        "kubernetes.io/serviceaccount/secret.name": text(&secret.metadata.name),
    })
}

fn is_complete(secret: &Secret, root_ca: Option<&str>) -> bool {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).filter(|bytes| !bytes.0.is_empty());
    data("token").is_some()
        && data("namespace").is_some()
        && root_ca.is_none_or(|root_ca| data("ca.crt").is_some_and(|bytes| bytes.0 == root_ca.as_bytes()))
}

async fn reconcile(context: Context, contents: Contents, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.token_secrets.caught_up().await?;
    let Some(secret) = informers.token_secrets.get(&key) else { return Ok(Action::Done) };
    let Some(name) = account_of(&secret).map(str::to_owned) else { return Ok(Action::Done) };
    // The copy may be behind: the account may have been made a moment ago.
    let account = match informers.service_accounts.get(&ObjectKey::new(&*key.namespace, name.as_str())) {
        Some(account) => Some((*account).clone()),
        None => context.client.namespaced::<ServiceAccount>(&key.namespace).get_opt(&name).await?,
    };
    let wanted_uid = secret.metadata.annotations.as_ref().and_then(|all| all.get(ACCOUNT_UID)).filter(|uid| !uid.is_empty());
    let account = account.filter(|account| wanted_uid.is_none_or(|uid| account.metadata.uid.as_ref() == Some(uid)));
    let api = context.client.namespaced::<Secret>(&key.namespace);
    let Some(account) = account else {
        let params = DeleteParams::uid(secret.metadata.uid.clone().unwrap_or_default());
        return match api.delete(&key.name, &params).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(Action::Done),
        };
    };
    if is_complete(&secret, contents.root_ca.as_deref()) {
        return Ok(Action::Done);
    }
    let mut filled = (*secret).clone();
    let data = filled.data.get_or_insert_default();
    if let Some(root_ca) = &contents.root_ca {
        data.insert("ca.crt".into(), ByteString(root_ca.clone().into_bytes()));
    }
    data.insert("namespace".into(), ByteString(key.namespace.as_bytes().to_vec()));
    if data.get("token").is_none_or(|token| token.0.is_empty()) {
        let token = contents.signer.sign(&claims(&account, &secret)).map_err(|source| Error::Sign { source })?;
        data.insert("token".into(), ByteString(token.into_bytes()));
    }
    let annotations: &mut BTreeMap<_, _> = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_NAME.into(), name);
    annotations.insert(ACCOUNT_UID.into(), account.metadata.uid.unwrap_or_default());
    match api.replace(&key.name, &filled).await {
        Ok(written) => informers.token_secrets.wrote(written.metadata.resource_version.as_deref()),
        // Someone else was at it; their change brings it back here.
        Err(error) if error.is_conflict() || error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::Done)
}
