//! What the runtime says about one pod, in the form that planner and status
//! read. Termination messages are added here, so that both see the same text;
//! it decides nothing.

use std::net::IpAddr;
use std::time::SystemTime;

use containers::runtime::{ContainerId, ContainerState, ContainerStatus, SandboxStatus};

use crate::labels;
use crate::logs;

/// Most bytes of a termination message file that are kept; the last ones.
pub(crate) const MAX_TERMINATION_MESSAGE_BYTES: u64 = 4096;
/// Most bytes of log that stand in for a missing termination message.
pub(crate) const MAX_TERMINATION_LOG_BYTES: usize = 2048;
/// Most lines of log that stand in for a missing termination message.
pub(crate) const MAX_TERMINATION_LOG_LINES: usize = 80;

/// Most bytes of termination messages of one pod together.
const MAX_POD_MESSAGE_BYTES: usize = 12 << 10;

/// One container as the runtime knows it.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// Runtime id.
    pub(crate) id: ContainerId,
    /// Sandbox it lives in.
    pub(crate) sandbox: containers::runtime::SandboxId,
    /// Name in the pod.
    pub(crate) name: String,
    /// Restarts before this one.
    pub(crate) restart_count: i32,
    /// State; the termination message is in `message` of `Exited`.
    pub(crate) state: ContainerState,
    /// When it was made; orders containers of one name.
    pub(crate) created: SystemTime,
    /// Image as the pod names it.
    pub(crate) image: String,
    /// As the runtime refers to the image: `name@sha256:…`, or an id.
    pub(crate) image_id: String,
    /// See [`crate::spec::container_hash`].
    pub(crate) hash: Option<u64>,
    /// Identity: uid, gid, groups.
    pub(crate) user: Option<(u32, u32, Vec<u32>)>,
}

impl Observed {
    /// True while it runs.
    pub(crate) fn running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    /// The exit code once it ended.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self.state {
            ContainerState::Exited { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }

    /// When it ended.
    pub(crate) fn finished(&self) -> Option<SystemTime> {
        match self.state {
            ContainerState::Exited { finished, .. } => Some(finished),
            _ => None,
        }
    }
}

/// Everything the runtime has of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    /// Sandboxes, the newest first.
    pub(crate) sandboxes: Vec<SandboxStatus>,
    /// Containers, the newest first.
    pub(crate) containers: Vec<Observed>,
}

impl Observation {
    /// Puts both lists in order, newest first.
    pub(crate) fn sorted(mut self) -> Self {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created, s.metadata.attempt)));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.created, c.restart_count)));
        self
    }

    /// The newest container of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Observed> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest ended container of this name.
    pub(crate) fn find_exited(&self, name: &str) -> Option<&Observed> {
        self.containers.iter().find(|c| c.name == name && matches!(c.state, ContainerState::Exited { .. }))
    }

    /// Whether the container was made in the newest sandbox.
    pub(crate) fn is_of_newest_sandbox(&self, container: &Observed) -> bool {
        self.sandboxes.first().is_some_and(|sandbox| sandbox.id == container.sandbox)
    }

    /// Addresses of the newest sandbox that is ready.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        self.sandboxes.first().filter(|s| s.ready).map(|s| s.ips.clone()).unwrap_or_default()
    }

    /// The newest sandbox, if it is the one ready one. `None` means that one
    /// has to be made.
    pub(crate) fn usable_sandbox(&self) -> Option<&SandboxStatus> {
        let newest = self.sandboxes.first()?;
        let ready = self.sandboxes.iter().filter(|s| s.ready).count();
        (newest.ready && ready == 1).then_some(newest)
    }
}

/// Converts a runtime status, reading the termination message where the
/// container has ended. Reads small files; called on state changes only.
pub(crate) fn container(status: ContainerStatus) -> Observed {
    let info = labels::read(&status);
    let mut state = status.state;
    if let ContainerState::Exited { exit_code, reason, message, .. } = &mut state {
        let from_logs =
            info.message_policy == "FallbackToLogsOnError" && *exit_code != 0 && reason != "ContainerCannotRun";
        let text = termination_message(&status.mounts, &info.message_path, from_logs, &status.log_path);
        if !text.is_empty() {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
    }
    Observed {
        id: status.id,
        sandbox: status.sandbox,
        name: status.name,
        restart_count: info.restart_count.unwrap_or_else(|| i32::try_from(status.attempt).unwrap_or(i32::MAX)),
        state,
        created: status.created,
        image: info.image.unwrap_or(status.image),
        image_id: status.image_ref,
        hash: info.hash,
        user: status.user,
    }
}

/// Cuts the messages of a pod's ended containers so that together they fit
/// what the API keeps; `count` is the number of its containers.
pub(crate) fn share_messages(list: &mut [Observed], count: usize) {
    // Upstream: `MaxPodTerminationMessageLogLength` over all containers.
    let limit = MAX_POD_MESSAGE_BYTES / count.max(1);
    for observed in list {
        if let ContainerState::Exited { message, .. } = &mut observed.state
            && message.len() > limit
        {
            let mut end = limit;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
    }
}

fn termination_message(
    mounts: &[containers::runtime::Mount],
    path: &str,
    from_logs: bool,
    log: &std::path::Path,
) -> String {
    let file = mounts.iter().find(|m| !path.is_empty() && m.container_path == path);
    if let Some(mount) = file {
        match logs::read_last_bytes(&mount.host_path, MAX_TERMINATION_MESSAGE_BYTES) {
            Ok(data) if data.is_empty() && from_logs => {}
            Ok(data) => return String::from_utf8_lossy(&data).into_owned(),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return format!("Error on reading termination log {}: {err}", mount.host_path.display()),
        }
    }
    if !from_logs {
        return String::new();
    }
    match logs::tail_text(log, MAX_TERMINATION_LOG_LINES, MAX_TERMINATION_LOG_BYTES) {
        Ok(text) => text,
        Err(err) => format!("Error on reading termination message from logs: {err}"),
    }
}
