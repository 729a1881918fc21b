//! Reading a pod's specification: roles of containers, restart rules, names
//! as upstream prints them. It looks at nothing but the object.

use std::borrow::Cow;
use std::sync::OnceLock;

use api::types::api::core::v1 as core;

/// What a container is in its pod.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Of `spec.initContainers`.
    Init,
    /// Of `spec.containers`.
    Main,
    /// Of `spec.ephemeralContainers`.
    Ephemeral,
}

impl Role {
    /// The field of the specification, as event field paths name it.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Role::Init => "initContainers",
            Role::Main => "containers",
            Role::Ephemeral => "ephemeralContainers",
        }
    }
}

/// The specification; an empty one where the object has none.
pub(crate) fn spec(pod: &core::Pod) -> &core::PodSpec {
    static EMPTY: OnceLock<core::PodSpec> = OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(core::PodSpec::default))
}

/// The status; an empty one where the object has none.
pub(crate) fn status(pod: &core::Pod) -> &core::PodStatus {
    static EMPTY: OnceLock<core::PodStatus> = OnceLock::new();
    pod.status.as_ref().unwrap_or_else(|| EMPTY.get_or_init(core::PodStatus::default))
}

/// Pod name.
pub(crate) fn name(pod: &core::Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Pod namespace.
pub(crate) fn namespace(pod: &core::Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// Pod uid.
pub(crate) fn uid(pod: &core::Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as messages of upstream name a pod
/// (`format.Pod`, 1.36).
pub(crate) fn full_name(pod: &core::Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Init containers, in order.
pub(crate) fn init_containers(pod: &core::Pod) -> &[core::Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Main containers, in order.
pub(crate) fn main_containers(pod: &core::Pod) -> &[core::Container] {
    &spec(pod).containers
}

/// Ephemeral containers, in order.
pub(crate) fn ephemeral_containers(pod: &core::Pod) -> &[core::EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// The container with this name and its role.
pub(crate) fn find<'a>(pod: &'a core::Pod, container: &str) -> Option<(Role, Cow<'a, core::Container>)> {
    if let Some(found) = main_containers(pod).iter().find(|c| c.name == container) {
        return Some((Role::Main, Cow::Borrowed(found)));
    }
    if let Some(found) = init_containers(pod).iter().find(|c| c.name == container) {
        return Some((Role::Init, Cow::Borrowed(found)));
    }
    ephemeral_containers(pod)
        .iter()
        .find(|c| c.name == container)
        .map(|c| (Role::Ephemeral, Cow::Owned(ephemeral_as_container(c))))
}

/// The container at this place.
pub(crate) fn at(pod: &core::Pod, role: Role, index: usize) -> Option<Cow<'_, core::Container>> {
    match role {
        Role::Init => init_containers(pod).get(index).map(Cow::Borrowed),
        Role::Main => main_containers(pod).get(index).map(Cow::Borrowed),
        Role::Ephemeral => ephemeral_containers(pod).get(index).map(|c| Cow::Owned(ephemeral_as_container(c))),
    }
}

/// An ephemeral container's common part.
pub(crate) fn ephemeral_as_container(c: &core::EphemeralContainer) -> core::Container {
    core::Container {
        args: c.args.clone(),
        command: c.command.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        name: c.name.clone(),
        resources: c.resources.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        tty: c.tty,
        volume_devices: c.volume_devices.clone(),
        volume_mounts: c.volume_mounts.clone(),
        working_dir: c.working_dir.clone(),
        ..core::Container::default()
    }
}

/// A restartable init container.
pub(crate) fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the pod uses the machine's network.
pub(crate) fn host_network(pod: &core::Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// Whether this pod was read from a file; its source annotation says so.
pub(crate) fn is_static(pod: &core::Pod) -> bool {
    annotation(pod, "kubernetes.io/config.source").is_some_and(|source| source != "api")
}

/// One annotation.
pub(crate) fn annotation<'a>(pod: &'a core::Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// One label.
pub(crate) fn label<'a>(pod: &'a core::Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// The pod's restart policy; `Always` where none is given.
pub(crate) fn restart_policy(pod: &core::Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// The first restart rule that this exit code meets.
pub(crate) fn matching_rule(container: &core::Container, exit_code: i32) -> Option<&core::ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_ref().is_some_and(|values| values.contains(&exit_code));
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether the container runs again after this exit code: its own rules, then
/// its own policy, then the pod's (`podutil.ContainerShouldRestart`, 1.36).
pub(crate) fn restarts_after(pod: &core::Pod, container: &core::Container, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        if let Some(rule) = matching_rule(container, exit_code)
            && matches!(rule.action.as_str(), "Restart" | RESTART_ALL_ACTION)
        {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return exit_code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match restart_policy(pod) {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    }
}

/// The rule action that restarts the whole pod in place.
pub(crate) const RESTART_ALL_ACTION: &str = "RestartAllContainers";

/// Whether any rule may restart the whole pod.
pub(crate) fn may_restart_all(pod: &core::Pod) -> bool {
    init_containers(pod)
        .iter()
        .chain(main_containers(pod))
        .flat_map(|c| c.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == RESTART_ALL_ACTION)
}

/// Identifies what of a container, when changed, needs a new one: name and
/// image. FNV-1a, 32 bits wide in 64, as `HashContainer` is.
pub(crate) fn container_hash(container: &core::Container) -> u64 {
    let mut hash: u32 = 0x811c_9dc5;
    let image = container.image.as_deref().unwrap_or_default();
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    u64::from(hash)
}

/// Seconds a container may take to end when its pod ends.
pub(crate) fn grace_period_seconds(pod: &core::Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(crate::kill::MINIMUM_GRACE_SECONDS)
}
