//! ServiceAccount: every pod runs as an account that exists, and its containers
//! find the account's token.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::object::{self, Meta};
use crate::pipeline::write;

/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Life of the mounted token: an hour and the seven seconds that mark it as
/// mounted by admission.
const TOKEN_SECONDS: u32 = 60 * 60 + 7;
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if pod.annotation(MIRROR).is_some() {
                return mirror(request, pod);
            }
            if object::text(pod, "spec.serviceAccountName").is_empty() {
                let spec = object::map_mut(pod, "spec");
                spec.insert("serviceAccountName".to_owned(), "default".into());
                spec.insert("serviceAccount".to_owned(), "default".into());
            }
            let name = object::text(pod, "spec.serviceAccountName").to_owned();
            let accounts = request.core.collection("", "serviceaccounts")?;
            let key = accounts.key(request.namespace, &name);
            let Some(account) = write::current(request.core, &key).await? else {
                let missing = format!(
                    "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                    request.namespace
                );
                return Err(request.forbid(&missing));
            };
            if wants_token(pod, &account.object) {
                mount(pod);
            }
            let no_secrets = object::items(pod, "spec.imagePullSecrets").is_empty();
            if let (true, Some(secrets)) = (no_secrets, account.object.get("imagePullSecrets")) {
                object::map_mut(pod, "spec").insert("imagePullSecrets".to_owned(), secrets.clone());
            }
            Ok(())
        })
    }
}

fn mirror(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    if !object::text(pod, "spec.serviceAccountName").is_empty() {
        return Err(request.forbid("a mirror pod may not reference service accounts"));
    }
    Ok(())
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let own = object::at(pod, "spec.automountServiceAccountToken").as_bool();
    let theirs = account.get("automountServiceAccountToken").and_then(Value::as_bool);
    own.or(theirs).unwrap_or(true)
}

fn mount(pod: &mut Value) {
    let volumes = object::items(pod, "spec.volumes");
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let existing = volumes.iter().map(|volume| text(volume, "name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let had = existing.is_some();
    let name = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", crate::entropy::suffix(5)));
    let mut mounted = false;
    let spec = object::map_mut(pod, "spec");
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = object::as_map(container).entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            mounted = true;
        }
        // A list that was made for nothing is no list.
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.get("volumeMounts").and_then(Value::as_array).is_some_and(Vec::is_empty) {
                object::as_map(container).remove("volumeMounts");
            }
        }
    }
    if !mounted || had {
        return;
    }
    let volume = json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                ]}},
            ],
        },
    });
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => {
            spec.insert("volumes".to_owned(), json!([volume]));
        }
    }
}
