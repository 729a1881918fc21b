//! What the agent writes on sandboxes and containers so that it knows them
//! again after a restart. Names are upstream's, so that tools that read a CRI
//! runtime find what they expect.

use std::collections::BTreeMap;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerStatus, SandboxStatus};

use crate::spec;

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// The image as the pod names it; the runtime may only know the resolved one.
const IMAGE: &str = "darter.dev/container.image";

/// What [`read`] finds on a container.
#[derive(Debug, Default)]
pub(crate) struct ContainerInfo {
    /// See [`spec::container_hash`].
    pub(crate) hash: Option<u64>,
    /// Restarts before this one.
    pub(crate) restart_count: Option<i32>,
    /// Path inside of the termination message.
    pub(crate) message_path: String,
    /// `File` or `FallbackToLogsOnError`.
    pub(crate) message_policy: String,
    /// Image as the pod names it.
    pub(crate) image: Option<String>,
}

/// Labels of a sandbox.
pub(crate) fn sandbox(pod: &core::Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    identify(pod, &mut labels);
    labels
}

/// Labels of a container.
pub(crate) fn container(pod: &core::Pod, container: &core::Container) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    identify(pod, &mut labels);
    labels.insert(CONTAINER_NAME.into(), container.name.clone());
    labels
}

fn identify(pod: &core::Pod, labels: &mut BTreeMap<String, String>) {
    labels.insert(POD_NAME.into(), spec::name(pod).into());
    labels.insert(POD_NAMESPACE.into(), spec::namespace(pod).into());
    labels.insert(POD_UID.into(), spec::uid(pod).into());
}

/// Annotations of a container.
pub(crate) fn container_annotations(
    pod: &core::Pod,
    container: &core::Container,
    restart_count: i32,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        (HASH.to_owned(), format!("{:x}", spec::container_hash(container))),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (MESSAGE_PATH.to_owned(), container.termination_message_path.clone().unwrap_or_default()),
        (MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_default()),
        (IMAGE.to_owned(), container.image.clone().unwrap_or_default()),
    ]);
    if let Some(grace) = spec::spec(pod).termination_grace_period_seconds {
        all.insert(POD_GRACE.into(), grace.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(text) = serde_json::to_string(hook)
    {
        all.insert(PRE_STOP.into(), text);
    }
    all
}

/// What the agent wrote on this container.
pub(crate) fn read(status: &ContainerStatus) -> ContainerInfo {
    let note = |key: &str| status.annotations.get(key);
    ContainerInfo {
        hash: note(HASH).and_then(|h| u64::from_str_radix(h, 16).ok()),
        restart_count: note(RESTART_COUNT).and_then(|n| n.parse().ok()),
        message_path: note(MESSAGE_PATH).cloned().unwrap_or_default(),
        message_policy: note(MESSAGE_POLICY).cloned().unwrap_or_default(),
        image: note(IMAGE).filter(|i| !i.is_empty()).cloned(),
    }
}

/// The uid of the pod that a sandbox belongs to.
pub(crate) fn sandbox_pod_uid(status: &SandboxStatus) -> &str {
    status.labels.get(POD_UID).map_or(status.metadata.uid.as_str(), String::as_str)
}
