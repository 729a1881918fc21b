//! What the agent is told by whoever starts it. Nothing is read from the
//! environment here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use api::types::api::core::v1::Taint;

/// Settings of one node agent. All paths are absolute.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Name of the node object.
    pub node_name: String,
    /// Where the agent keeps volumes and its own files.
    pub root_dir: PathBuf,
    /// Where pod logs are, as `NAMESPACE_NAME_UID/CONTAINER/N.log`.
    pub log_dir: PathBuf,
    /// Addresses of the machine, the primary first.
    pub node_ips: Vec<IpAddr>,
    /// Addresses of the cluster's DNS; empty for none.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// Most pods on this node.
    pub max_pods: u32,
    /// Cgroup below which `kubepods` is made, `/darter`; empty for the root.
    pub cgroup_root: String,
    /// Labels that the node object gets at its registration.
    pub node_labels: BTreeMap<String, String>,
    /// Taints that the node object gets at its registration.
    pub node_taints: Vec<Taint>,
    /// Manifests in this directory are run without the API server.
    pub static_pod_dir: Option<PathBuf>,
    /// The machine's resolver settings.
    pub resolv_conf: PathBuf,
    /// Directory of `localhost` seccomp profiles.
    pub seccomp_dir: PathBuf,
    /// Where the node's HTTP API listens; its port is published in the node's
    /// status.
    pub listen: SocketAddr,
    /// Version in the node's status, `v1.36.2`.
    pub kubelet_version: String,
    /// Images that are pulled at the same time; 1 is upstream's default.
    pub parallel_pulls: usize,
    /// Images are removed above this percentage of the disk in use.
    pub image_gc_high_percent: u8,
    /// Down to this percentage.
    pub image_gc_low_percent: u8,
    /// CPU kept for the machine itself, thousandths.
    pub reserved_cpu_milli: i64,
    /// Memory kept for the machine itself, bytes.
    pub reserved_memory_bytes: i64,
    /// Free memory below which pods are evicted, bytes.
    pub eviction_memory_bytes: u64,
    /// Free part of the disk below which pods are evicted, percent.
    pub eviction_disk_percent: u8,
}

impl KubeletConfig {
    /// Upstream's defaults for a node of this name, with everything below
    /// `root_dir`.
    pub fn new(node_name: impl Into<String>, root_dir: impl Into<PathBuf>, node_ip: IpAddr) -> Self {
        let root_dir = root_dir.into();
        Self {
            node_name: node_name.into(),
            log_dir: root_dir.join("logs"),
            seccomp_dir: root_dir.join("seccomp"),
            root_dir,
            node_ips: vec![node_ip],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            max_pods: 110,
            cgroup_root: String::new(),
            node_labels: BTreeMap::new(),
            node_taints: Vec::new(),
            static_pod_dir: None,
            resolv_conf: "/etc/resolv.conf".into(),
            listen: SocketAddr::new(node_ip, 10250),
            kubelet_version: "v1.36.2".into(),
            parallel_pulls: 1,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            reserved_cpu_milli: 0,
            reserved_memory_bytes: 0,
            eviction_memory_bytes: 100 << 20,
            eviction_disk_percent: 10,
        }
    }
}
