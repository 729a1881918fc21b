//! kubeconfig files: reading, merging and writing, and what one context of
//! them means. The environment is not read here: callers give the paths.

mod file;
mod resolve;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use self::file::{
    AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext, default_paths,
};

/// Where a server is and who asks: one context of a kubeconfig, with every
/// file but a token file read in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientConfig {
    /// `https://127.0.0.1:6443`, perhaps with a path.
    pub server: String,
    /// PEM; absent: the system's roots.
    pub certificate_authority: Option<Vec<u8>>,
    /// The server's certificate is not checked.
    pub insecure_skip_tls_verify: bool,
    /// The name its certificate must have; absent: the host of `server`.
    pub tls_server_name: Option<String>,
    /// Who asks, by certificate.
    pub client_certificate: Option<CertificatePair>,
    /// Who asks, by header.
    pub credential: Credential,
    /// User to act as.
    pub impersonate_user: Option<String>,
    /// Groups to act in.
    pub impersonate_groups: Vec<String>,
    /// The context's namespace; absent: `default`.
    pub namespace: Option<String>,
}

/// A client certificate with its key.
#[derive(Clone, PartialEq)]
pub struct CertificatePair {
    /// PEM, the chain.
    pub certificate: Vec<u8>,
    /// PEM.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for CertificatePair {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificatePair(..)")
    }
}

/// What is sent to say who asks.
#[derive(Clone, Default, PartialEq)]
pub enum Credential {
    /// Nothing.
    #[default]
    None,
    /// A bearer token.
    Token(String),
    /// A file with a bearer token, read again as it changes.
    TokenFile(PathBuf),
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
}

impl std::fmt::Debug for Credential {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credential::None => f.write_str("None"),
            Credential::Token(_) => f.write_str("Token(..)"),
            Credential::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Credential::Basic { username, .. } => f.debug_struct("Basic").field("username", username).finish(),
        }
    }
}

/// Why a kubeconfig could not be used.
#[derive(thiserror::Error, Debug)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is not a kubeconfig.
    #[error("{path} is not a kubeconfig")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The configuration cannot be put into YAML.
    #[error("cannot encode the kubeconfig")]
    Encode(#[source] serde_yaml_ng::Error),
    /// No context was named and none is current.
    #[error("no context is given and the kubeconfig has no current-context")]
    NoContext,
    /// Something is named that is not there.
    #[error("the kubeconfig has no {kind} named {name:?}")]
    Missing {
        /// `context`, `cluster`, `user`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A field that should be base64 is not.
    #[error("{field} of {name:?} is not base64")]
    Base64 {
        /// The field.
        field: &'static str,
        /// Cluster or user.
        name: String,
        /// The cause.
        #[source]
        source: base64::DecodeError,
    },
    /// A way to authenticate that this client does not have.
    #[error("user {name:?} authenticates by {method}, which is not supported")]
    Unsupported {
        /// The user.
        name: String,
        /// `exec`, `auth-provider`.
        method: &'static str,
    },
    /// A certificate without a key or a key without a certificate.
    #[error("user {name:?} has a client certificate without a key, or the other way round")]
    HalfPair {
        /// The user.
        name: String,
    },
}

/// Reads one file and resolves a context of it; absent: its current one.
pub fn load(path: &Path, context: Option<&str>) -> Result<ClientConfig, KubeconfigError> {
    Kubeconfig::read(path)?.resolve(context)
}

impl ClientConfig {
    /// A pod's service account, from the files the node agent puts into every
    /// container. `host` and `port` are KUBERNETES_SERVICE_HOST and _PORT.
    pub fn in_cluster(host: &str, port: &str) -> Result<ClientConfig, KubeconfigError> {
        let folder = Path::new("/var/run/secrets/kubernetes.io/serviceaccount");
        let ca = folder.join("ca.crt");
        let namespace = folder.join("namespace");
        let read = |path: PathBuf| std::fs::read(&path).map_err(|source| KubeconfigError::Read { path, source });
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Ok(ClientConfig {
            server: format!("https://{host}:{port}"),
            certificate_authority: Some(read(ca)?),
            credential: Credential::TokenFile(folder.join("token")),
            namespace: Some(String::from_utf8_lossy(&read(namespace)?).trim().to_owned()),
            ..ClientConfig::default()
        })
    }
}
