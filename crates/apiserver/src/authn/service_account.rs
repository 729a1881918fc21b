//! Callers by service account token: good only while the account, and what the
//! token is bound to, exist as they did when it was signed.

use jiff::Timestamp;
use serde::Deserialize;
use store::Entry;

use super::{Authenticators, CREDENTIAL, Identified, authenticated};
use crate::access::UserInfo;
use crate::authz::rules::QuotedList;
use crate::tokens::{Claims, LEEWAY_SECONDS, Reference};

/// Why a token that was good is not any more, without saying more to whoever
/// shows it.
const INVALIDATED: &str = "service account token has been invalidated";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    uid: String,
    deletion_timestamp: Option<String>,
}

impl Metadata {
    /// Deleted, and for longer than clocks may differ.
    fn gone(&self, now: i64) -> bool {
        let deleted = self.deletion_timestamp.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        deleted.is_some_and(|at| at.as_second() < now - LEEWAY_SECONDS)
    }
}

fn metadata(entry: &Entry) -> Result<Metadata, String> {
    serde_json::from_slice::<Object>(&entry.value).map(|object| object.metadata).map_err(|error| error.to_string())
}

impl Authenticators {
    /// The account of verified claims, if they are good now and for one of the
    /// audiences.
    pub(super) async fn by_claims(&self, claims: &Claims, audiences: &[String]) -> Result<Identified, String> {
        // The account of another audience is not looked up: upstream's order.
        let good: Vec<String> = audiences.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        if good.is_empty() {
            let (own, asked) = (QuotedList(&claims.aud), QuotedList(audiences));
            return Err(format!("token audiences {own} is invalid for the target audiences {asked}"));
        }
        let now = Timestamp::now().as_second();
        check_time(claims, now)?;
        self.check_account(claims, now).await?;
        let bound = &claims.bound;
        if let Some(secret) = &bound.secret {
            let claim = "service account secret ref claim";
            self.check_bound(&self.keys.secrets, &bound.namespace, secret, ("secret", claim), now).await?;
        }
        if let Some(pod) = &bound.pod {
            let claim = "service account pod ref claim";
            self.check_bound(&self.keys.pods, &bound.namespace, pod, ("pod", claim), now).await?;
        } else if let Some(node) = &bound.node {
            let claim = "service account node ref claim";
            self.check_bound(&self.keys.nodes, "", node, ("node", claim), now).await?;
        }
        Ok(Identified { user: authenticated(user(claims)), audiences: good })
    }

    async fn check_account(&self, claims: &Claims, now: i64) -> Result<(), String> {
        let (namespace, account) = (&claims.bound.namespace, &claims.bound.serviceaccount);
        let key = format!("{}{namespace}/{}", self.keys.accounts, account.name);
        let entry = self.store.get(&key).await.map_err(|error| error.to_string())?;
        let found = metadata(&*entry.ok_or_else(|| format!("serviceaccounts \"{}\" not found", account.name))?)?;
        if found.uid != account.uid {
            return Err(format!("service account UID ({}) does not match claim ({})", found.uid, account.uid));
        }
        if found.gone(now) {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        Ok(())
    }

    async fn check_bound(
        &self,
        prefix: &str,
        namespace: &str,
        bound: &Reference,
        (kind, claim): (&str, &str),
        now: i64,
    ) -> Result<(), String> {
        let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let entry =
            self.store.get(&format!("{prefix}{place}{}", bound.name)).await.map_err(|error| error.to_string())?;
        let found = metadata(&*entry.ok_or(INVALIDATED)?)?;
        if found.uid != bound.uid {
            return Err(format!("{kind} UID ({}) does not match {claim} ({})", found.uid, bound.uid));
        }
        if found.gone(now) { Err(INVALIDATED.to_owned()) } else { Ok(()) }
    }
}

fn check_time(claims: &Claims, now: i64) -> Result<(), String> {
    let why = if now > claims.exp + LEEWAY_SECONDS {
        "service account token has expired"
    } else if now + LEEWAY_SECONDS < claims.nbf {
        "service account token is not valid yet"
    } else if now + LEEWAY_SECONDS < claims.iat {
        "service account token is issued in the future"
    } else {
        return Ok(());
    };
    Err(why.to_owned())
}

fn user(claims: &Claims) -> UserInfo {
    let bound = &claims.bound;
    let own = format!("system:serviceaccounts:{}", bound.namespace);
    let name = format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name);
    let mut user = UserInfo::new(name, &["system:serviceaccounts", &own]);
    user.uid.clone_from(&bound.serviceaccount.uid);
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        extra(CREDENTIAL, &format!("JTI={}", claims.jti));
    }
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            extra(&format!("authentication.kubernetes.io/{kind}-name"), &reference.name);
            extra(&format!("authentication.kubernetes.io/{kind}-uid"), &reference.uid);
        }
    }
    user
}
