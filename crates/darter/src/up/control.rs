//! The control plane's base: keys, store, API server, its port. Everything
//! else is a client of what starts here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use apiserver::{ApiServer, Config, Settings};
use client::Client;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Parts, UpError};
use crate::arguments;
use crate::instance::Instance;
use crate::pki::{Authority, Subject};
use crate::transport::InProcess;

/// A running API server and what its clients need.
pub(super) struct Control {
    /// The server, for clients in this process.
    pub(super) server: Arc<ApiServer>,
    /// `https://ADDRESS:PORT`, as a client on this machine reaches it.
    pub(super) url: String,
    /// Bearer token of the administrator.
    pub(super) admin_token: String,
    /// Certificate of the cluster's authority, PEM.
    pub(super) authority_pem: String,
    /// Keys.
    pub(super) authority: Authority,
    /// First address of the Service range, and its prefix length.
    pub(super) service_cidr: (IpAddr, u8),
    /// Address of this machine that others reach it by.
    pub(super) advertise: IpAddr,
}

impl Control {
    /// Opens keys and store, starts the server and its port.
    pub(super) async fn start(
        arguments: &arguments::Up,
        instance: &Instance,
        shutdown: &CancellationToken,
        parts: &mut Parts,
    ) -> Result<Self, UpError> {
        let service_cidr = parse_cidr("service-cidr", &arguments.service_cidr)?;
        let cluster_cidr = parse_cidr("cluster-cidr", &arguments.cluster_cidr)?;
        if overlap(service_cidr, cluster_cidr) {
            let reason = format!("overlaps --cluster-cidr {}; choose ranges that do not", arguments.cluster_cidr);
            return Err(UpError::Flag { flag: "service-cidr", value: arguments.service_cidr.clone(), reason });
        }
        let store = open_store(arguments, instance)?;
        let authority = Authority::open(&instance.pki())?;
        let advertise = arguments.node_ip.unwrap_or_else(|| own_address(arguments.listen.ip()));
        let listener = TcpListener::bind(arguments.listen).await.map_err(|source| UpError::Listen {
            address: arguments.listen,
            flag: "listen",
            source,
        })?;
        let local = listener.local_addr().map_err(UpError::start("the API's port"))?;
        let admin_token = super::files::admin_token(instance)?;
        let settings = Settings {
            service_cidr,
            cluster_domain: arguments.cluster_domain.clone(),
            issuer: format!("https://kubernetes.default.svc.{}", arguments.cluster_domain),
            advertise: (advertise, local.port()),
            service_account_key: Some(authority.service_account_key()?),
            kubelet: Some(Arc::new(kubelet_client(&authority)?)),
            resource_metrics: !arguments.no_node,
            client_ca_pem: Some(authority.certificate_pem().to_owned()),
            ..Settings::default()
        };
        let config = Config { store, admin_token: Some(admin_token.clone()), settings };
        let server = ApiServer::start(config).await.map_err(UpError::start("the API server"))?;
        let tls = Arc::new(server_tls(&authority, service_cidr.0, advertise, &arguments.cluster_domain)?);
        let (serving, token) = (Arc::clone(&server), shutdown.clone());
        parts.spawn(async move {
            serving.serve(listener, tls, token).await;
            "the API server"
        });
        let reach = if local.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { local.ip() };
        Ok(Self {
            server,
            url: format!("https://{}", SocketAddr::new(reach, local.port())),
            admin_token,
            authority_pem: authority.certificate_pem().to_owned(),
            authority,
            service_cidr,
            advertise,
        })
    }

    /// A client in this process with a part's own rights.
    pub(super) fn part(&self, user: &str) -> Client {
        Client::new(InProcess::new(Arc::clone(&self.server), user, &["system:authenticated"]))
    }

    /// A client in this process with the administrator's rights, for what every
    /// cluster is born with.
    pub(super) fn admin(&self) -> Client {
        Client::new(InProcess::new(Arc::clone(&self.server), "darter:up", &["system:masters", "system:authenticated"]))
    }

    /// The address at this place in the Service range: 1 is the API's, 10 is DNS's.
    pub(super) fn service_address(&self, index: u8) -> IpAddr {
        match self.service_cidr.0 {
            IpAddr::V4(base) => IpAddr::from((u32::from(base) + u32::from(index)).to_be_bytes()),
            IpAddr::V6(base) => IpAddr::from((u128::from(base) + u128::from(index)).to_be_bytes()),
        }
    }
}

fn open_store(arguments: &arguments::Up, instance: &Instance) -> Result<Arc<dyn store::Store>, UpError> {
    if arguments.store != "embedded" {
        let reason = "only `embedded` is available in this version".to_owned();
        return Err(UpError::Flag { flag: "store", value: arguments.store.clone(), reason });
    }
    let path = instance.data_dir.clone();
    if path.exists() && !path.is_dir() {
        let reason = "is not a directory; name one, or a path where nothing is yet".to_owned();
        return Err(UpError::Flag { flag: "data-dir", value: path.display().to_string(), reason });
    }
    std::fs::create_dir_all(&path).map_err(|source| UpError::File { step: "creating", path, source })?;
    let store = store::EmbeddedStore::open(&instance.store(), store::embedded::Options::default());
    Ok(Arc::new(store.map_err(UpError::start("the store"))?))
}

/// A range as base address and prefix length; the base has no host bits.
pub(super) fn parse_cidr(flag: &'static str, text: &str) -> Result<(IpAddr, u8), UpError> {
    let fail = |reason: &str| UpError::Flag {
        flag,
        value: text.to_owned(),
        reason: format!("{reason}; for example 10.96.0.0/16"),
    };
    let (address, length) = text.split_once('/').ok_or_else(|| fail("is not ADDRESS/LENGTH"))?;
    let address: IpAddr = address.parse().map_err(|_| fail("has no valid address"))?;
    let length: u8 = length.parse().map_err(|_| fail("has no valid prefix length"))?;
    let bits = match address {
        IpAddr::V4(address) => {
            if !(8..=28).contains(&length) {
                return Err(fail("must have a prefix of 8 to 28"));
            }
            u128::from(u32::from(address)) & ((1_u128 << (32 - u32::from(length))) - 1)
        }
        IpAddr::V6(_) => return Err(fail("is IPv6, which this version does not give to pods and Services")),
    };
    if bits == 0 { Ok((address, length)) } else { Err(fail("has host bits set")) }
}

fn overlap(one: (IpAddr, u8), other: (IpAddr, u8)) -> bool {
    let (IpAddr::V4(a), IpAddr::V4(b)) = (one.0, other.0) else { return false };
    let shift = 32 - u32::from(one.1.min(other.1));
    u32::from(a) >> shift == u32::from(b) >> shift
}

/// The address that others reach this machine by: the one that faces the
/// default route, or loopback on a machine without one.
fn own_address(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() && !listen.is_loopback() {
        return listen;
    }
    // Connecting a datagram socket sends nothing; it only asks for the route.
    // 192.0.2.1 is reserved for documentation (RFC 5737).
    let route = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    route.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

fn roots(authority: &Authority) -> Result<RootCertStore, UpError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate()?).map_err(UpError::start("TLS"))?;
    Ok(roots)
}

/// TLS of the API's port: our certificate; a client may show one of ours.
fn server_tls(
    authority: &Authority,
    service: IpAddr,
    advertise: IpAddr,
    domain: &str,
) -> Result<ServerConfig, UpError> {
    let first = match service {
        IpAddr::V4(base) => IpAddr::from((u32::from(base) + 1).to_be_bytes()),
        IpAddr::V6(base) => IpAddr::from((u128::from(base) + 1).to_be_bytes()),
    };
    let mut dns_names = vec!["localhost".to_owned()];
    for suffix in ["", ".default", ".default.svc"] {
        dns_names.push(format!("kubernetes{suffix}"));
    }
    dns_names.push(format!("kubernetes.default.svc.{domain}"));
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST.octets()), first];
    if !addresses.contains(&advertise) {
        addresses.push(advertise);
    }
    let identity = authority.identity(&Subject {
        name: "apiserver",
        common_name: "kube-apiserver",
        organizations: &[],
        dns_names: &dns_names,
        addresses: &addresses,
    })?;
    let clients = WebPkiClientVerifier::builder(Arc::new(roots(authority)?))
        .allow_unauthenticated()
        .build()
        .map_err(UpError::start("TLS"))?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain()?, identity.key()?)
        .map_err(UpError::start("TLS"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// How the API server talks to node agents: as itself, trusting our authority.
fn kubelet_client(authority: &Authority) -> Result<ClientConfig, UpError> {
    let identity = authority.identity(&Subject {
        name: "apiserver-kubelet-client",
        common_name: "kube-apiserver-kubelet-client",
        organizations: &["system:masters"],
        dns_names: &[],
        addresses: &[],
    })?;
    ClientConfig::builder()
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(identity.chain()?, identity.key()?)
        .map_err(UpError::start("TLS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed_and_bad_ones_are_named_with_the_flag() {
        assert_eq!(parse_cidr("service-cidr", "10.96.0.0/16").unwrap(), (IpAddr::from([10, 96, 0, 0]), 16));
        for bad in ["10.96.0.0", "10.96.0.1/16", "x/16", "10.96.0.0/33", "10.0.0.0/4", "fd00::/108"] {
            let error = parse_cidr("service-cidr", bad).unwrap_err().to_string();
            assert!(error.contains("service-cidr") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        let cidr = |text| parse_cidr("cluster-cidr", text).unwrap();
        assert!(overlap(cidr("10.0.0.0/8"), cidr("10.96.0.0/16")));
        assert!(!overlap(cidr("10.97.0.0/16"), cidr("10.96.0.0/16")));
    }
}
