//! The node's network parts, in the order in which they need each other, and
//! the seam by which the runtime reaches the pod network.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use containers::runtime::{Protocol, SandboxConfig, SandboxId, SandboxNetwork};
use dns::{Dns, DnsConfig};
use network::activity::Activity;
use network::hold::HeldSleepers;
use network::pod::{HostPort, PodNetwork, PodNetworkError, TransportProtocol};
use network::service::{ServiceLoadBalancers, ServiceProxy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::{Parts, UpError};
use super::Context;
use crate::arguments;
use crate::networks::Networks;

/// Where DNS is served.
const DNS_PORT: u16 = 53;

type Failure = Box<dyn Error + Send + Sync>;

/// The pod network of a node whose range is not known yet: the range comes from
/// the API, and the runtime starts before it. Attaching waits for it.
pub(super) struct DeferredNetwork {
    network: watch::Sender<Option<Arc<PodNetwork>>>,
}

impl DeferredNetwork {
    pub(super) fn new() -> Self {
        Self { network: watch::Sender::new(None) }
    }

    fn open(&self, network: PodNetwork) {
        self.network.send_replace(Some(Arc::new(network)));
    }

    async fn network(&self) -> Result<Arc<PodNetwork>, Failure> {
        let mut receiver = self.network.subscribe();
        let network = receiver.wait_for(Option::is_some).await?.clone();
        network.ok_or_else(|| "the pod network is closed".into())
    }
}

#[async_trait::async_trait]
impl SandboxNetwork for DeferredNetwork {
    async fn attach(&self, id: &SandboxId, netns: &Path, config: &SandboxConfig) -> Result<Vec<IpAddr>, Failure> {
        let ports: Vec<HostPort> = config.port_mappings.iter().map(host_port).collect();
        // Microseconds of netlink; not worth a thread switch.
        Ok(self.network().await?.attach(&id.0, netns, &ports)?.addresses)
    }

    async fn detach(&self, id: &SandboxId) -> Result<(), Failure> {
        Ok(self.network().await?.detach(&id.0)?)
    }
}

fn host_port(mapping: &containers::runtime::PortMapping) -> HostPort {
    HostPort {
        protocol: match mapping.protocol {
            Protocol::Tcp => TransportProtocol::Tcp,
            Protocol::Udp => TransportProtocol::Udp,
            Protocol::Sctp => TransportProtocol::Sctp,
        },
        pod_port: mapping.container_port,
        host_port: mapping.host_port,
        host_address: match mapping.host_ip {
            Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
            _ => None,
        },
    }
}

/// Opens the pod network over `range`, then starts Services and DNS.
pub(super) async fn start(
    node: &Context<'_>,
    range: &str,
    deferred: &DeferredNetwork,
    shutdown: &CancellationToken,
    parts: &mut Parts,
) -> Result<(), UpError> {
    let networks = networks(node.arguments, range)?;
    networks.write(node.instance).map_err(UpError::start("the pod network"))?;
    let network = PodNetwork::open(networks.pod_network(node.instance)).map_err(|error| match error {
        PodNetworkError::RangeTaken { .. } => UpError::Flag {
            flag: "cluster-cidr",
            value: node.arguments.cluster_cidr.clone(),
            reason: error.to_string(),
        },
        error => UpError::start("the pod network")(error),
    })?;
    for obstacle in network.forwarding_obstacles().map_err(UpError::start("the pod network"))? {
        tracing::warn!(obstacle, "rules that are not ours keep pods from reaching each other or the outside");
    }
    let gateway = network.gateway();
    deferred.open(network);
    let proxy =
        ServiceProxy::new(node.control.part("system:kube-proxy"), networks.service_proxy(node.instance, node.name));
    let proxy = proxy.map_err(UpError::start("Services"))?;
    let (sleepers, holding) = HeldSleepers::new(node.client.clone(), node.name);
    let proxy = proxy.holding(holding);
    let balancers = ServiceLoadBalancers::new(node.control.part("system:darter:service-lb"));
    let (first, second, third) = (shutdown.clone(), shutdown.clone(), shutdown.clone());
    parts.spawn(async move {
        proxy.run(first).await;
        "Services"
    });
    parts.spawn(async move {
        balancers.run(second).await;
        "Services' outside addresses"
    });
    parts.spawn(async move {
        sleepers.run(third).await;
        "held Services"
    });
    start_dns(node, gateway, shutdown, parts).await
}

/// DNS on the address that pods see the node by; the DNS Service leads there.
async fn start_dns(
    node: &Context<'_>,
    gateway: IpAddr,
    shutdown: &CancellationToken,
    parts: &mut Parts,
) -> Result<(), UpError> {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let config = DnsConfig {
        domain: node.arguments.cluster_domain.clone(),
        listen: vec![SocketAddr::new(gateway, DNS_PORT)],
        resolvers: dns::resolvers(&resolv_conf),
    };
    let dns = Dns::bind(node.control.part("system:darter:dns"), config).await.map_err(UpError::start("DNS"))?;
    super::super::addons::publish_dns(node.control, node.name, gateway).await?;
    let token = shutdown.clone();
    parts.spawn(async move {
        dns.run(token).await;
        "DNS"
    });
    Ok(())
}

/// Opens the kernel's view of pod traffic and lets pods fall asleep.
pub(super) fn watch_traffic(node: &Context<'_>, range: &str, sleep: &kubelet::sleep::Sleep) -> Result<(), UpError> {
    let config = networks(node.arguments, range)?.activity(node.instance);
    let activity = Activity::open(config, sleep.watcher()).map_err(UpError::start("the view of pod traffic"))?;
    sleep.enable(Arc::new(activity));
    Ok(())
}

fn networks(arguments: &arguments::Up, pods: &str) -> Result<Networks, UpError> {
    let networks = Networks::parse(pods, &arguments.cluster_cidr, &arguments.service_cidr);
    networks.ok_or_else(|| UpError::start("the pod network")(format!("{pods} is not a range of addresses")))
}
