//! Turning a generated status into the one that is written: transition times,
//! the delayed end, the final state of a pod that is gone from the runtime.

use std::time::SystemTime;

use api::types::api::core::v1 as core;

use super::{api_time, conditions, is_terminal};
use crate::spec;

/// Carries times over from the status before: a condition that did not change
/// keeps its transition time, the start time is set once.
pub(crate) fn settle(old: &core::PodStatus, mut new: core::PodStatus, now: SystemTime) -> core::PodStatus {
    for condition in new.conditions.iter_mut().flatten() {
        if !conditions::OWNED.contains(&condition.type_.as_str()) && condition.type_ != "DisruptionTarget" {
            continue;
        }
        let before = conditions::find(old.conditions.as_ref(), &condition.type_);
        condition.last_transition_time = before
            .filter(|b| b.status == condition.status)
            .and_then(|b| b.last_transition_time.clone())
            .or_else(|| Some(api_time(now)));
    }
    new.start_time = old.start_time.clone().or(new.start_time).or_else(|| Some(api_time(now)));
    if old.observed_generation > new.observed_generation {
        new.observed_generation = old.observed_generation;
    }
    new
}

/// The status to write while containers may still run: the end of a pod is
/// shown only once they don't (`mergePodStatus`, 1.36).
pub(crate) fn without_early_end(old: &core::PodStatus, mut new: core::PodStatus) -> core::PodStatus {
    let ends =
        is_terminal(new.phase.as_deref().unwrap_or_default()) && !is_terminal(old.phase.as_deref().unwrap_or_default());
    if ends {
        new.phase.clone_from(&old.phase);
        if new.phase.is_none() {
            new.phase = Some("Pending".into());
        }
        new.reason.clone_from(&old.reason);
        new.message.clone_from(&old.message);
        if let Some(list) = &mut new.conditions {
            list.retain(|c| c.type_ != "DisruptionTarget");
        }
    }
    new
}

/// The last status of a pod: no container is left in an unknown state, the
/// phase is a final one (`TerminatePod`, 1.36).
pub(crate) fn terminate(pod: &core::Pod, mut status: core::PodStatus) -> core::PodStatus {
    if initialized(pod) {
        for container in status.container_statuses.iter_mut().flatten() {
            end(container);
        }
    }
    if let Some(init) = &mut status.init_container_statuses {
        let touched = init.iter().rposition(|s| {
            s.state.as_ref().is_none_or(|state| state.waiting.is_none())
                || s.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
        });
        for container in init.iter_mut().take(touched.map_or(1, |index| index + 1)) {
            end(container);
        }
    }
    let phase = status.phase.as_deref().unwrap_or_default();
    if !spec::is_static(pod) && !is_terminal(phase) {
        status.phase = Some("Failed".into());
    }
    let phase = status.phase.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|c| matches!(c.type_.as_str(), "Ready" | "ContainersReady") && c.status == "True");
    if is_terminal(&phase) && ready {
        let list = status.conditions.get_or_insert_default();
        for condition in conditions::ended(pod, &phase) {
            list.retain(|c| c.type_ != condition.type_);
            list.push(condition);
        }
    }
    status
}

fn end(container: &mut core::ContainerStatus) {
    if container.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return;
    }
    container.state = Some(core::ContainerState {
        terminated: Some(core::ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            exit_code: 137,
            ..core::ContainerStateTerminated::default()
        }),
        ..core::ContainerState::default()
    });
}

/// Whether the API has seen a main container start (`hasPodInitialized`, 1.36).
fn initialized(pod: &core::Pod) -> bool {
    let init = spec::init_containers(pod);
    if init.is_empty() {
        return true;
    }
    let status = spec::status(pod);
    let moved = status.container_statuses.iter().flatten().any(|s| {
        s.last_state.as_ref().is_some_and(|l| l.terminated.is_some())
            || s.state.as_ref().is_none_or(|state| state.waiting.is_none())
    });
    if moved {
        return true;
    }
    let Some(last) = status.init_container_statuses.as_ref().and_then(|l| l.last()) else { return false };
    let Some(container) = init.iter().find(|c| c.name == last.name) else { return false };
    let zero = |state: &Option<core::ContainerState>| {
        state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
    };
    if spec::is_sidecar(container) {
        last.state.as_ref().is_some_and(|s| s.running.is_some()) && last.started == Some(true)
    } else {
        zero(&last.last_state) || zero(&last.state)
    }
}
