//! What the server is told at its start: values, already parsed. No files, no
//! environment, no flags.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use store::Store;

/// Everything the server needs to know.
pub struct Config {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// Bearer token of `system:masters`; none for no such token.
    pub admin_token: Option<String>,
    /// Everything else.
    pub settings: Settings,
}

/// Values of the cluster.
#[derive(Clone)]
pub struct Settings {
    /// First address and prefix length of cluster IPs: `10.96.0.0`, 16.
    pub service_cidr: (IpAddr, u8),
    /// Ports of NodePort services, inclusive.
    pub node_port_range: RangeInclusive<u16>,
    /// DNS domain: `cluster.local`.
    pub cluster_domain: String,
    /// Issuer of service account tokens.
    pub issuer: String,
    /// Address of this server as the `kubernetes` service names it.
    pub advertise: (IpAddr, u16),
    /// Key that signs service account tokens, PEM; see [`crate::SigningKey`].
    /// Without one a new key is made, and its tokens end with this process.
    pub service_account_key: Option<String>,
    /// How the server talks to kubelets; none to refuse logs, exec and proxies.
    pub kubelet: Option<Arc<rustls::ClientConfig>>,
    /// Serve `metrics.k8s.io` from what node agents measure.
    pub resource_metrics: bool,
    /// Certificates that verify client certificates, PEM; shown to in-cluster
    /// clients in `extension-apiserver-authentication`.
    pub client_ca_pem: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_cidr: (IpAddr::from([10, 96, 0, 0]), 16),
            node_port_range: 30000..=32767,
            cluster_domain: "cluster.local".to_owned(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            advertise: (IpAddr::from([127, 0, 0, 1]), 6443),
            service_account_key: None,
            kubelet: None,
            resource_metrics: false,
            client_ca_pem: None,
        }
    }
}

/// Why the server did not start.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// The key of service account tokens cannot be used.
    #[error("cannot sign service account tokens")]
    Key(#[from] crate::tokens::KeyError),
    /// An object that every cluster has could not be written.
    #[error("cannot create {object}")]
    Bootstrap {
        /// Kind and name.
        object: String,
        /// The refusal.
        #[source]
        source: Box<api::status::Status>,
    },
}
