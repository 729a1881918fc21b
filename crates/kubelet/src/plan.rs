//! What has to be done so that the runtime matches a pod's specification: a
//! pure function with the meaning of upstream's `computePodActions` (1.36). It
//! acts on nothing and reads no clock but the one it is given.

mod init;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::SystemTime;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, ContainerState, SandboxId};

use crate::backoff::Backoffs;
use crate::observe::{Observation, Observed};
use crate::probe::{ProbeResults, Verdict};
use crate::resize::{self, Allotment, Change};
use crate::spec::{self, Role};

/// Why a container is killed; it decides the grace period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KillReason {
    /// The pod ends, the definition changed, or the state is unknown.
    Other,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// All containers restart; no grace.
    RestartAll,
}

/// One step. Steps are taken in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// End all containers and stop the sandbox.
    KillPod,
    /// End one container.
    Kill {
        /// Which.
        id: ContainerId,
        /// Its name.
        name: String,
        /// Text of the event; empty for the usual one.
        message: String,
        /// Why.
        reason: KillReason,
    },
    /// Remove a container so that the pod starts over; its log stays.
    Reset {
        /// Which.
        id: ContainerId,
        /// Its name.
        name: String,
        /// It has to be ended first.
        kill: bool,
    },
    /// Remove a container that is of no use any more, with its log.
    Remove {
        /// Which.
        id: ContainerId,
    },
    /// Make a sandbox.
    CreateSandbox {
        /// Counts sandboxes of the pod.
        attempt: u32,
        /// There was one that is not usable any more.
        changed: bool,
    },
    /// Bring the limits of what runs in line with what the pod was allotted.
    Resize {
        /// Running containers whose limits change; what is equal in the pod's
        /// own is found when it is done.
        containers: Vec<Resized>,
    },
    /// Make and start a container. If a regular init container fails, nothing
    /// after it is started.
    Start {
        /// Its role.
        role: Role,
        /// Place in the list of that role.
        index: usize,
        /// End of the last run, which the back-off counts from.
        last_finished: Option<SystemTime>,
    },
    /// Not started yet, for it ended too recently.
    BackOff {
        /// Its role.
        role: Role,
        /// Place in the list of that role.
        index: usize,
        /// May start then.
        until: SystemTime,
        /// The wait that applies.
        delay: std::time::Duration,
    },
}

/// A running container that gets other limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Resized {
    /// Which.
    pub(crate) id: ContainerId,
    /// Its name in the pod.
    pub(crate) name: String,
    /// How its memory goes, if it changes.
    pub(crate) memory: Option<Ordering>,
    /// How its cpu goes, if it changes.
    pub(crate) cpu: Option<Ordering>,
}

/// What [`plan`] looks at.
pub(crate) struct Input<'a> {
    /// The pod.
    pub(crate) pod: &'a core::Pod,
    /// What the runtime has.
    pub(crate) observed: &'a Observation,
    /// What probes said, by container.
    pub(crate) probes: &'a HashMap<ContainerId, ProbeResults>,
    /// Restart back-off of the pod's containers.
    pub(crate) backoffs: &'a Backoffs,
    /// Resources that are in force.
    pub(crate) actual: &'a Allotment,
    /// A rule asked for a restart of all containers.
    pub(crate) restart_all: bool,
    /// Now.
    pub(crate) now: SystemTime,
}

/// Collects steps before they are put in order.
#[derive(Default)]
struct Draft {
    kill_pod: bool,
    kills: Vec<Action>,
    init: Vec<usize>,
    main: Vec<usize>,
    ephemeral: Vec<usize>,
    resized: Vec<Resized>,
    /// The pod's own limits change.
    resize_pod: bool,
}

/// The steps that are due; empty when the pod is as it should be.
pub(crate) fn plan(input: &Input<'_>) -> Vec<Action> {
    if input.restart_all {
        return reset_all(input);
    }
    let mut draft = Draft::default();
    let Some(_) = input.observed.usable_sandbox() else {
        return with_new_sandbox(input);
    };
    for (index, container) in spec::ephemeral_containers(input.pod).iter().enumerate() {
        // An ephemeral container is never started twice.
        if input.observed.find(&container.name).is_none() {
            draft.ephemeral.push(index);
        }
    }
    let initialized = init::plan(input, &mut draft);
    if initialized && !draft.kill_pod {
        plan_main(input, &mut draft);
    }
    finish(input, draft, None)
}

/// No usable sandbox: start over, or stop for good when nothing is left to run.
fn with_new_sandbox(input: &Input<'_>) -> Vec<Action> {
    let pod = input.pod;
    let newest = input.observed.sandboxes.first();
    let attempt = newest.map_or(0, |s| s.metadata.attempt + 1);
    let restarts = spec::restart_policy(pod) != "Never";
    let mut draft = Draft { kill_pod: newest.is_some(), ..Draft::default() };
    if !restarts && attempt != 0 && !input.observed.containers.is_empty() {
        return finish(input, draft, None);
    }
    let to_start: Vec<usize> = spec::main_containers(pod)
        .iter()
        .enumerate()
        .filter(|(_, c)| {
            let once = c.restart_policy.as_deref().unwrap_or(spec::restart_policy(pod)) == "OnFailure";
            !(once && input.observed.find(&c.name).and_then(Observed::exit_code) == Some(0))
        })
        .map(|(index, _)| index)
        .collect();
    let initialized = spec::main_containers(pod)
        .iter()
        .any(|c| input.observed.find(&c.name).is_some_and(|o| !matches!(o.state, ContainerState::Unknown)));
    if to_start.is_empty() && initialized {
        return finish(input, draft, None);
    }
    if spec::init_containers(pod).is_empty() {
        draft.main = to_start;
    } else {
        draft.init.push(0);
    }
    finish(input, draft, Some((attempt, newest.map(|s| s.id.clone()))))
}

fn plan_main(input: &Input<'_>, draft: &mut Draft) {
    let pod = input.pod;
    let mut kept = 0;
    for (index, container) in spec::main_containers(pod).iter().enumerate() {
        let observed = input.observed.find(&container.name);
        let Some(running) = observed.filter(|o| o.running()) else {
            if should_restart(pod, container, observed) {
                draft.main.push(index);
                if let Some(lost) = observed.filter(|o| o.state == ContainerState::Unknown) {
                    draft.kills.push(Action::Kill {
                        id: lost.id.clone(),
                        name: lost.name.clone(),
                        message: "Container is in \"unknown\" state, try killing it before restart".into(),
                        reason: KillReason::Other,
                    });
                }
            }
            continue;
        };
        let mut restart = container.restart_policy.as_deref().unwrap_or(spec::restart_policy(pod)) != "Never";
        let results = input.probes.get(&running.id).copied().unwrap_or_default();
        let (mut message, reason) = if changed(container, running) {
            restart = true;
            (format!("Container {} definition changed", container.name), KillReason::Other)
        } else if results.liveness == Some(Verdict::Failure) {
            (format!("Container {} failed liveness probe", container.name), KillReason::Liveness)
        } else if results.startup == Some(Verdict::Failure) {
            (format!("Container {} failed startup probe", container.name), KillReason::Startup)
        } else {
            if draft.resize(input, container, running) {
                kept += 1;
            } else {
                draft.main.push(index);
            }
            continue;
        };
        if restart {
            message.push_str(", will be restarted");
            draft.main.push(index);
        }
        draft.kills.push(Action::Kill { id: running.id.clone(), name: container.name.clone(), message, reason });
    }
    if kept == 0 && draft.main.is_empty() {
        draft.kill_pod = true;
        // Sidecars must not keep a pod alive whose main containers are done.
        draft.init.clear();
    }
}

impl Draft {
    /// What a running container needs to have what it was allotted; false if
    /// that is a restart, whose end is planned here.
    fn resize(&mut self, input: &Input<'_>, container: &core::Container, running: &Observed) -> bool {
        match resize::change(input.pod, container, input.actual) {
            Change::None => {}
            Change::InPlace { memory, cpu } => {
                self.resized.push(Resized { id: running.id.clone(), name: container.name.clone(), memory, cpu });
            }
            Change::Restart => {
                self.resize_pod = true;
                self.kills.push(Action::Kill {
                    id: running.id.clone(),
                    name: container.name.clone(),
                    message: format!("Container {} resize requires restart", container.name),
                    reason: KillReason::Other,
                });
                return false;
            }
        }
        true
    }
}

/// Puts the steps in the order in which they are taken.
fn finish(input: &Input<'_>, draft: Draft, sandbox: Option<(u32, Option<SandboxId>)>) -> Vec<Action> {
    let mut actions = Vec::new();
    if draft.kill_pod {
        if needs_kill(input.observed) {
            actions.push(Action::KillPod);
        }
        if sandbox.is_some() {
            let init = spec::init_containers(input.pod);
            let purge = input.observed.containers.iter().filter(|o| init.iter().any(|c| c.name == o.name));
            actions.extend(purge.map(|o| Action::Remove { id: o.id.clone() }));
        }
    } else {
        actions.extend(draft.kills);
    }
    if sandbox.is_none() {
        actions.extend(stale_init(input));
    }
    if let Some((attempt, previous)) = sandbox {
        actions.push(Action::CreateSandbox { attempt, changed: previous.is_some() });
    } else if draft.kill_pod {
        return actions;
    }
    for (role, list) in [(Role::Ephemeral, draft.ephemeral), (Role::Init, draft.init)] {
        actions.extend(list.into_iter().map(|index| start(input, role, index)));
    }
    if !draft.resized.is_empty() || draft.resize_pod || resize::pod_differs(input.pod, input.actual) {
        actions.push(Action::Resize { containers: draft.resized });
    }
    actions.extend(draft.main.into_iter().map(|index| start(input, Role::Main, index)));
    actions
}

fn needs_kill(observed: &Observation) -> bool {
    observed.sandboxes.iter().any(|s| s.ready) || observed.containers.iter().any(Observed::running)
}

/// Ended runs of init containers beyond the newest one.
fn stale_init(input: &Input<'_>) -> Vec<Action> {
    let mut stale = Vec::new();
    for container in spec::init_containers(input.pod) {
        let ended = input.observed.containers.iter().filter(|o| {
            o.name == container.name && matches!(o.state, ContainerState::Exited { .. } | ContainerState::Unknown)
        });
        stale.extend(ended.skip(2).map(|o| Action::Remove { id: o.id.clone() }));
    }
    stale
}

fn start(input: &Input<'_>, role: Role, index: usize) -> Action {
    let Some(container) = spec::at(input.pod, role, index) else {
        return Action::Start { role, index, last_finished: None };
    };
    let last = input.observed.find_exited(&container.name).and_then(Observed::finished);
    let key = (container.name.as_str(), spec::container_hash(&container));
    match last.and_then(|ended| input.backoffs.waiting(key, ended, input.now)) {
        Some((until, delay)) => Action::BackOff { role, index, until, delay },
        None => Action::Start { role, index, last_finished: last },
    }
}

fn reset_all(input: &Input<'_>) -> Vec<Action> {
    let mut sources = Vec::new();
    let mut targets = Vec::new();
    for list in [spec::main_containers(input.pod), spec::init_containers(input.pod)] {
        for container in list {
            for observed in input.observed.containers.iter().filter(|o| o.name == container.name) {
                let source = observed
                    .exit_code()
                    .and_then(|code| spec::matching_rule(container, code))
                    .is_some_and(|rule| rule.action == spec::RESTART_ALL_ACTION);
                let action = Action::Reset {
                    id: observed.id.clone(),
                    name: container.name.clone(),
                    kill: observed.exit_code().is_none(),
                };
                if source { sources.push(action) } else { targets.push(action) }
            }
        }
    }
    targets.extend(sources);
    targets
}

/// Whether a container that does not run should (`ShouldContainerBeRestarted`).
pub(crate) fn should_restart(pod: &core::Pod, container: &core::Container, observed: Option<&Observed>) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    match observed.map(|o| &o.state) {
        None | Some(ContainerState::Unknown | ContainerState::Created) => true,
        Some(ContainerState::Running { .. }) => false,
        Some(ContainerState::Exited { exit_code, .. }) => spec::restarts_after(pod, container, *exit_code),
    }
}

fn changed(container: &core::Container, observed: &Observed) -> bool {
    observed.hash.is_some_and(|hash| hash != spec::container_hash(container))
}

#[cfg(test)]
pub(crate) mod tests;
