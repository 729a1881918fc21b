//! Gives each node a network for its pods, out of the cluster's. It never
//! takes one back while the node exists.

use std::net::IpAddr;
use std::sync::Arc;

use client::events::{EventType, reference};
use client::{Action, Controller, ObjectKey, Patch};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::context::{Context, Error};

/// Networks that one cluster network may be cut into at most: as many nodes as
/// upstream supports, and more.
const NETWORKS_LIMIT: u128 = 1 << 16;

/// One after the other: two nodes must not get one network.
const CONCURRENT: usize = 1;

/// An address with the number of bits that stand for the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: u128,
    prefix: u8,
    is_ipv6: bool,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let is_ipv6 = address.is_ipv6();
        let address = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        (prefix <= if is_ipv6 { 128 } else { 32 }).then_some(Self { address, prefix, is_ipv6 }.trimmed())
    }

    fn bits(self) -> u8 {
        if self.is_ipv6 { 128 } else { 32 }
    }

    fn size(self) -> Option<u128> {
        1u128.checked_shl(u32::from(self.bits() - self.prefix))
    }

    /// With the bits of the host cleared.
    fn trimmed(self) -> Self {
        let host = self.size().map_or(u128::MAX, |size| size - 1);
        Self { address: self.address & !host, ..self }
    }

    fn overlaps(self, other: Self) -> bool {
        let wider = if self.prefix < other.prefix { self } else { other };
        let narrower = if self.prefix < other.prefix { other } else { self };
        self.is_ipv6 == other.is_ipv6 && Self { prefix: wider.prefix, ..narrower }.trimmed() == wider
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = if self.is_ipv6 {
            IpAddr::from(self.address.to_be_bytes())
        } else {
            // An IPv4 network holds 32 bits by construction.
            IpAddr::from(u32::try_from(self.address).unwrap_or(u32::MAX).to_be_bytes())
        };
        write!(f, "{address}/{}", self.prefix)
    }
}

/// The first network of this size that no node has.
fn free(cluster: Network, mask: u8, taken: &[Network]) -> Option<Network> {
    let count = 1u128.checked_shl(u32::from(mask.checked_sub(cluster.prefix)?))?.min(NETWORKS_LIMIT);
    let size = Network { prefix: mask, ..cluster }.size()?;
    let mut candidates = (0..count).map(|n| Network { address: cluster.address + n * size, prefix: mask, ..cluster });
    candidates.find(|candidate| !taken.iter().any(|taken| taken.overlaps(*candidate)))
}

/// None if the configured network is not one.
pub(crate) fn controller(context: &Context, cluster: &str, mask: u8) -> Option<Controller<Error>> {
    let cluster = Network::parse(cluster).filter(|cluster| cluster.prefix <= mask && mask <= cluster.bits())?;
    let informers = context.informers.clone();
    let context = context.named("cidrAllocator");
    let controller = Controller::new("node-ipam", move |key| reconcile(context.clone(), cluster, mask, key))
        .watches(&informers.nodes, |delta| [ObjectKey::of(&**delta.object())])
        .concurrency(CONCURRENT);
    Some(controller)
}

fn networks(nodes: &[Arc<Node>]) -> Vec<Network> {
    let specs = nodes.iter().filter_map(|node| node.spec.as_ref());
    let all = specs.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    all.filter_map(|text| Network::parse(text)).collect()
}

async fn reconcile(context: Context, cluster: Network, mask: u8, key: ObjectKey) -> Result<Action, Error> {
    let nodes = &context.informers.nodes;
    nodes.caught_up().await?;
    let Some(node) = nodes.get(&key) else { return Ok(Action::Done) };
    let spec = node.spec.as_ref();
    let has_network = spec.is_some_and(|spec| spec.pod_cidr.as_ref().is_some_and(|cidr| !cidr.is_empty()));
    if has_network || node.metadata.deletion_timestamp.is_some() {
        return Ok(Action::Done);
    }
    let Some(network) = free(cluster, mask, &networks(&nodes.list())) else {
        let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
        context.recorder.event(&reference(&*node), EventType::Normal, "CIDRNotAvailable", message);
        return Err(Error::Missing { what: format!("a free network in {cluster} for node {}", key.name) });
    };
    let network = network.to_string();
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"podCIDR": network, "podCIDRs": [network]},
    });
    let written = context.client.all::<Node>().patch(&key.name, &Patch::Merge(patch)).await?;
    nodes.wrote(written.metadata.resource_version.as_deref());
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_network_is_given() {
        let network = |text| Network::parse(text).unwrap();
        let check = |cluster, mask, taken: &[&str], expected: Option<&str>| {
            let taken: Vec<_> = taken.iter().map(|taken| network(taken)).collect();
            assert_eq!(free(network(cluster), mask, &taken).map(|free| free.to_string()).as_deref(), expected);
        };
        check("10.244.0.0/16", 24, &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/23"], Some("10.244.2.0/24"));
        check("10.244.0.0/31", 32, &["10.244.0.0/32", "10.244.0.1/32"], None);
        check("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
