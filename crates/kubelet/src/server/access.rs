//! Who may use the node's HTTP API: a client certificate of the cluster's
//! authority or a token that the API server knows, and then what RBAC says
//! about the node's subresources. Anything unclear is a refusal.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::types::api::authentication::v1::TokenReview;
use api::types::api::authorization::v1::SubjectAccessReview;
use client::{Client, ClientError};
use http::Method;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a decision is kept: upstream's kubelet keeps 5 min for yes and 30 s
/// for no, and 2 min for tokens. Shorter, so that a revocation counts soon.
const KEEP: Duration = Duration::from_secs(30);
/// Decisions kept at most.
const KEPT: usize = 1000;
/// Members of this group may do everything, as in the API server.
const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// Why somebody may not.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nobody knows who asks.
    Unauthenticated,
    /// It is known and may not.
    Forbidden(String),
    /// The API server could not be asked.
    Unknown(ClientError),
}

type Decision = (User, String, String);

/// Asks the API server and keeps its answers for a short while.
pub(super) struct Access {
    client: Client,
    node: String,
    tokens: Mutex<HashMap<String, (Instant, Option<User>)>>,
    decisions: Mutex<HashMap<Decision, (Instant, bool)>>,
}

fn keep<K: std::hash::Hash + Eq, V>(map: &Mutex<HashMap<K, (Instant, V)>>, key: K, value: V) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= KEPT {
        map.retain(|_, (since, _)| since.elapsed() < KEEP);
        if map.len() >= KEPT {
            map.clear();
        }
    }
    map.insert(key, (Instant::now(), value));
}

fn kept<K: std::hash::Hash + Eq, V: Clone>(map: &Mutex<HashMap<K, (Instant, V)>>, key: &K) -> Option<V> {
    let map = map.lock().unwrap_or_else(PoisonError::into_inner);
    map.get(key).filter(|(since, _)| since.elapsed() < KEEP).map(|(_, value)| value.clone())
}

/// The user of a verified certificate: its common name, and its organizations
/// as groups.
pub(super) fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<_> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".into());
    (!name.is_empty()).then_some(User { name, groups, ..User::default() })
}

impl Access {
    pub(super) fn new(client: Client, node: String) -> Self {
        Self { client, node, tokens: Mutex::default(), decisions: Mutex::default() }
    }

    /// The user of a bearer token.
    pub(super) async fn user_of_token(&self, token: &str) -> Result<User, Refusal> {
        if let Some(known) = kept(&self.tokens, &token.to_owned()) {
            return known.ok_or(Refusal::Unauthenticated);
        }
        let review: TokenReview =
            serde_json::from_value(json!({"spec": {"token": token}})).map_err(|_| Refusal::Unauthenticated)?;
        let review = self.client.all::<TokenReview>().create(&review).await.map_err(Refusal::Unknown)?;
        let status = review.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).and_then(|user| {
            Some(User {
                name: user.username?,
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            })
        });
        keep(&self.tokens, token.to_owned(), user.clone());
        user.ok_or(Refusal::Unauthenticated)
    }

    /// Fine if the user may do this to one of the node's subresources.
    pub(super) async fn check(&self, user: &User, method: &Method, subresources: &[&str]) -> Result<(), Refusal> {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        };
        for subresource in subresources {
            if self.allows(user, verb, subresource).await? {
                return Ok(());
            }
        }
        let what = subresources.last().copied().unwrap_or_default();
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            user.name,
            if subresources.is_empty() { what.to_owned() } else { subresources.join(" ") },
        )))
    }

    async fn allows(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, Refusal> {
        let key = (user.clone(), verb.to_owned(), subresource.to_owned());
        if let Some(known) = kept(&self.decisions, &key) {
            return Ok(known);
        }
        let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
            "user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            "resourceAttributes": {
                "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node,
            },
        }}))
        .map_err(|_| Refusal::Unauthenticated)?;
        let review = self.client.all::<SubjectAccessReview>().create(&review).await.map_err(Refusal::Unknown)?;
        let allowed = review.status.is_some_and(|status| status.allowed && status.denied != Some(true));
        keep(&self.decisions, key, allowed);
        Ok(allowed)
    }
}

/// The subresources that a path asks for, the narrowest first
/// (`NodeAuthorizerAttributes` of upstream's kubelet).
pub(super) fn subresources(path: &str) -> &'static [&'static str] {
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    if below("/stats") {
        &["stats"]
    } else if below("/metrics") {
        &["metrics"]
    } else if below("/logs") {
        &["log"]
    } else if below("/checkpoint") {
        &["checkpoint"]
    } else if below("/pods") || below("/runningpods") {
        &["pods", "proxy"]
    } else if below("/healthz") {
        &["healthz", "proxy"]
    } else if below("/configz") {
        &["configz", "proxy"]
    } else {
        &["proxy"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for_their_subresources() {
        for (path, expected) in [
            ("/pods", &["pods", "proxy"][..]),
            ("/podsx", &["proxy"]),
            ("/stats/summary", &["stats"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/exec/a/b/c", &["proxy"]),
            ("/containerLogs/a/b/c", &["proxy"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
    }

    #[test]
    fn a_certificate_names_its_user_and_groups() {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver-kubelet-client");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, MASTERS);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let user = user_of_certificate(certificate.der()).unwrap();
        assert_eq!(user.name, "kube-apiserver-kubelet-client");
        assert_eq!(user.groups, [MASTERS, "system:authenticated"]);
        assert_eq!(user_of_certificate(b"nonsense"), None);
    }
}
