//! Who asks and whether they may: the seam between the pipeline and the
//! authenticators and authorizers. Holds no policy but the one that needs no
//! objects (`system:masters`).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::request_info::RequestInfo;

/// A caller, as the authenticators know it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserInfo {
    /// `system:serviceaccount:default:web`.
    pub name: String,
    /// May be empty.
    pub uid: String,
    /// `system:masters`, `system:authenticated`, …
    pub groups: Vec<String>,
    /// Further facts by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A caller of this name and these groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..Self::default() }
    }

    /// True for a member of the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Over TLS.
    Tls {
        /// What the client showed, leaf first; already verified against the
        /// client CA by the TLS layer, empty if it showed none.
        certificates: std::sync::Arc<[CertificateDer<'static>]>,
        /// The other end.
        remote: SocketAddr,
    },
    /// From a part of this process, which is known to be this user.
    InProcess(UserInfo),
}

/// Why a caller could not be authenticated; the answer is 401.
#[derive(thiserror::Error, Debug)]
pub enum AuthenticationError {
    /// Credentials were given and are not valid.
    #[error("the credentials are not valid: {0}")]
    Invalid(&'static str),
}

/// Finds out who the caller is.
pub trait Authenticator: Send + Sync + 'static {
    /// The caller; anonymous callers are a user too.
    fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<UserInfo, AuthenticationError>;
}

/// What a caller wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// The caller.
    pub user: &'a UserInfo,
    /// `get`, `list`, …; for paths the lower-case method.
    pub verb: &'a str,
    /// Empty for cluster scope and paths.
    pub namespace: &'a str,
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// `status`; empty for none.
    pub subresource: &'a str,
    /// Object name; empty for collections.
    pub name: &'a str,
    /// For requests that are about no resource.
    pub path: &'a str,
    /// False for paths.
    pub is_resource: bool,
}

impl<'a> Attributes<'a> {
    /// What the request itself asks.
    pub fn of(user: &'a UserInfo, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: &info.verb,
            namespace: &info.namespace,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            name: &info.name,
            path: &info.path,
            is_resource: info.is_resource,
        }
    }
}

/// What an authorizer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, or nothing known; both are a refusal at the end. The reason is shown.
    Deny(String),
}

/// Decides from memory whether a caller may do something.
pub trait Authorizer: Send + Sync + 'static {
    /// The decision; an error inside is a denial.
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// A static admin token and in-process callers; everyone else is anonymous.
pub struct StaticTokens {
    /// The token of `system:masters`; none if there is none.
    pub admin: Option<String>,
}

impl Authenticator for StaticTokens {
    fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<UserInfo, AuthenticationError> {
        if let Peer::InProcess(user) = peer {
            return Ok(user.clone());
        }
        let header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match (token, &self.admin) {
            (Some((_, token)), Some(admin)) if same_bytes(token.trim().as_bytes(), admin.as_bytes()) => {
                Ok(UserInfo::new("admin", &["system:masters", "system:authenticated"]))
            }
            (Some(_), _) => Err(AuthenticationError::Invalid("unknown bearer token")),
            (None, _) => Ok(UserInfo::new("system:anonymous", &["system:unauthenticated"])),
        }
    }
}

/// Compares without telling by time where the difference is.
fn same_bytes(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

/// Allows `system:masters` and this process's own components, and health and
/// discovery to everyone. Stands where RBAC plugs in.
pub struct Privileged;

impl Authorizer for Privileged {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let user = attributes.user;
        let component = user.name.starts_with("system:") && user.in_group("system:authenticated");
        let public = !attributes.is_resource && matches!(attributes.path, "/healthz" | "/livez" | "/readyz" | "/version" | "/version/");
        if user.in_group("system:masters") || component || public {
            return Decision::Allow;
        }
        Decision::Deny(String::new())
    }
}
