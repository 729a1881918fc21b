//! Container statuses (`convertToAPIContainerStatuses`, 1.36).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use ::containers::runtime::ContainerState;
use api::types::api::core::v1 as core;

use super::conditions::RESTARTING_ALL;
use super::{Input, api_time, resources};
use crate::observe::Observed;
use crate::plan::should_restart;
use crate::probe::Verdict;
use crate::spec::{self, Role};

const LOST: &str = "ContainerStatusUnknown";
/// Exit code of a container whose real one is not known.
const LOST_EXIT_CODE: i32 = 137;

/// Statuses of main containers, sorted by name.
pub(super) fn main(input: &Input<'_>, restarting: bool) -> Vec<core::ContainerStatus> {
    let specs: Vec<_> = spec::main_containers(input.pod).iter().map(Cow::Borrowed).collect();
    let mut list = convert(input, Role::Main, &specs, input.old.container_statuses.as_ref(), restarting);
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

/// Statuses of init containers, in the order of the specification.
pub(super) fn init(input: &Input<'_>, restarting: bool) -> Vec<core::ContainerStatus> {
    let specs: Vec<_> = spec::init_containers(input.pod).iter().map(Cow::Borrowed).collect();
    convert(input, Role::Init, &specs, input.old.init_container_statuses.as_ref(), restarting)
}

/// Statuses of ephemeral containers, sorted by name.
pub(super) fn ephemeral(input: &Input<'_>, restarting: bool) -> Vec<core::ContainerStatus> {
    let specs: Vec<_> =
        spec::ephemeral_containers(input.pod).iter().map(|c| Cow::Owned(spec::ephemeral_as_container(c))).collect();
    let mut list = convert(input, Role::Ephemeral, &specs, input.old.ephemeral_container_statuses.as_ref(), restarting);
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

fn convert(
    input: &Input<'_>,
    role: Role,
    specs: &[Cow<'_, core::Container>],
    old: Option<&Vec<core::ContainerStatus>>,
    restarting: bool,
) -> Vec<core::ContainerStatus> {
    let waits = if spec::init_containers(input.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let old: BTreeMap<&str, &core::ContainerStatus> = old.into_iter().flatten().map(|s| (s.name.as_str(), s)).collect();
    specs
        .iter()
        .map(|container| {
            let before = old.get(container.name.as_str()).copied();
            let seen: Vec<&Observed> =
                input.observed.containers.iter().filter(|o| o.name == container.name).take(2).collect();
            let mut status = match seen.first() {
                None => never_seen(input, container, before, waits, restarting),
                Some(newest) => {
                    let mut status = from_runtime(input, container, newest, before, restarting);
                    if let Some(previous) = seen.get(1) {
                        status.last_state = Some(state_of(input, previous));
                    }
                    status
                }
            };
            explain_waiting(input, role, container, seen.first().copied(), &mut status);
            probe_flags(input, role, container, &mut status);
            status
        })
        .collect()
}

fn waiting(reason: &str, message: &str) -> core::ContainerState {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    core::ContainerState {
        waiting: Some(core::ContainerStateWaiting { reason: text(reason), message: text(message) }),
        ..core::ContainerState::default()
    }
}

fn lost(reason: &str, message: &str) -> core::ContainerState {
    core::ContainerState {
        terminated: Some(core::ContainerStateTerminated {
            reason: Some(reason.into()),
            message: Some(message.into()),
            exit_code: LOST_EXIT_CODE,
            ..core::ContainerStateTerminated::default()
        }),
        ..core::ContainerState::default()
    }
}

fn terminated(state: Option<&core::ContainerState>) -> Option<&core::ContainerStateTerminated> {
    state?.terminated.as_ref()
}

fn is_waiting(state: Option<&core::ContainerState>) -> bool {
    state.is_some_and(|s| s.waiting.is_some())
}

fn is_running(state: Option<&core::ContainerState>) -> bool {
    state.is_some_and(|s| s.running.is_some())
}

/// Mounts as the status lists them.
fn volume_mounts(container: &core::Container) -> Option<Vec<core::VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    Some(
        mounts
            .iter()
            .map(|mount| {
                let readonly = mount.read_only == Some(true);
                let recursive = match mount.recursive_read_only.as_deref() {
                    Some("IfPossible" | "Enabled") => "Enabled",
                    _ => "Disabled",
                };
                core::VolumeMountStatus {
                    name: mount.name.clone(),
                    mount_path: mount.mount_path.clone(),
                    read_only: readonly.then_some(true),
                    recursive_read_only: readonly.then(|| recursive.into()),
                    ..core::VolumeMountStatus::default()
                }
            })
            .collect(),
    )
}

/// The runtime knows no container of this name.
fn never_seen(
    input: &Input<'_>,
    container: &core::Container,
    before: Option<&core::ContainerStatus>,
    waits: &str,
    restarting: bool,
) -> core::ContainerStatus {
    let mut status = core::ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(waits, "")),
        volume_mounts: volume_mounts(container),
        ..core::ContainerStatus::default()
    };
    let Some(before) = before else { return status };
    if terminated(before.state.as_ref()).is_some() {
        status = before.clone();
    } else {
        status.restart_count = before.restart_count;
        status.last_state.clone_from(&before.last_state);
    }
    if restarting && !is_waiting(before.state.as_ref()) {
        let message = "The container is removed because RestartAllContainers in place";
        status.state = Some(waiting(RESTARTING_ALL, message));
        status.last_state = Some(lost(RESTARTING_ALL, message));
        status.restart_count = before.restart_count + 1;
        return status;
    }
    // It ran, and is gone without a trace: it has ended, one cannot say how.
    if is_running(before.state.as_ref()) && terminated(status.last_state.as_ref()).is_none() {
        status.last_state = Some(lost(
            LOST,
            "The container could not be located when the pod was deleted.  The container used to be Running",
        ));
        if input.pod.metadata.deletion_timestamp.is_none() {
            status.restart_count += 1;
        }
    }
    status
}

fn container_id(input: &Input<'_>, observed: &Observed) -> String {
    format!("{}://{}", input.runtime_name, observed.id.0)
}

fn state_of(input: &Input<'_>, observed: &Observed) -> core::ContainerState {
    match &observed.state {
        ContainerState::Running { started, .. } => core::ContainerState {
            running: Some(core::ContainerStateRunning { started_at: Some(api_time(*started)) }),
            ..core::ContainerState::default()
        },
        ContainerState::Exited { started, finished, exit_code, reason, message, .. } => {
            // A container that could not start never started: the epoch.
            let started = if reason == "StartError" { SystemTime::UNIX_EPOCH } else { *started };
            core::ContainerState {
                terminated: Some(core::ContainerStateTerminated {
                    container_id: Some(container_id(input, observed)),
                    exit_code: *exit_code,
                    reason: (!reason.is_empty()).then(|| reason.clone()),
                    message: (!message.is_empty()).then(|| message.clone()),
                    started_at: Some(api_time(started)),
                    finished_at: Some(api_time(*finished)),
                    signal: None,
                }),
                ..core::ContainerState::default()
            }
        }
        ContainerState::Created | ContainerState::Unknown => waiting("", ""),
    }
}

fn from_runtime(
    input: &Input<'_>,
    container: &core::Container,
    observed: &Observed,
    before: Option<&core::ContainerStatus>,
    restarting: bool,
) -> core::ContainerStatus {
    let mut status = core::ContainerStatus {
        name: container.name.clone(),
        restart_count: observed.restart_count,
        image: observed.image.clone(),
        image_id: observed.image_id.clone(),
        container_id: Some(container_id(input, observed)),
        state: Some(state_of(input, observed)),
        volume_mounts: volume_mounts(container),
        ..core::ContainerStatus::default()
    };
    if let Some(before) = before {
        status.restart_count = status.restart_count.max(before.restart_count);
        if before.container_id != status.container_id && terminated(before.state.as_ref()).is_some() {
            status.last_state.clone_from(&before.state);
        } else if terminated(before.last_state.as_ref()).is_some() {
            status.last_state.clone_from(&before.last_state);
        }
        if is_running(before.state.as_ref()) && observed.state == ContainerState::Unknown {
            let reason = if restarting { RESTARTING_ALL } else { LOST };
            status.state = Some(lost(reason, "The container could not be located when the pod was terminated"));
            status.restart_count = before.restart_count + 1;
        }
        // Kept across a restart of the agent, which has no probe results yet.
        if observed.running() && before.container_id == status.container_id {
            status.started = before.started;
        }
        if observed.running()
            && terminated(before.state.as_ref()).is_some()
            && before.container_id != status.container_id
            && before.restart_count >= observed.restart_count
        {
            status.restart_count = before.restart_count + 1;
        }
    }
    status.resources = resources::of_container(input, container, observed);
    status.allocated_resources =
        container.resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty());
    status.user = observed.user.as_ref().map(|(uid, gid, groups)| core::ContainerUser {
        linux: Some(core::LinuxContainerUser {
            uid: i64::from(*uid),
            gid: i64::from(*gid),
            supplemental_groups: (!groups.is_empty()).then(|| groups.iter().map(|g| i64::from(*g)).collect()),
        }),
    });
    status
}

/// A container that will be started shows why its last start failed.
fn explain_waiting(
    input: &Input<'_>,
    role: Role,
    container: &core::Container,
    newest: Option<&Observed>,
    status: &mut core::ContainerStatus,
) {
    if role == Role::Init {
        if newest.and_then(Observed::exit_code) == Some(0) {
            return;
        }
        let main_made = spec::main_containers(input.pod)
            .iter()
            .any(|c| input.observed.find(&c.name).is_some_and(|o| o.state != ContainerState::Unknown));
        if newest.is_none() && main_made && !spec::is_sidecar(container) && is_waiting(status.state.as_ref()) {
            status.state = Some(core::ContainerState {
                terminated: Some(core::ContainerStateTerminated {
                    reason: Some("Completed".into()),
                    message: Some("Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally".into()),
                    ..core::ContainerStateTerminated::default()
                }),
                ..core::ContainerState::default()
            });
            return;
        }
    }
    if !should_restart(input.pod, container, newest) {
        return;
    }
    let Some(why) = input.reasons.get(&container.name) else { return };
    if terminated(status.state.as_ref()).is_some() {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(&why.reason, &why.message));
}

/// `started` and `ready` (`prober.Manager.UpdatePodStatus`, 1.36).
fn probe_flags(input: &Input<'_>, role: Role, container: &core::Container, status: &mut core::ContainerStatus) {
    let newest = input.observed.find(&container.name);
    let results = newest.and_then(|o| input.probes.get(&o.id)).copied().unwrap_or_default();
    let running = is_running(status.state.as_ref());
    let started = running
        && match results.startup {
            Some(verdict) => verdict == Verdict::Success,
            None => status.started == Some(true) || container.startup_probe.is_none(),
        };
    let ready = started && (container.readiness_probe.is_none() || results.readiness == Some(Verdict::Success));
    match role {
        Role::Ephemeral => status.started = None,
        Role::Init if !spec::is_sidecar(container) => {
            status.started = Some(started);
            status.ready = terminated(status.state.as_ref()).is_some_and(|t| t.exit_code == 0);
        }
        Role::Init | Role::Main => {
            status.started = Some(started);
            status.ready = ready;
        }
    }
}
