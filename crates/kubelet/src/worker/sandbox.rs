//! Making a pod's sandbox: from the specification to what the runtime is asked
//! for. When one is made is decided elsewhere.

use api::types::api::core::v1 as core;
use api::types::api::node::v1 as node;
use client::ClientError;
use containers::runtime::{RuntimeError, SandboxConfig, SandboxId, SandboxMetadata};

use super::steps::Job;
use crate::hostname;
use crate::labels;
use crate::resolv;
use crate::resources;
use crate::security;
use crate::spec;

/// Why no sandbox could be made.
#[derive(thiserror::Error, Debug)]
pub(super) enum SandboxError {
    #[error(transparent)]
    Hostname(#[from] hostname::HostnameError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("failed to get RuntimeClass {name}")]
    Class {
        name: String,
        #[source]
        source: ClientError,
    },
    #[error("no range of users is left for a user namespace")]
    Users,
    #[error("{step}: {source}")]
    Io {
        step: String,
        #[source]
        source: std::io::Error,
    },
}

impl Job {
    /// Makes the sandbox; `attempt` counts those of the pod.
    pub(super) async fn create_sandbox(&self, attempt: u32) -> Result<SandboxId, SandboxError> {
        let mut config = self.sandbox_config(attempt)?;
        config.handler = self.handler().await?;
        if spec::spec(&self.pod).host_users == Some(false) {
            config.users = Some(self.users.ok_or(SandboxError::Users)?);
        }
        let dir = &config.log_directory;
        std::fs::create_dir_all(dir)
            .map_err(|source| SandboxError::Io { step: format!("making {}", dir.display()), source })?;
        Ok(self.context.runtime.run_sandbox(config).await?)
    }

    /// The runtime that the pod's class names.
    async fn handler(&self) -> Result<String, SandboxError> {
        let Some(name) = spec::spec(&self.pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(String::new());
        };
        let classes = self.context.client.all::<node::RuntimeClass>();
        let class = classes.get(name).await;
        class.map(|class| class.handler).map_err(|source| SandboxError::Class { name: name.to_owned(), source })
    }

    fn sandbox_config(&self, attempt: u32) -> Result<SandboxConfig, SandboxError> {
        let pod = &self.pod;
        let config = &self.context.config;
        let (dns, omitted) = resolv::of_pod(pod, &self.context.host_dns, &config.cluster_dns, &config.cluster_domain);
        for resolv::Omitted(text) in omitted {
            self.event("Warning", "DNSConfigForming", &text);
        }
        let hostname =
            if spec::host_network(pod) { String::new() } else { hostname::for_kernel(pod, &config.cluster_domain)? };
        let (network, pid, ipc) = security::namespaces(pod);
        let sysctls = spec::spec(pod).security_context.as_ref().and_then(|s| s.sysctls.as_ref());
        Ok(SandboxConfig {
            metadata: SandboxMetadata {
                name: spec::name(pod).into(),
                namespace: spec::namespace(pod).into(),
                uid: spec::uid(pod).into(),
                attempt,
            },
            hostname,
            log_directory: self.context.log_dir(pod),
            dns: Some(dns),
            network,
            pid,
            ipc,
            port_mappings: port_mappings(pod),
            sysctls: sysctls.into_iter().flatten().map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
            cgroup_parent: resources::cgroup_path(&config.cgroup_root, pod),
            resources: resources::of_pod_cgroup(pod),
            labels: labels::sandbox(pod),
            annotations: pod.metadata.annotations.clone().unwrap_or_default(),
            hosts: Vec::new(),
            handler: String::new(),
            users: None,
        })
    }
}

fn port_mappings(pod: &core::Pod) -> Vec<containers::runtime::PortMapping> {
    use containers::runtime::{PortMapping, Protocol};
    if spec::host_network(pod) {
        return Vec::new();
    }
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    let ports = spec::main_containers(pod).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port: u16::try_from(port.container_port).ok()?,
                host_port: u16::try_from(port.host_port?).ok().filter(|p| *p != 0)?,
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            })
        })
        .collect()
}
