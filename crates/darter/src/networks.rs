//! The address ranges of this machine's node, kept in a file so that `reset`
//! knows what to remove, and the configuration that follows from them.

use std::io;
use std::path::PathBuf;

use network::activity::ActivityConfig;
use network::cidr::Cidr;
use network::pod::PodNetworkConfig;
use network::service::ServiceProxyConfig;

use crate::instance::Instance;

/// The ranges of a node.
#[derive(Clone, Copy)]
pub(crate) struct Networks {
    pods: Cidr,
    cluster: Cidr,
    services: Cidr,
}

impl Networks {
    /// From their text forms: this node's pods, all pods, Services.
    pub(crate) fn parse(pods: &str, cluster: &str, services: &str) -> Option<Self> {
        Some(Self { pods: pods.parse().ok()?, cluster: cluster.parse().ok()?, services: services.parse().ok()? })
    }

    fn path(instance: &Instance) -> PathBuf {
        instance.data_dir.join("networks")
    }

    /// Keeps them for [`Networks::read`].
    pub(crate) fn write(&self, instance: &Instance) -> io::Result<()> {
        std::fs::write(Self::path(instance), format!("{} {} {}\n", self.pods, self.cluster, self.services))
    }

    /// What was kept; `None` where no node ran.
    pub(crate) fn read(instance: &Instance) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(Self::path(instance)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut words = text.split_whitespace();
        let mut next = || words.next().unwrap_or_default();
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", Self::path(instance).display()));
        Self::parse(next(), next(), next()).map(Some).ok_or_else(damaged)
    }

    /// The pods' network.
    pub(crate) fn pod_network(&self, instance: &Instance) -> PodNetworkConfig {
        PodNetworkConfig {
            interface: instance.bridge.clone(),
            table: format!("{}-pods", instance.table),
            service_cidr: Some(self.services),
            ..PodNetworkConfig::new(self.pods, self.cluster)
        }
    }

    /// The Services' rules.
    pub(crate) fn service_proxy(&self, instance: &Instance, node: &str) -> ServiceProxyConfig {
        ServiceProxyConfig { table: instance.table.clone(), ..ServiceProxyConfig::new(node, self.pods, self.cluster) }
    }

    /// The view of pod traffic.
    pub(crate) fn activity(&self, instance: &Instance) -> ActivityConfig {
        ActivityConfig { table: format!("{}-activity", instance.table), ..ActivityConfig::new(self.pods) }
    }
}
