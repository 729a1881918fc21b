//! Service account tokens for projected volumes: asked for by TokenRequest,
//! kept until most of their life is over. They are never written to disk here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use api::types::api::core::v1 as core;
use client::{Client, ClientError};
use serde_json::json;

use crate::spec;

/// A token that lives longer is renewed after this all the same.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a token where none is asked for (upstream's default).
const DEFAULT_EXPIRATION_SECONDS: i64 = 3600;

#[derive(Clone)]
struct Kept {
    token: String,
    renew_at: SystemTime,
}

type Key = (String, String, i64);

/// Tokens of the pods of this node; dropped with their pod.
pub(crate) struct Tokens {
    client: Client,
    kept: Mutex<HashMap<Key, Kept>>,
}

impl Tokens {
    /// None yet.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    /// A token of the pod's service account, bound to the pod.
    pub(crate) async fn get(
        &self,
        pod: &core::Pod,
        audience: Option<&str>,
        seconds: Option<i64>,
    ) -> Result<String, ClientError> {
        let seconds = seconds.unwrap_or(DEFAULT_EXPIRATION_SECONDS);
        let audience = audience.unwrap_or_default();
        let key = (spec::uid(pod).to_owned(), audience.to_owned(), seconds);
        let kept = self.lock().get(&key).cloned();
        let now = SystemTime::now();
        if let Some(kept) = kept.filter(|k| now < k.renew_at) {
            return Ok(kept.token);
        }
        let account = spec::spec(pod).service_account_name.as_deref().unwrap_or("default");
        let audiences: Vec<&str> = Some(audience).filter(|a| !a.is_empty()).into_iter().collect();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences, "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": spec::name(pod), "uid": spec::uid(pod)}},
        });
        let api = self.client.namespaced::<core::ServiceAccount>(spec::namespace(pod));
        let answer = api.subresource_create(account, "token", &body).await?;
        let token = answer.pointer("/status/token").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        // At four fifths of its life, as upstream does.
        let renew_at = now + (life * 4 / 5).min(MAX_AGE);
        self.lock().insert(key, Kept { token: token.clone(), renew_at });
        Ok(token)
    }

    /// When the first token of this pod is to be renewed.
    pub(crate) fn renew_at(&self, uid: &str) -> Option<SystemTime> {
        self.lock().iter().filter(|((pod, ..), _)| pod == uid).map(|(_, kept)| kept.renew_at).min()
    }

    /// Forgets the tokens of a pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().retain(|(pod, ..), _| pod != uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Kept>> {
        // Nothing panics while it is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
