//! Which init container is next, and which sidecars are restarted
//! (`computeInitContainerActions`, 1.36).

use containers::runtime::ContainerState;

use super::{Action, Draft, Input, KillReason, changed, should_restart};
use crate::observe::Observed;
use crate::probe::Verdict;
use crate::spec;

/// Adds steps for init containers; true once main containers may run.
pub(super) fn plan(input: &Input<'_>, draft: &mut Draft) -> bool {
    let containers = spec::init_containers(input.pod);
    if containers.is_empty() {
        return true;
    }
    // A main container that was made proves that initialisation was done, even
    // when the init containers' own traces are gone. An ended one may stem
    // from a sandbox before this one and proves nothing.
    let mut initialized = spec::main_containers(input.pod).iter().any(|c| {
        input
            .observed
            .find(&c.name)
            .is_some_and(|o| matches!(o.state, ContainerState::Created | ContainerState::Running { .. }))
    });
    let mut before = initialized;
    let last = containers.len() - 1;
    // Backwards: the last one with a trace tells how far initialisation came.
    for (index, container) in containers.iter().enumerate().rev() {
        let sidecar = spec::is_sidecar(container);
        let Some(observed) = input.observed.find(&container.name) else {
            if before && sidecar {
                draft.init.push(index);
            }
            continue;
        };
        if before && !sidecar {
            continue;
        }
        match &observed.state {
            ContainerState::Created => draft.init.push(index),
            ContainerState::Running { .. } if sidecar => {
                sidecar_running(input, draft, observed, (index, last), &mut initialized, before);
            }
            ContainerState::Running { .. } => {}
            ContainerState::Exited { .. } if sidecar => draft.init.push(index),
            ContainerState::Exited { exit_code: 0, .. } => {
                if index == last {
                    initialized = true;
                } else {
                    draft.init.push(index + 1);
                }
            }
            ContainerState::Exited { .. } => {
                if !should_restart(input.pod, container, Some(observed)) {
                    draft.kill_pod = true;
                    draft.init.clear();
                    return false;
                }
                draft.init.push(index);
            }
            ContainerState::Unknown => {
                let restart = container.restart_policy.as_deref().unwrap_or(spec::restart_policy(input.pod)) != "Never";
                if !sidecar && !restart {
                    draft.kill_pod = true;
                    draft.init.clear();
                    return false;
                }
                let message = "Init container is in \"unknown\" state, try killing it before restart";
                draft.kills.push(kill(observed, message.into(), KillReason::Other));
                draft.init.push(index);
            }
        }
        before = true;
    }
    if !before {
        draft.init.push(0);
    }
    draft.init.reverse();
    initialized
}

fn sidecar_running(
    input: &Input<'_>,
    draft: &mut Draft,
    observed: &Observed,
    (index, last): (usize, usize),
    initialized: &mut bool,
    before: bool,
) {
    let container = &spec::init_containers(input.pod)[index];
    let results = input.probes.get(&observed.id).copied().unwrap_or_default();
    if container.startup_probe.is_some() {
        match results.startup {
            Some(Verdict::Success) => {}
            Some(Verdict::Failure) => {
                let message = format!("Init container {} failed startup probe", container.name);
                draft.kills.push(kill(observed, message, KillReason::Startup));
                draft.init.push(index);
                return;
            }
            None | Some(Verdict::Unknown) => return,
        }
    }
    if index == last {
        *initialized = true;
    } else if !before {
        draft.init.push(index + 1);
    }
    if changed(container, observed) {
        let message = format!("Init container {} definition changed", container.name);
        draft.kills.push(kill(observed, message, KillReason::Other));
        draft.init.push(index);
    } else if container.liveness_probe.is_some() && results.liveness == Some(Verdict::Failure) {
        let message = format!("Init container {} failed liveness probe", container.name);
        draft.kills.push(kill(observed, message, KillReason::Liveness));
        draft.init.push(index);
    } else if !draft.resize(input, container, observed) {
        draft.init.push(index);
    }
}

fn kill(observed: &Observed, message: String, reason: KillReason) -> Action {
    Action::Kill { id: observed.id.clone(), name: observed.name.clone(), message, reason }
}
