//! What the node's HTTP API needs of the agent: pods, containers, logs, the
//! runtime. It serves nothing itself.

use std::path::PathBuf;
use std::sync::Arc;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, ContainerStatus, Runtime, SandboxId};

use crate::config::KubeletConfig;
use crate::context::Context;
use crate::labels;
use crate::spec;

/// A handle on the running agent. Cheap to clone.
#[derive(Clone)]
pub struct NodeApi {
    context: Arc<Context>,
}

impl NodeApi {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// All pods of the node with their newest status, static ones included.
    pub fn pods(&self) -> Vec<Arc<core::Pod>> {
        self.context.pods.all().into_iter().map(|e| e.pod).collect()
    }

    /// One pod by name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<core::Pod>> {
        self.pods().into_iter().find(|p| spec::namespace(p) == namespace && spec::name(p) == name)
    }

    /// One pod by uid.
    pub fn pod_by_uid(&self, uid: &str) -> Option<Arc<core::Pod>> {
        self.context.pods.by_uid(uid).map(|e| e.pod)
    }

    /// The id of the pod's container, as its status shows it; `previous` for
    /// the run before. `None` if there is none.
    pub fn container_id(&self, pod: &core::Pod, container: &str, previous: bool) -> Option<ContainerId> {
        let status = spec::status(pod);
        let found = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
            .into_iter()
            .flat_map(|list| list.iter().flatten())
            .find(|s| s.name == container)?;
        let ended = |state: &Option<core::ContainerState>| state.as_ref()?.terminated.as_ref()?.container_id.clone();
        let id = if previous { ended(&found.last_state) } else { found.container_id.clone() }?;
        id.split_once("://").map(|(_, id)| ContainerId(id.to_owned()))
    }

    /// The log file of a container's run; `restart_count` counts from 0.
    pub fn log_path(&self, pod: &core::Pod, container: &str, restart_count: i32) -> PathBuf {
        self.context.log_dir(pod).join(container).join(format!("{restart_count}.log"))
    }

    /// The pod's sandbox that is ready.
    pub async fn sandbox(&self, uid: &str) -> Option<SandboxId> {
        let sandboxes = self.context.runtime.sandboxes().await.ok()?;
        let mut own: Vec<_> = sandboxes.into_iter().filter(|s| s.ready && labels::sandbox_pod_uid(s) == uid).collect();
        own.sort_by_key(|s| s.created);
        own.pop().map(|s| s.id)
    }

    /// The runtime's containers.
    pub async fn containers(&self) -> Vec<ContainerStatus> {
        self.context.runtime.containers().await.unwrap_or_default()
    }

    /// The cgroup of a pod, as [`Runtime::cgroup_stats`] takes it.
    pub fn pod_cgroup(&self, pod: &core::Pod) -> String {
        crate::resources::cgroup_path(&self.context.config.cgroup_root, pod)
    }

    /// The runtime.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.context.runtime
    }

    /// The agent's settings.
    pub fn config(&self) -> &KubeletConfig {
        &self.context.config
    }

    /// The client, for authentication and authorisation of requests.
    pub fn client(&self) -> &client::Client {
        &self.context.client
    }

    /// The node's sleepers and their figures.
    pub fn sleep(&self) -> &crate::sleep::Sleep {
        &self.context.sleep
    }

    /// Wakes the pod and keeps it awake while the answer lives; `None` if it
    /// never sleeps. Take it before exec, attach and port-forward.
    pub fn awake(&self, uid: &str) -> Option<crate::sleep::Awake> {
        let sleeper = self.context.pods.by_uid(uid)?.sleeper?;
        Some(sleeper.hold(&self.context.sleep))
    }
}
