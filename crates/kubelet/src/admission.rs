//! Whether this node takes a pod at all. A refused pod ends as failed; nothing
//! of it is made.

mod predicates;

use std::sync::Arc;

use api::types::api::core::v1 as core;
use client::{DeleteParams, Patch, Preconditions};
pub(crate) use predicates::Place;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::mailbox::Mailbox;
use crate::resources;
use crate::spec;
use crate::status::{self, patch};

/// Why a pod is refused.
pub(crate) struct Refusal {
    reason: &'static str,
    message: String,
}

impl Refusal {
    /// One word.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// For people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// True if the node may have changed meanwhile so that the pod fits.
    pub(crate) fn depends_on_labels(&self) -> bool {
        self.reason == predicates::NODE_AFFINITY
    }
}

/// Kernel parameters that a pod may set without being allowed to by name.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The first reason against the pod; `None` if it may run beside these others.
/// Pods that the API shows as started or ended are not asked again.
pub(crate) fn refuse(
    context: &Context,
    pod: &core::Pod,
    others: &[Arc<core::Pod>],
    place: &Place<'_>,
) -> Option<Refusal> {
    let phase = spec::status(pod).phase.as_deref().unwrap_or("Pending");
    if phase != "Pending" || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    sysctls(pod).or_else(|| system(pod)).or_else(|| capacity(context, pod, others)).or_else(|| {
        let predicates::Failed(name, why) = predicates::first_failed(pod, place, &taking_room(others))?;
        Some(Refusal { reason: name, message: format!("Predicate {name} failed: {why}") })
    })
}

/// Pods of another operating system.
fn system(pod: &core::Pod) -> Option<Refusal> {
    if spec::label(pod, "kubernetes.io/os").is_some_and(|os| os != "linux") {
        return Some(Refusal {
            reason: "PodOSSelectorNodeLabelDoesNotMatch",
            message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label".into(),
        });
    }
    let other = spec::spec(pod).os.as_ref().is_some_and(|os| os.name != "linux");
    other.then(|| Refusal {
        reason: "PodOSNotSupported",
        message: "Failed to admit pod as the OS field doesn't match node OS".into(),
    })
}

/// Ended pods take no room.
fn taking_room(others: &[Arc<core::Pod>]) -> Vec<&Arc<core::Pod>> {
    let ended = |p: &core::Pod| status::is_terminal(spec::status(p).phase.as_deref().unwrap_or_default());
    others.iter().filter(|p| !ended(p)).collect()
}

fn sysctls(pod: &core::Pod) -> Option<Refusal> {
    let security = spec::spec(pod).security_context.as_ref()?;
    for sysctl in security.sysctls.iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Some(Refusal {
                reason: "SysctlForbidden",
                message: format!("forbidden sysctl: {:?} not allowlisted", sysctl.name),
            });
        }
        if name.starts_with("net.") && spec::host_network(pod) {
            let message = format!("forbidden sysctl: {:?} not allowed with host net enabled", sysctl.name);
            return Some(Refusal { reason: "SysctlForbidden", message });
        }
    }
    None
}

/// Why the pod does not fit beside these others.
pub(crate) fn capacity(context: &Context, pod: &core::Pod, others: &[Arc<core::Pod>]) -> Option<Refusal> {
    let others = taking_room(others);
    let allocatable = context.allocatable();
    let wants = resources::pod_requests(pod);
    let out_of = |name: &str, requested: i64, used: i64, capacity: i64, reason: &'static str| Refusal {
        reason,
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    };
    let limit = i64::from(context.config.max_pods);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count >= limit {
        return Some(out_of("pods", 1, count, limit, "OutOfpods"));
    }
    let used = |name: &str| -> i64 {
        let sum = others.iter().map(|p| resources::milli(Some(&resources::pod_requests(p)), name));
        sum.fold(0, i64::saturating_add)
    };
    for (name, reason, in_milli) in [
        ("cpu", "OutOfcpu", true),
        ("memory", "OutOfmemory", false),
        ("ephemeral-storage", "OutOfephemeral-storage", false),
    ] {
        let wanted = resources::milli(Some(&wants), name);
        let (used, capacity) = (used(name), allocatable.get(name).copied().unwrap_or(0));
        if wanted > 0 && wanted > capacity.saturating_sub(used) {
            let unit = if in_milli { 1 } else { 1000 };
            return Some(out_of(name, wanted / unit, used / unit, capacity / unit, reason));
        }
    }
    None
}

/// Writes the refusal, then waits until the pod is deleted.
pub(crate) async fn reject(
    context: Arc<Context>,
    pod: Arc<core::Pod>,
    refusal: Refusal,
    mailbox: Arc<Mailbox>,
    shutdown: CancellationToken,
) {
    context.events.pod(&pod, "Warning", refusal.reason, &refusal.message);
    let rejected = core::PodStatus {
        phase: Some("Failed".into()),
        reason: Some(refusal.reason.into()),
        message: Some(format!("Pod was rejected: {}", refusal.message)),
        qos_class: Some(resources::qos_class(&pod).as_str().into()),
        observed_generation: pod.metadata.generation,
        start_time: Some(status::api_time(std::time::SystemTime::now())),
        ..core::PodStatus::default()
    };
    let api = context.client.namespaced::<core::Pod>(spec::namespace(&pod));
    let mut have = spec::status(&pod).clone();
    let mut wait = Duration::from_millis(500);
    while let Some(change) = patch::between(spec::uid(&pod), &have, &rejected) {
        match api.patch_status(spec::name(&pod), &Patch::Strategic(change)).await {
            Ok(pod) => {
                have = pod.status.unwrap_or_default();
                break;
            }
            Err(err) if err.is_not_found() || err.is_conflict() => break,
            Err(err) => {
                tracing::warn!(err = %api::error::Chain(&err), "refusal of a pod could not be written");
                wait = (wait * 2).min(Duration::from_secs(30));
                if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                    return;
                }
            }
        }
    }
    let uid = spec::uid(&pod).to_owned();
    let mut refused = (*pod).clone();
    refused.status = Some(have);
    context.pods.update(&uid, Arc::new(refused));
    while let Some(mail) = shutdown.run_until_cancelled(mailbox.take()).await {
        if mail.gone {
            context.pods.remove(&uid);
            return;
        }
        if mail.object.is_some_and(|p| p.metadata.deletion_timestamp.is_some()) {
            let params = DeleteParams {
                grace: Some(Duration::ZERO),
                preconditions: Some(Preconditions { uid: Some(uid.clone()), ..Preconditions::default() }),
                ..DeleteParams::default()
            };
            if let Err(err) = api.delete(spec::name(&pod), &params).await
                && !err.is_not_found()
            {
                tracing::warn!(err = %api::error::Chain(&err), "refused pod could not be deleted");
            }
        }
    }
}
