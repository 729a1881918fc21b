//! From a pod's and a container's security context to what the runtime is
//! told, and the refusals that upstream has.

use std::path::{Path, PathBuf};

use api::types::api::core::v1 as core;
use containers::runtime::{Image, NamespaceMode, Seccomp, Security};

use crate::spec;

/// Why a container may not run; the message of `CreateContainerConfigError`.
#[derive(thiserror::Error, Debug)]
pub(crate) enum SecurityError {
    /// `runAsUser: 0` with `runAsNonRoot`.
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RootByPod {
        /// Full name.
        pod: String,
        /// Name.
        container: String,
    },
    /// The image's user is root.
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    RootByImage {
        /// Full name.
        pod: String,
        /// Name.
        container: String,
    },
    /// The image's user has a name, so nobody knows.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    NamedUser {
        /// As the image names it.
        user: String,
        /// Full name.
        pod: String,
        /// Name.
        container: String,
    },
    /// A profile outside of the profile directory.
    #[error("invalid seccomp profile path {0:?}")]
    ProfilePath(String),
}

/// What the runtime is told about this container's process.
pub(crate) fn of_container(
    pod: &core::Pod,
    container: &core::Container,
    image: &Image,
    seccomp_dir: &Path,
) -> Result<Security, SecurityError> {
    let empty_pod = core::PodSecurityContext::default();
    let of_pod = spec::spec(pod).security_context.as_ref().unwrap_or(&empty_pod);
    let empty = core::SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&empty);
    let user = own.run_as_user.or(of_pod.run_as_user);
    non_root(pod, container, user, own.run_as_non_root.or(of_pod.run_as_non_root), image)?;
    let id = |id: i64| u32::try_from(id).ok();
    let privileged = own.privileged == Some(true);
    let (uid, username) = match user.and_then(id) {
        Some(uid) => (Some(uid), None),
        None => (image.uid.and_then(id), Some(image.username.clone()).filter(|n| !n.is_empty())),
    };
    let mut groups: Vec<u32> = of_pod.fs_group.and_then(id).into_iter().collect();
    groups.extend(of_pod.supplemental_groups.iter().flatten().copied().filter_map(id));
    let capabilities = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let own_capabilities = own.capabilities.as_ref();
    Ok(Security {
        uid,
        username,
        gid: own.run_as_group.or(of_pod.run_as_group).and_then(id),
        supplemental_groups: groups,
        strict_supplemental_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        privileged,
        add_capabilities: capabilities(own_capabilities.and_then(|c| c.add.as_ref())),
        drop_capabilities: capabilities(own_capabilities.and_then(|c| c.drop.as_ref())),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), privileged, seccomp_dir)?,
        masked_paths: (own.proc_mount.as_deref() == Some("Unmasked")).then(Vec::new),
        readonly_paths: (own.proc_mount.as_deref() == Some("Unmasked")).then(Vec::new),
        pid_of: None,
    })
}

fn non_root(
    pod: &core::Pod,
    container: &core::Container,
    user: Option<i64>,
    required: Option<bool>,
    image: &Image,
) -> Result<(), SecurityError> {
    if required != Some(true) {
        return Ok(());
    }
    let pod_name = || spec::full_name(pod);
    let name = || container.name.clone();
    match (user, image.uid) {
        (Some(0), _) => Err(SecurityError::RootByPod { pod: pod_name(), container: name() }),
        (Some(_), _) => Ok(()),
        (None, None) if !image.username.is_empty() => {
            Err(SecurityError::NamedUser { user: image.username.clone(), pod: pod_name(), container: name() })
        }
        // An image without a user runs as root.
        (None, Some(0) | None) => Err(SecurityError::RootByImage { pod: pod_name(), container: name() }),
        (None, Some(_)) => Ok(()),
    }
}

fn seccomp(profile: Option<&core::SeccompProfile>, privileged: bool, dir: &Path) -> Result<Seccomp, SecurityError> {
    let Some(profile) = profile.filter(|_| !privileged) else { return Ok(Seccomp::Unconfined) };
    Ok(match profile.type_.as_str() {
        "RuntimeDefault" => Seccomp::RuntimeDefault,
        "Localhost" => {
            let name = profile.localhost_profile.clone().unwrap_or_default();
            let relative = PathBuf::from(&name);
            let inside = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if name.is_empty() || !inside {
                return Err(SecurityError::ProfilePath(name));
            }
            Seccomp::Localhost(dir.join(relative))
        }
        _ => Seccomp::Unconfined,
    })
}

/// Namespaces of the pod: network, process, IPC.
pub(crate) fn namespaces(pod: &core::Pod) -> (NamespaceMode, NamespaceMode, NamespaceMode) {
    let spec = spec::spec(pod);
    let node = |host: Option<bool>| host == Some(true);
    let network = if node(spec.host_network) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let ipc = if node(spec.host_ipc) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if node(spec.host_pid) {
        NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    (network, pid, ipc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod_context: serde_json::Value, own: serde_json::Value, image: &Image) -> Result<Security, String> {
        let pod: core::Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]}}))
        .expect("a pod");
        of_container(&pod, &spec::main_containers(&pod)[0], image, Path::new("/profiles")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_container_that_must_not_be_root_is_refused_when_it_would_be() {
        let root = Image { uid: Some(0), ..Image::default() };
        let named = Image { username: "app".into(), ..Image::default() };
        let user = Image { uid: Some(1000), ..Image::default() };
        let non_root = json!({"runAsNonRoot": true});
        assert_eq!(
            check(non_root.clone(), json!({}), &root).expect_err("refused"),
            "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
        );
        assert!(check(non_root.clone(), json!({}), &named).expect_err("refused").contains("non-numeric user (app)"));
        assert!(
            check(non_root.clone(), json!({"runAsUser": 0}), &user)
                .expect_err("refused")
                .starts_with("container's runAsUser breaks")
        );
        assert_eq!(check(non_root.clone(), json!({}), &user).expect("allowed").uid, Some(1000));
        assert_eq!(check(non_root, json!({"runAsUser": 7}), &root).expect("allowed").uid, Some(7));
    }

    #[test]
    fn the_containers_own_context_wins_over_the_pods() {
        let image = Image::default();
        let security = check(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 9, "allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
            &image,
        ).expect("allowed");
        assert_eq!((security.uid, security.gid), (Some(9), Some(2)));
        assert_eq!(security.supplemental_groups, [3, 4]);
        assert!(security.no_new_privileges);
        assert_eq!(security.seccomp, Seccomp::RuntimeDefault);
        assert_eq!(security.drop_capabilities, ["ALL"]);
        assert!(
            check(json!({}), json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}), &image)
                .is_err()
        );
    }
}
