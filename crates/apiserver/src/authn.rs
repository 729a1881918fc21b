//! Authentication: who a request comes from, by client certificate, admin
//! token, service account token, bootstrap token, or nobody in particular.
//! Whether they may is not decided here.

mod bootstrap_token;
mod certificate;
pub(crate) mod impersonation;
pub(crate) mod reviews;
mod secret_token;
mod service_account;

use std::sync::Arc;

use http::{HeaderMap, header};
use store::Store;

use crate::access::{AuthenticationError, Peer, UserInfo};
use crate::resource::Catalog;
use crate::tokens::Tokens;

/// Everyone who has shown who they are.
const AUTHENTICATED: &str = "system:authenticated";
/// Who has shown nothing.
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Key of the extra that names the credential.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
/// WebSocket clients of browsers cannot set headers; they offer the token as a
/// protocol with this prefix.
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// A caller by token, and the audiences for which the token is good.
pub(crate) struct Identified {
    /// The caller.
    pub(crate) user: UserInfo,
    /// Those of the audiences asked for that hold.
    pub(crate) audiences: Vec<String>,
}

/// See the module.
pub(crate) struct Authenticators {
    admin_token: Option<String>,
    tokens: Tokens,
    store: Arc<dyn Store>,
    keys: Keys,
}

/// Key prefixes of the objects that credentials rest on.
struct Keys {
    accounts: String,
    pods: String,
    secrets: String,
    nodes: String,
}

impl Authenticators {
    /// Authenticators that find accounts and secrets in the store.
    pub(crate) fn new(store: Arc<dyn Store>, catalog: &Catalog, admin_token: Option<String>, tokens: Tokens) -> Self {
        let prefix = |plural| crate::authz::prefix(catalog, "", plural);
        let keys = Keys {
            accounts: prefix("serviceaccounts"),
            pods: prefix("pods"),
            secrets: prefix("secrets"),
            nodes: prefix("nodes"),
        };
        Self { admin_token, tokens, store, keys }
    }

    /// Service account tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// Credentials were given and none of them is good.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<UserInfo, AuthenticationError> {
        let certificates = match peer {
            Peer::InProcess(user) => return Ok(authenticated(user.clone())),
            Peer::Tls { certificates, .. } => certificates,
        };
        if let Some(leaf) = certificates.first()
            && let Some(user) = certificate::user(leaf)
        {
            return Ok(authenticated(user));
        }
        let Some(token) = bearer(headers) else {
            return Ok(UserInfo::new(ANONYMOUS, &[UNAUTHENTICATED]));
        };
        let audiences = [self.tokens.issuer().to_owned()];
        match self.by_token(&token, &audiences).await {
            Ok(Some(identified)) => Ok(identified.user),
            Ok(None) => Err(AuthenticationError::Invalid("unknown bearer token")),
            Err(why) => {
                tracing::debug!(why = %why, "a token was refused");
                Err(AuthenticationError::Invalid("the bearer token is not good any more, or not for this server"))
            }
        }
    }

    /// The caller by a bearer token; `None` if it is nobody's.
    ///
    /// # Errors
    /// It is somebody's, but not good now or for these audiences.
    pub(crate) async fn by_token(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String> {
        if self.admin_token.as_ref().is_some_and(|admin| same_bytes(admin.as_bytes(), token.as_bytes())) {
            let user = UserInfo::new("admin", &["system:masters"]);
            return Ok(self.for_this_server(user, audiences));
        }
        if let Some(claims) = self.tokens.verify(token) {
            return self.by_claims(&claims, audiences).await.map(Some);
        }
        if let Some(claims) = self.tokens.verify_secret(token) {
            let user = self.by_secret(&claims, token).await?;
            return Ok(self.for_this_server(user, audiences));
        }
        match self.by_bootstrap_token(token).await? {
            Some(user) => Ok(self.for_this_server(user, audiences)),
            None => Ok(None),
        }
    }

    /// Tokens that name no audience are good for this server alone.
    fn for_this_server(&self, user: UserInfo, audiences: &[String]) -> Option<Identified> {
        let good: Vec<String> = audiences.iter().filter(|one| *one == self.tokens.issuer()).cloned().collect();
        (!good.is_empty()).then(|| Identified { user: authenticated(user), audiences: good })
    }
}

fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// The token of a request: of its header, or of a WebSocket's protocols.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Some((scheme, token)) = text.trim().split_once(' ')
        && scheme.eq_ignore_ascii_case("bearer")
        && !token.trim().is_empty()
    {
        return Some(token.trim().to_owned());
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let encoded =
        offered.flat_map(|value| value.split(',')).find_map(|one| one.trim().strip_prefix(PROTOCOL_PREFIX))?;
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

/// Compares without telling by time where the difference is.
fn same_bytes(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

#[cfg(test)]
mod tests;
