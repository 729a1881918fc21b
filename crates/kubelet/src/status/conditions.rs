//! Conditions of a pod that the agent owns, and when all containers restart.

use ::containers::runtime::ContainerState;
use api::types::api::core::v1 as core;

use super::Input;
use crate::observe::Observation;
use crate::spec;

/// Reason of a container that is restarted with all others.
pub(crate) const RESTARTING_ALL: &str = "RestartingAllContainers";

/// Conditions that only the agent writes.
pub(crate) const OWNED: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// One condition by type.
pub(crate) fn find<'a>(list: Option<&'a Vec<core::PodCondition>>, kind: &str) -> Option<&'a core::PodCondition> {
    list.into_iter().flatten().find(|c| c.type_ == kind)
}

fn condition(pod: &core::Pod, kind: &str, status: bool, reason: &str, message: String) -> core::PodCondition {
    core::PodCondition {
        type_: kind.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: (!reason.is_empty()).then(|| reason.into()),
        message: (!message.is_empty()).then_some(message),
        observed_generation: pod.metadata.generation,
        ..core::PodCondition::default()
    }
}

/// All conditions: foreign ones as the API has them, then the agent's own.
pub(super) fn all(input: &Input<'_>, status: &core::PodStatus, restarting: bool) -> Vec<core::PodCondition> {
    let pod = input.pod;
    let foreign = spec::status(pod).conditions.iter().flatten().filter(|c| !OWNED.contains(&c.type_.as_str()));
    let mut list: Vec<core::PodCondition> = foreign.cloned().collect();
    if let Some(disruption) = find(input.old.conditions.as_ref(), "DisruptionTarget") {
        list.retain(|c| c.type_ != "DisruptionTarget");
        list.push(disruption.clone());
    }
    let phase = status.phase.as_deref().unwrap_or_default();
    let sandbox = input.observed.usable_sandbox().is_some_and(|s| spec::host_network(pod) || !s.ips.is_empty());
    list.extend(input.resize.iter().cloned());
    list.push(condition(pod, "PodReadyToStartContainers", sandbox, "", String::new()));
    list.push(initialized(input, status, phase));
    let ready = containers_ready(pod, status, phase);
    list.push(pod_ready(pod, &list, &ready));
    list.push(ready);
    list.push(condition(pod, "PodScheduled", true, "", String::new()));
    if spec::may_restart_all(pod) {
        list.push(restarting_all(input, phase, restarting));
    }
    list
}

fn status_of<'a>(status: &'a core::PodStatus, name: &str) -> Option<&'a core::ContainerStatus> {
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.into_iter().find(|s| s.name == name)
}

/// `[a b]`, as Go prints a list.
fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(pod: &core::Pod, status: &core::PodStatus, phase: &str) -> core::PodCondition {
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let counted = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).chain(spec::main_containers(pod));
    for container in counted {
        match status_of(status, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(s) if !s.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    let kind = "ContainersReady";
    if phase == "Succeeded" && unknown.is_empty() {
        return condition(pod, kind, false, "PodCompleted", String::new());
    }
    if phase == "Failed" {
        return condition(pod, kind, false, "PodFailed", String::new());
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", go_list(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", go_list(&unready)));
    }
    if messages.is_empty() {
        return condition(pod, kind, true, "", String::new());
    }
    condition(pod, kind, false, "ContainersNotReady", messages.join(", "))
}

fn pod_ready(
    pod: &core::Pod,
    conditions: &[core::PodCondition],
    containers: &core::PodCondition,
) -> core::PodCondition {
    let kind = "Ready";
    if containers.status != "True" {
        return core::PodCondition { type_: kind.into(), ..containers.clone() };
    }
    let mut messages = Vec::new();
    for gate in spec::spec(pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match conditions.iter().find(|c| c.type_ == *name) {
            None => messages.push(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
            Some(c) if c.status != "True" => {
                messages.push(format!("the status of pod readiness gate {name:?} is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        return condition(pod, kind, true, "", String::new());
    }
    condition(pod, kind, false, "ReadinessGatesNotReady", messages.join(", "))
}

fn initialized(input: &Input<'_>, status: &core::PodStatus, phase: &str) -> core::PodCondition {
    let pod = input.pod;
    let kind = "Initialized";
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in spec::init_containers(pod) {
        match status_of(status, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(s) => {
                let done = if spec::is_sidecar(container) { s.started == Some(true) } else { s.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition(pod, kind, true, "PodCompleted", String::new());
    }
    // A main container that once started proves it, whatever sidecars do now.
    let started = status
        .container_statuses
        .iter()
        .flatten()
        .any(|s| s.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some()));
    let was = find(input.old.conditions.as_ref(), kind).is_some_and(|c| c.status == "True");
    if started || (unknown.is_empty() && incomplete.is_empty()) || was {
        return condition(pod, kind, true, "", String::new());
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", go_list(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!("containers with incomplete status: {}", go_list(&incomplete)));
    }
    condition(pod, kind, false, "ContainersNotInitialized", messages.join(", "))
}

/// The ready conditions of a pod that has ended.
pub(super) fn ended(pod: &core::Pod, phase: &str) -> [core::PodCondition; 2] {
    let reason = if phase == "Failed" { "PodFailed" } else { "PodCompleted" };
    ["ContainersReady", "Ready"].map(|kind| condition(pod, kind, false, reason, String::new()))
}

fn restarting_all(input: &Input<'_>, phase: &str, restarting: bool) -> core::PodCondition {
    let make = |status: bool, reason: &str, message: &str| core::PodCondition {
        observed_generation: None,
        ..condition(input.pod, "AllContainersRestarting", status, reason, message.into())
    };
    let cleaned = spec::init_containers(input.pod)
        .iter()
        .chain(spec::main_containers(input.pod))
        .all(|c| input.observed.find(&c.name).is_none());
    match phase {
        "Succeeded" => make(false, "PodCompleted", ""),
        "Failed" => make(false, "PodFailed", ""),
        _ if !restarting || cleaned => make(false, "", ""),
        _ => make(true, "RestartAllContainersStarted", "container exited with restart policy rule"),
    }
}

/// Whether all containers are to restart: a container's exit met such a rule,
/// or a restart is under way (`ShouldAllContainersRestart`, 1.36).
pub(crate) fn restart_all_due(pod: &core::Pod, observed: &Observation, status: &core::PodStatus) -> bool {
    if !spec::may_restart_all(pod) {
        return false;
    }
    if find(status.conditions.as_ref(), "AllContainersRestarting").is_some_and(|c| c.status == "True") {
        return true;
    }
    spec::init_containers(pod).iter().chain(spec::main_containers(pod)).any(|container| {
        let Some(ContainerState::Exited { exit_code, .. }) = observed.find(&container.name).map(|o| &o.state) else {
            return false;
        };
        spec::matching_rule(container, *exit_code).is_some_and(|rule| rule.action == spec::RESTART_ALL_ACTION)
    })
}
