//! The node's parts: runtime, pod network, Service rules, DNS, agent. They
//! speak to the API as this node and as nothing more.

mod host;
mod network;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use client::{Client, WatchEvent, WatchParams};
use containers::runtime::Runtime;
use containers::{EmbeddedConfig, EmbeddedRuntime, ShimCommand};
use futures_util::StreamExt;
use kubelet::agent::Kubelet;
use kubelet::config::KubeletConfig;
use kubelet::server::{NodeServer, NodeServerConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::{Parts, UpError};
use crate::arguments;
use crate::instance::Instance;
use crate::pki::Subject;
use crate::transport::InProcess;
pub(super) use host::preflight;
use network::DeferredNetwork;

/// What the node's parts are made from.
struct Context<'a> {
    arguments: &'a arguments::Up,
    instance: &'a Instance,
    control: &'a Control,
    /// Speaks as this node.
    client: &'a Client,
    name: &'a str,
}

/// Starts them and waits until the node is ready; returns its name.
pub(super) async fn start(
    arguments: &arguments::Up,
    instance: &Instance,
    control: &Control,
    shutdown: &CancellationToken,
    parts: &mut Parts,
) -> Result<String, UpError> {
    let name = node_name(arguments)?;
    let user = format!("system:node:{name}");
    let client =
        Client::new(InProcess::new(Arc::clone(&control.server), &user, &["system:nodes", "system:authenticated"]));
    let deferred = Arc::new(DeferredNetwork::new());
    let program = std::env::current_exe().map_err(|source| UpError::File {
        step: "finding",
        path: "/proc/self/exe".into(),
        source,
    })?;
    let runtime = EmbeddedRuntime::open(EmbeddedConfig {
        root: instance.containers(),
        state: instance.run_dir.clone(),
        cgroup_root: instance.cgroup.clone(),
        registries: arguments.registries.clone(),
        network: Arc::clone(&deferred) as _,
        shim: ShimCommand { program, args: vec!["shim".into()] },
    })
    .await
    .map_err(UpError::start("the container runtime"))?;
    let address = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), arguments.node_port);
    let listener =
        TcpListener::bind(address).await.map_err(|source| UpError::Listen { address, flag: "node-port", source })?;
    let listen = listener.local_addr().map_err(UpError::start("the node's port"))?;
    let config = kubelet_config(arguments, instance, control, &name, listen);
    let kubelet = Kubelet::new(client.clone(), Arc::clone(&runtime) as Arc<dyn Runtime>, config);
    let sleep = kubelet.sleep();
    let server = NodeServer::new(kubelet.node_api(), client.clone(), listener, server_config(control, &name, &user)?);
    let server = server.map_err(UpError::start("the node's HTTP API"))?;
    let token = shutdown.clone();
    parts.spawn(async move {
        server.run(token).await;
        "the node's HTTP API"
    });
    let token = shutdown.clone();
    parts.spawn(async move {
        if let Err(error) = kubelet.run(token).await {
            tracing::error!(err = %api::error::Chain(&error), "the node agent ended");
        }
        "the node agent"
    });
    let range = pod_cidr(&client, &name).await?;
    let context = Context { arguments, instance, control, client: &client, name: &name };
    network::start(&context, &range, &deferred, shutdown, parts).await?;
    network::watch_traffic(&context, &range, &sleep)?;
    ready(&client, &name).await?;
    Ok(name)
}

/// The machine's host name, as upstream's kubelet uses it: lower case.
fn node_name(arguments: &arguments::Up) -> Result<String, UpError> {
    let name = match &arguments.node_name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase(),
    };
    let good = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    if good {
        return Ok(name);
    }
    let reason = "is not a DNS name of lower-case letters, digits, '-' and '.'; choose one with --node-name".to_owned();
    Err(UpError::Flag { flag: "node-name", value: name, reason })
}

/// The node's certificate says its name and address; clients show ours.
fn server_config(control: &Control, name: &str, user: &str) -> Result<NodeServerConfig, UpError> {
    let identity = control.authority.identity(&Subject {
        name: "kubelet",
        common_name: user,
        organizations: &["system:nodes"],
        dns_names: &[name.to_owned()],
        addresses: &[control.advertise],
    })?;
    Ok(NodeServerConfig {
        certificates: identity.chain()?,
        key: identity.key()?,
        client_authorities: vec![control.authority.certificate()?],
    })
}

fn kubelet_config(
    arguments: &arguments::Up,
    instance: &Instance,
    control: &Control,
    name: &str,
    listen: SocketAddr,
) -> KubeletConfig {
    KubeletConfig {
        cluster_dns: vec![control.service_address(10)],
        cluster_domain: arguments.cluster_domain.clone(),
        cgroup_root: instance.cgroup.clone(),
        listen,
        ..KubeletConfig::new(name, instance.kubelet(), control.advertise)
    }
}

type Node = api::types::api::core::v1::Node;

/// Waits until the node is as wanted. The watch begins with what is there.
async fn watch_node<T>(client: &Client, name: &str, wanted: impl Fn(&Node) -> Option<T>) -> Result<T, UpError> {
    let fail = UpError::start::<client::ClientError>;
    let params = WatchParams::fields(format!("metadata.name={name}"));
    let mut events = client.all::<Node>().watch(&params).await.map_err(fail("the node"))?;
    while let Some(event) = events.next().await {
        if let WatchEvent::Added(node) | WatchEvent::Modified(node) = event.map_err(fail("the node"))?
            && let Some(found) = wanted(&node)
        {
            return Ok(found);
        }
    }
    Err(UpError::Ended { part: "the watch of this node" })
}

/// The range of this node's pods, once the controllers gave it one.
async fn pod_cidr(client: &Client, name: &str) -> Result<String, UpError> {
    watch_node(client, name, |node| node.spec.as_ref()?.pod_cidr.clone().filter(|range| !range.is_empty())).await
}

async fn ready(client: &Client, name: &str) -> Result<(), UpError> {
    watch_node(client, name, |node| {
        let conditions = node.status.as_ref()?.conditions.as_deref()?;
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True").then_some(())
    })
    .await
}
