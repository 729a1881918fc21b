//! Callers by the token of a Secret: good only while the Secret holds it and
//! its account is the one it was made for (`pkg/serviceaccount/legacy.go`,
//! upstream 1.36).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Authenticators, same_bytes};
use crate::access::UserInfo;
use crate::object::{self, Meta};
use crate::tokens::SecretClaims;

/// Why a token that was good is not any more.
const INVALIDATED: &str = "service account token has been invalidated";
/// Set on Secrets whose token was not used for long and must not be again.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

impl Authenticators {
    /// The account of verified claims, if `token` is still in its Secret.
    pub(super) async fn by_secret(&self, claims: &SecretClaims, token: &str) -> Result<UserInfo, String> {
        let SecretClaims { namespace, account, uid, secret, .. } = claims;
        for (value, what) in [(namespace, "namespace"), (secret, "secretName"), (account, "serviceAccountName")] {
            if value.is_empty() {
                return Err(format!("{what} claim is missing"));
            }
        }
        let name = format!("system:serviceaccount:{namespace}:{account}");
        if claims.sub != name {
            return Err("sub claim is invalid".to_owned());
        }
        let stored = self.object(&format!("{}{namespace}/{secret}", self.keys.secrets)).await?;
        let stored = stored.filter(|secret| !secret.deleting()).ok_or(INVALIDATED)?;
        let held = STANDARD.decode(object::at(&stored, "data.token").as_str().unwrap_or_default());
        if !held.is_ok_and(|held| same_bytes(&held, token.as_bytes())) {
            return Err("service account token does not match server's copy".to_owned());
        }
        if stored.meta("labels").get(INVALID_SINCE).is_some() {
            return Err(INVALIDATED.to_owned());
        }
        let stored = self.object(&format!("{}{namespace}/{account}", self.keys.accounts)).await?;
        let stored = stored.filter(|account| !account.deleting());
        let stored = stored.ok_or_else(|| format!("service account {namespace}/{account} has been deleted"))?;
        if stored.uid() != uid {
            return Err(format!("service account UID ({}) does not match claim ({uid})", stored.uid()));
        }
        let own = format!("system:serviceaccounts:{namespace}");
        let mut user = UserInfo::new(name, &["system:serviceaccounts", &own]);
        user.uid.clone_from(uid);
        Ok(user)
    }

    async fn object(&self, key: &str) -> Result<Option<Value>, String> {
        let entry = self.store.get(key).await.map_err(|error| error.to_string())?;
        let Some(entry) = entry else { return Ok(None) };
        serde_json::from_slice(&entry.value).map(Some).map_err(|error| error.to_string())
    }
}
