//! The node's own object: registration, lease, and a status that is written
//! when something changed, and every five minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use api::types::api::coordination::v1 as coordination;
use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::api::resource::Quantity;
use api::types::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use client::{ClientError, Patch};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::config::KubeletConfig;
use crate::context::Context;
use crate::machine;
use crate::resources::format_milli;
use crate::status::api_time;

/// How often the lease is renewed (upstream: a quarter of 40 s).
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// For how long a lease holds.
const LEASE_SECONDS: i32 = 40;
/// The status is written so often even when nothing changed.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// Wait after a failed request.
const RETRY: Duration = Duration::from_millis(200);
/// Longest wait after failed requests.
const MAX_RETRY: Duration = Duration::from_secs(7);
/// Most images in the status (upstream's `nodeStatusMaxImages`).
const MAX_IMAGES: usize = 50;
/// Namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Registers the node and keeps its object alive until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut node = Node { context, written: None, lease: None };
    if shutdown.run_until_cancelled(node.register()).await.is_none() {
        return;
    }
    let mut next_status = Instant::now() + STATUS_PERIOD;
    let mut next_lease = Instant::now();
    let mut wait = RETRY;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(next_lease) => {
                match node.renew_lease().await {
                    Ok(()) => {
                        next_lease += LEASE_RENEWAL;
                        next_lease = next_lease.max(Instant::now());
                        wait = RETRY;
                    }
                    Err(err) => {
                        tracing::warn!(err = %api::error::Chain(&err), "node lease could not be renewed");
                        node.lease = None;
                        wait = (wait * 2).min(MAX_RETRY);
                        next_lease = Instant::now() + wait;
                    }
                }
                // A free occasion to see what changed; nothing is written if nothing did.
                let forced = Instant::now() >= next_status;
                match node.write_status(forced).await {
                    Ok(()) if forced => next_status = Instant::now() + STATUS_PERIOD,
                    Ok(()) => {}
                    Err(err) => tracing::warn!(err = %api::error::Chain(&err), "node status could not be written"),
                }
            }
        }
    }
}

/// Labels that the node registers with.
pub(crate) fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let arch = machine::architecture();
    let mut labels = config.node_labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ] {
        labels.entry(key.into()).or_insert_with(|| value.into());
    }
    labels
}

struct Node {
    context: Arc<Context>,
    /// The status as last written, without heartbeat times.
    written: Option<Value>,
    lease: Option<coordination::Lease>,
}

impl Node {
    /// Makes the object, or brings labels and taints of an existing one in
    /// line. Tries until it succeeds.
    async fn register(&mut self) {
        let mut wait = RETRY;
        loop {
            match self.try_register().await {
                Ok(()) => break,
                Err(err) => {
                    tracing::warn!(err = %api::error::Chain(&err), retry_ms = wait.as_millis(), "node could not be registered");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MAX_RETRY);
                }
            }
        }
        self.context.events.node("Normal", "Starting", "Starting kubelet.");
    }

    async fn try_register(&mut self) -> Result<(), ClientError> {
        let api = self.context.client.all::<core::Node>();
        let name = self.context.config.node_name.clone();
        let labels = labels(&self.context.config);
        let status = self.status().await;
        let taints = self.context.config.node_taints.clone();
        let node = core::Node {
            metadata: ObjectMeta { name: Some(name.clone()), labels: Some(labels.clone()), ..ObjectMeta::default() },
            spec: Some(core::NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..core::NodeSpec::default() }),
            status: Some(status),
        };
        match api.create(&node).await {
            Ok(_) => {}
            Err(err) if err.is_already_exists() => {
                api.patch(&name, &Patch::Strategic(json!({"metadata": {"labels": labels}}))).await?;
            }
            Err(err) => return Err(err),
        }
        self.write_status(true).await
    }

    async fn write_status(&mut self, forced: bool) -> Result<(), ClientError> {
        let status = self.status().await;
        let comparable = without_times(&status);
        if !forced && self.written.as_ref() == Some(&comparable) {
            return Ok(());
        }
        let api = self.context.client.all::<core::Node>();
        let name = &self.context.config.node_name;
        let current = match api.get(name).await {
            Ok(node) => node.status.unwrap_or_default(),
            Err(err) if err.is_not_found() => {
                self.written = None;
                return Err(err);
            }
            Err(err) => return Err(err),
        };
        let mut status = status;
        for condition in status.conditions.iter_mut().flatten() {
            let before = current.conditions.iter().flatten().find(|c| c.type_ == condition.type_);
            if let Some(before) = before.filter(|b| b.status == condition.status) {
                condition.last_transition_time.clone_from(&before.last_transition_time);
            }
        }
        let value = serde_json::to_value(&status).unwrap_or_default();
        api.patch_status(name, &Patch::Strategic(json!({"status": value}))).await?;
        self.written = Some(comparable);
        Ok(())
    }

    async fn status(&self) -> core::NodeStatus {
        let config = &self.context.config;
        let facts = machine::facts();
        let (runtime, version) = self.context.runtime.version();
        let mut addresses: Vec<core::NodeAddress> = config
            .node_ips
            .iter()
            .map(|ip| core::NodeAddress { type_: "InternalIP".into(), address: ip.to_string() })
            .collect();
        addresses.push(core::NodeAddress { type_: "Hostname".into(), address: config.node_name.clone() });
        core::NodeStatus {
            addresses: Some(addresses),
            capacity: Some(quantities(&machine::capacity_milli(config))),
            allocatable: Some(quantities(&self.context.allocatable())),
            conditions: Some(self.conditions()),
            daemon_endpoints: Some(core::NodeDaemonEndpoints {
                kubelet_endpoint: Some(core::DaemonEndpoint { port: i32::from(config.listen.port()) }),
            }),
            images: Some(self.images().await),
            node_info: Some(core::NodeSystemInfo {
                architecture: machine::architecture().into(),
                boot_id: facts.boot_id,
                container_runtime_version: format!("{runtime}://{version}"),
                kernel_version: facts.kernel,
                kube_proxy_version: String::new(),
                kubelet_version: config.kubelet_version.clone(),
                machine_id: facts.machine_id,
                operating_system: "linux".into(),
                os_image: facts.os_image,
                system_uuid: facts.system_uuid,
                ..core::NodeSystemInfo::default()
            }),
            ..core::NodeStatus::default()
        }
    }

    fn conditions(&self) -> Vec<core::NodeCondition> {
        let now = Some(api_time(SystemTime::now()));
        let make = |kind: &str, status: bool, reason: &str, message: &str| core::NodeCondition {
            type_: kind.into(),
            status: if status { "True" } else { "False" }.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: now.clone(),
            last_transition_time: now.clone(),
        };
        let pressure = crate::eviction::pressure(&self.context.config);
        let mut list = Vec::new();
        for (kind, under, yes, no, text) in [
            (
                "MemoryPressure",
                pressure.memory,
                "KubeletHasInsufficientMemory",
                "KubeletHasSufficientMemory",
                "memory available",
            ),
            ("DiskPressure", pressure.disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk pressure"),
            ("PIDPressure", pressure.pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "PID available"),
        ] {
            let message = match (kind, under) {
                ("DiskPressure", true) => "kubelet has disk pressure".to_owned(),
                ("DiskPressure", false) => "kubelet has no disk pressure".to_owned(),
                (_, true) => format!("kubelet has insufficient {text}"),
                (_, false) => format!("kubelet has sufficient {text}"),
            };
            list.push(make(kind, under, if under { yes } else { no }, &message));
        }
        list.push(make("Ready", true, "KubeletReady", "kubelet is posting ready status"));
        list
    }

    async fn images(&self) -> Vec<core::ContainerImage> {
        let mut images = match self.context.runtime.images().await {
            Ok(images) => images,
            Err(err) => {
                tracing::warn!(err = %api::error::Chain(&err), "images could not be listed");
                Vec::new()
            }
        };
        images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
        images
            .into_iter()
            .take(MAX_IMAGES)
            .map(|image| core::ContainerImage {
                names: Some(image.digests.into_iter().chain(image.tags).collect()),
                size_bytes: i64::try_from(image.size_bytes).ok(),
            })
            .collect()
    }

    async fn renew_lease(&mut self) -> Result<(), ClientError> {
        let api = self.context.client.namespaced::<coordination::Lease>(LEASE_NAMESPACE);
        let name = self.context.config.node_name.clone();
        let now = Some(MicroTime(jiff::Timestamp::now()));
        if let Some(mut lease) = self.lease.take() {
            lease.spec.get_or_insert_default().renew_time = now;
            self.lease = Some(api.replace(&name, &lease).await?);
            return Ok(());
        }
        let spec = coordination::LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: now,
            ..coordination::LeaseSpec::default()
        };
        let lease = match api.get_opt(&name).await? {
            Some(mut lease) => {
                lease.spec = Some(spec);
                api.replace(&name, &lease).await?
            }
            None => {
                let node = self.context.client.all::<core::Node>().get(&name).await?;
                let owner = OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: name.clone(),
                    uid: node.metadata.uid.unwrap_or_default(),
                    ..OwnerReference::default()
                };
                let metadata = ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(LEASE_NAMESPACE.into()),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                };
                api.create(&coordination::Lease { metadata, spec: Some(spec) }).await?
            }
        };
        self.lease = Some(lease);
        Ok(())
    }
}

/// Amounts as the API spells them.
fn quantities(milli: &BTreeMap<String, i64>) -> BTreeMap<String, Quantity> {
    milli
        .iter()
        .map(|(name, amount)| {
            let text = match name.as_str() {
                // Upstream shows memory and disk in Ki.
                "memory" | "ephemeral-storage" => format!("{}Ki", amount / 1000 / 1024),
                _ => format_milli(i128::from(*amount), false),
            };
            (name.clone(), Quantity(text))
        })
        .collect()
}

fn without_times(status: &core::NodeStatus) -> Value {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    serde_json::to_value(&status).unwrap_or_default()
}
