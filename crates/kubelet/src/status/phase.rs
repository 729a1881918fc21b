//! Phase of a pod from its container statuses (`getPhase`, 1.36).

use api::types::api::core::v1 as core;

use crate::spec;
use crate::status::conditions::RESTARTING_ALL;

#[derive(Default)]
struct Count {
    pending_init: u32,
    pending_sidecars: u32,
    failed_init_for_good: u32,
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    stopped_for_good: u32,
    succeeded: u32,
}

fn find<'a>(list: Option<&'a Vec<core::ContainerStatus>>, name: &str) -> Option<&'a core::ContainerStatus> {
    list.into_iter().flatten().find(|s| s.name == name)
}

fn last(status: &core::ContainerStatus) -> Option<&core::ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

fn state(status: &core::ContainerStatus) -> (bool, Option<&core::ContainerStateTerminated>, bool) {
    match &status.state {
        Some(s) => (s.running.is_some(), s.terminated.as_ref(), s.waiting.is_some()),
        None => (false, None, false),
    }
}

fn for_good(pod: &core::Pod, container: &core::Container, ended: &core::ContainerStateTerminated) -> bool {
    !spec::restarts_after(pod, container, ended.exit_code) && ended.reason.as_deref() != Some(RESTARTING_ALL)
}

/// The phase. `terminal`: nothing of it runs or will. `initialized`: a main
/// container of the present sandbox has been made.
pub(super) fn compute(pod: &core::Pod, status: &core::PodStatus, terminal: bool, initialized: bool) -> &'static str {
    let count = count(pod, status);
    if count.failed_init_for_good > 0 {
        return "Failed";
    }
    if count.pending_init > 0 || (count.pending_sidecars > 0 && !initialized) || count.waiting > 0 {
        return "Pending";
    }
    if count.running > 0 && count.unknown == 0 {
        return "Running";
    }
    if count.running == 0 && count.stopped > 0 && count.unknown == 0 {
        let ended = if count.stopped == count.succeeded { "Succeeded" } else { "Failed" };
        if terminal && !spec::is_static(pod) {
            return ended;
        }
        return if count.stopped == count.stopped_for_good { ended } else { "Running" };
    }
    "Pending"
}

fn count(pod: &core::Pod, status: &core::PodStatus) -> Count {
    let mut count = Count::default();
    for container in spec::init_containers(pod) {
        let found = find(status.init_container_statuses.as_ref(), &container.name);
        if spec::is_sidecar(container) {
            count_sidecar(&mut count, found);
        } else {
            count_init(&mut count, pod, container, found);
        }
    }
    for container in spec::main_containers(pod) {
        count_main(&mut count, pod, container, find(status.container_statuses.as_ref(), &container.name));
    }
    count
}

fn count_init(count: &mut Count, pod: &core::Pod, container: &core::Container, found: Option<&core::ContainerStatus>) {
    let Some(status) = found else {
        count.pending_init += 1;
        return;
    };
    let (running, terminated, waiting) = state(status);
    let ended = terminated.or(if waiting { last(status) } else { None });
    match ended {
        Some(ended) if !running => {
            if ended.exit_code != 0 && for_good(pod, container, ended) {
                count.failed_init_for_good += 1;
            }
        }
        _ => count.pending_init += 1,
    }
}

fn count_sidecar(count: &mut Count, found: Option<&core::ContainerStatus>) {
    let Some(status) = found else {
        count.unknown += 1;
        return;
    };
    let (running, terminated, waiting) = state(status);
    if running {
        if status.started != Some(true) {
            count.pending_sidecars += 1;
        }
        count.running += 1;
    } else if terminated.is_some() || (waiting && last(status).is_some()) {
        // An ended sidecar says nothing about the pod.
    } else if waiting {
        count.pending_sidecars += 1;
        count.waiting += 1;
    } else {
        count.pending_sidecars += 1;
        count.unknown += 1;
    }
}

fn count_main(count: &mut Count, pod: &core::Pod, container: &core::Container, found: Option<&core::ContainerStatus>) {
    let Some(status) = found else {
        count.unknown += 1;
        return;
    };
    let (running, terminated, waiting) = state(status);
    if running {
        count.running += 1;
    } else if let Some(ended) = terminated {
        count.stopped += 1;
        if for_good(pod, container, ended) {
            count.stopped_for_good += 1;
        }
        if ended.exit_code == 0 {
            count.succeeded += 1;
        }
    } else if waiting {
        match last(status) {
            Some(ended) => {
                count.stopped += 1;
                if for_good(pod, container, ended) {
                    count.stopped_for_good += 1;
                }
            }
            None => count.waiting += 1,
        }
    } else {
        count.unknown += 1;
    }
}
