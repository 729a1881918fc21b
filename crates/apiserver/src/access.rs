//! Who asks and whether they may: the seam between the pipeline and the
//! authenticators and authorizers. Decides nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

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
    /// The field selector of lists and watches, as it came.
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// What the request itself asks.
    pub fn of(user: &'a UserInfo, info: &'a RequestInfo, field_selector: &'a str) -> Self {
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
            field_selector,
        }
    }
}
