//! What the levels forbid (`pod-security-admission/policy`, upstream 1.36): one
//! function a check, and the table that says from which release on it belongs
//! to which level.

mod baseline;
mod restricted;

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, Rung};
use crate::object;

/// Something forbidden: why in short, and where.
pub(super) struct Violation {
    reason: String,
    detail: String,
}

impl Violation {
    fn new(reason: impl Into<String>, detail: impl Into<String>) -> Option<Self> {
        Some(Self { reason: reason.into(), detail: detail.into() })
    }
}

type Check = fn(&Value, u32) -> Option<Violation>;

/// A check, the release it came with, and, of the baseline, the release from
/// which on a stricter one stands for it in `restricted`.
struct Row(u32, Option<u32>, Check);

/// In the order in which violations are listed.
const BASELINE: [Row; 12] = [
    Row(0, None, baseline::app_armor),
    Row(0, Some(22), baseline::capabilities),
    Row(0, None, baseline::host_namespaces),
    Row(0, Some(0), baseline::host_path_volumes),
    Row(0, None, baseline::host_ports),
    Row(34, None, baseline::probe_hosts),
    Row(0, None, baseline::privileged),
    Row(0, Some(35), baseline::proc_mount),
    Row(0, None, baseline::se_linux_options),
    Row(0, Some(19), baseline::seccomp_profile),
    Row(0, None, baseline::sysctls),
    Row(0, None, baseline::windows_host_process),
];

const RESTRICTED: [Row; 7] = [
    Row(8, None, restricted::privilege_escalation),
    Row(22, None, restricted::capabilities),
    Row(35, None, restricted::proc_mount),
    Row(0, None, restricted::volumes),
    Row(0, None, restricted::non_root),
    Row(23, None, restricted::user),
    Row(19, None, restricted::seccomp_profile),
];

/// All that the level forbids in a pod or pod template.
pub(super) fn violations(rung: Rung, pod: &Value) -> Vec<Violation> {
    if rung.level == Level::Privileged {
        return Vec::new();
    }
    let minor = rung.minor();
    let restricted = rung.level == Level::Restricted;
    let stands = |row: &&Row| row.0 <= minor && !(restricted && row.1.is_some_and(|from| from <= minor));
    let mut found: Vec<Violation> = BASELINE.iter().filter(stands).filter_map(|row| (row.2)(pod, minor)).collect();
    if restricted {
        found.extend(RESTRICTED.iter().filter(|row| row.0 <= minor).filter_map(|row| (row.2)(pod, minor)));
    }
    found
}

/// The reasons with their places.
pub(super) fn details(found: &[Violation]) -> String {
    let text = |one: &Violation| match one.detail.as_str() {
        "" => one.reason.clone(),
        detail => format!("{} ({detail})", one.reason),
    };
    found.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The reasons alone.
pub(super) fn reasons(found: &[Violation]) -> String {
    found.iter().map(|one| one.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// Init containers, containers, ephemeral ones.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["spec.initContainers", "spec.containers", "spec.ephemeralContainers"];
    lists.into_iter().flat_map(|list| object::items(pod, list))
}

/// Names of the containers for which this holds.
fn named(pod: &Value, mut holds: impl FnMut(&Value) -> bool) -> Vec<String> {
    let bad = containers(pod).filter(|container| holds(container));
    bad.map(|container| object::text(container, "name").to_owned()).collect()
}

fn quoted(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn these(noun: &str, names: &[String]) -> String {
    format!("{} {}", plural(noun, names.len()), quoted(names))
}

fn plural(noun: &str, count: usize) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// `pod`, `container "a"`, or both.
fn setters(pod: bool, containers: &[String]) -> String {
    let pod = pod.then(|| "pod".to_owned());
    let containers = (!containers.is_empty()).then(|| these("container", containers));
    pod.into_iter().chain(containers).collect::<Vec<_>>().join(" and ")
}

fn is_windows(pod: &Value) -> bool {
    object::text(pod, "spec.os.name") == "windows"
}

/// Users of such a pod are nobody on the node.
fn has_own_users(pod: &Value) -> bool {
    object::at(pod, "spec.hostUsers").as_bool() == Some(false)
}

/// Values of a text field that are not allowed, of the pod and its containers.
struct Bad {
    pod: bool,
    containers: Vec<String>,
    values: BTreeSet<String>,
}

impl Bad {
    /// Looks at `spec.securityContext.PATH` and each container's `securityContext.PATH`,
    /// where the field's owner is there.
    fn of(pod: &Value, owner: &str, field: &str, allowed: impl Fn(&str) -> bool) -> Self {
        let mut values = BTreeSet::new();
        let mut bad = |context: &Value| {
            let owner = object::at(context, owner);
            let value = object::text(owner, field);
            let bad = owner.is_object() && !allowed(value);
            if bad {
                values.insert(value.to_owned());
            }
            bad
        };
        let in_pod = bad(object::at(pod, "spec.securityContext"));
        let containers = named(pod, |container| bad(&container["securityContext"]));
        Self { pod: in_pod, containers, values }
    }

    fn is_empty(&self) -> bool {
        !self.pod && self.containers.is_empty()
    }
}

#[cfg(test)]
mod tests;
