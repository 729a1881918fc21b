//! The pod status that the API shows: a pure function of pod, runtime state,
//! probe results and the status before (`generateAPIPodStatus` and the status
//! manager, 1.36). It writes nothing.

pub(crate) mod conditions;
mod containers;
mod merge;
pub(crate) mod patch;
mod phase;
mod resources;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::SystemTime;

use ::containers::runtime::ContainerId;
use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::apis::meta::v1::Time;

use crate::observe::Observation;
use crate::probe::ProbeResults;
use crate::resize::Allotment;
use crate::spec;

pub(crate) use merge::{settle, terminate, without_early_end};

/// Why a container waits: reason and message of its last failed start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WaitReason {
    /// `CrashLoopBackOff`, `ErrImagePull`, …
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
}

impl WaitReason {
    /// True while an image cannot be had: the two take turns.
    fn is_pull(&self) -> bool {
        matches!(self.reason.as_str(), "ErrImagePull" | "ImagePullBackOff")
    }

    /// Whether this failure is shown when it happens, `before` being the one
    /// that is shown. Others are shown with the next look at the pod, so that
    /// what they would hide stays in sight: the end of the run that a restart
    /// waits for, and the one of two reasons of a pull until the other is over.
    pub(crate) fn shows_at_once(&self, before: Option<&WaitReason>) -> bool {
        let Some(before) = before else { return self.reason != "CrashLoopBackOff" };
        self != before && self.reason != "CrashLoopBackOff" && !(self.is_pull() && before.is_pull())
    }

    /// Whether another look is taken at once: a first failed pull is shown and
    /// then waits, as later ones do.
    pub(crate) fn looks_again(&self, before: Option<&WaitReason>) -> bool {
        self.reason == "ErrImagePull" && !before.is_some_and(WaitReason::is_pull)
    }
}

/// Last failed starts, by container name.
pub(crate) type Reasons = HashMap<String, WaitReason>;

/// Why the agent ends a pod on its own account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EndedByAgent {
    /// `DeadlineExceeded`, `Evicted`, …
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
    /// Time that its containers get, if not the pod's own.
    pub(crate) grace_seconds: Option<i64>,
}

/// What [`generate`] looks at.
pub(crate) struct Input<'a> {
    /// The pod.
    pub(crate) pod: &'a core::Pod,
    /// What the runtime has.
    pub(crate) observed: &'a Observation,
    /// The status before this one.
    pub(crate) old: &'a core::PodStatus,
    /// Last failed starts.
    pub(crate) reasons: &'a Reasons,
    /// What probes said.
    pub(crate) probes: &'a HashMap<ContainerId, ProbeResults>,
    /// The pod's containers are stopped and stay so.
    pub(crate) terminal: bool,
    /// Set when the agent ends the pod.
    pub(crate) ended: Option<&'a EndedByAgent>,
    /// Resources that are in force.
    pub(crate) actual: &'a Allotment,
    /// Conditions that tell of a resize.
    pub(crate) resize: Vec<core::PodCondition>,
    /// Addresses of the machine, the primary first.
    pub(crate) host_ips: &'a [IpAddr],
    /// Prefix of container ids.
    pub(crate) runtime_name: &'a str,
}

/// The status that follows from what is observed. Transition times and the
/// start time are added by [`settle`].
pub(crate) fn generate(input: &Input<'_>) -> core::PodStatus {
    let pod = input.pod;
    let mut status = core::PodStatus::default();
    addresses(input, &mut status);
    status.qos_class = Some(crate::resources::qos_class(pod).as_str().into());
    let restarting = conditions::restart_all_due(pod, input.observed, input.old);
    status.container_statuses = non_empty(containers::main(input, restarting));
    status.init_container_statuses = non_empty(containers::init(input, restarting));
    status.ephemeral_container_statuses = non_empty(containers::ephemeral(input, restarting));
    let (pod_resources, allocated) = resources::of_pod(input);
    status.resources = pod_resources;
    status.allocated_resources = allocated;

    let mut phase = phase::compute(pod, &status, input.terminal, initialized(input));
    let before = input.old.phase.as_deref().unwrap_or_default();
    let in_api = spec::status(pod).phase.as_deref().unwrap_or_default();
    if !is_terminal(phase) {
        if is_terminal(before) {
            phase = known_phase(before);
        } else if is_terminal(in_api) {
            phase = known_phase(in_api);
        }
    }
    if phase == before {
        status.reason = input.old.reason.clone().or_else(|| spec::status(pod).reason.clone());
        status.message = input.old.message.clone().or_else(|| spec::status(pod).message.clone());
    }
    if let Some(ended) = input.ended {
        phase = "Failed";
        status.reason = Some(ended.reason.clone());
        status.message = Some(ended.message.clone());
    }
    // What the API once showed as ended stays so.
    if is_terminal(in_api) {
        phase = known_phase(in_api);
    }
    status.phase = Some(phase.into());
    status.conditions = Some(conditions::all(input, &status, restarting));
    status.observed_generation = pod.metadata.generation;
    status
}

/// `Succeeded` or `Failed`.
pub(crate) fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn known_phase(phase: &str) -> &'static str {
    match phase {
        "Succeeded" => "Succeeded",
        "Failed" => "Failed",
        "Running" => "Running",
        _ => "Pending",
    }
}

fn non_empty(list: Vec<core::ContainerStatus>) -> Option<Vec<core::ContainerStatus>> {
    (!list.is_empty()).then_some(list)
}

/// Whether a main container was made in the sandbox that is there now.
fn initialized(input: &Input<'_>) -> bool {
    let Some(sandbox) = input.observed.sandboxes.first() else { return false };
    spec::main_containers(input.pod)
        .iter()
        .any(|c| input.observed.containers.iter().any(|o| o.name == c.name && o.sandbox == sandbox.id))
}

fn addresses(input: &Input<'_>, status: &mut core::PodStatus) {
    let primary_is_v4 = input.host_ips.first().is_none_or(IpAddr::is_ipv4);
    let mut ips = input.observed.ips();
    ips.sort_by_key(|ip| ip.is_ipv4() != primary_is_v4);
    // At most one of each family, the machine's primary family first.
    ips.dedup_by_key(|ip| ip.is_ipv4());
    let mut ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    if ips.is_empty() {
        // An address that was published stays until the pod gets another.
        ips = input.old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    let hosts: Vec<String> = input.host_ips.iter().map(ToString::to_string).collect();
    if spec::host_network(input.pod) && ips.is_empty() {
        ips.clone_from(&hosts);
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| core::PodIP { ip }).collect());
    status.host_ip = hosts.first().cloned();
    status.host_ips = (!hosts.is_empty()).then(|| hosts.into_iter().map(|ip| core::HostIP { ip }).collect());
}

/// A time as the API keeps it: whole seconds.
pub(crate) fn api_time(time: SystemTime) -> Time {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0,
    };
    Time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests;
