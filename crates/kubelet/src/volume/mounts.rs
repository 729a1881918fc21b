//! What a container sees: its volume mounts with sub-paths and propagation,
//! `/etc/hosts`, and the file for its termination message.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};

use api::types::api::core::v1 as core;
use containers::runtime::{ImageMount, Mount, Propagation};

use super::{MountedVolumes, pod_dir};
use crate::expand;
use crate::hostname;
use crate::spec;

const HOSTS_PATH: &str = "/etc/hosts";

/// Why a container can't get its mounts; the message of
/// `CreateContainerConfigError`.
#[derive(thiserror::Error, Debug)]
pub(crate) enum MountError {
    /// No such volume.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    Missing {
        /// Volume.
        volume: String,
        /// Container.
        container: String,
    },
    /// A variable of `subPathExpr` has no value.
    #[error("missing value for {0}")]
    Variable(String),
    /// An absolute sub-path.
    #[error("error SubPath `{0}` must not be an absolute path")]
    Absolute(String),
    /// A sub-path with `..`.
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    Backsteps(String),
    /// The sub-path's directory could not be made.
    #[error("failed to create subPath directory for volumeMount {volume:?} of container {container:?}")]
    Create {
        /// Volume.
        volume: String,
        /// Container.
        container: String,
        /// The cause, for the log.
        #[source]
        source: io::Error,
    },
    /// The sub-path leads out of the volume or can't be opened.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    Prepare {
        /// Volume.
        volume: String,
        /// Container.
        container: String,
        /// The cause, for the log.
        #[source]
        source: io::Error,
    },
    /// The pod's name in the network is not valid.
    #[error(transparent)]
    Hostname(#[from] hostname::HostnameError),
    /// A file of the agent could not be written.
    #[error("{step}: {source}")]
    Io {
        /// What, with its path.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What mounts are made from.
pub(crate) struct Input<'a> {
    /// The agent's root directory.
    pub(crate) root: &'a Path,
    /// The pod.
    pub(crate) pod: &'a core::Pod,
    /// The container.
    pub(crate) container: &'a core::Container,
    /// Restarts before this start; names the termination message file.
    pub(crate) restart_count: i32,
    /// Its environment, for `subPathExpr`.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// The pod's volumes, but for those of images.
    pub(crate) volumes: &'a MountedVolumes,
    /// Image ids of the pod's image volumes that this container mounts.
    pub(crate) images: &'a BTreeMap<String, String>,
    /// The pod's addresses.
    pub(crate) pod_ips: &'a [IpAddr],
    /// The cluster's DNS domain.
    pub(crate) cluster_domain: &'a str,
}

/// All mounts, in order.
pub(crate) fn build(input: &Input<'_>) -> Result<Vec<Mount>, MountError> {
    let mut mounts = Vec::new();
    let mut own_hosts = !input.pod_ips.is_empty() || spec::host_network(input.pod);
    for (index, mount) in input.container.volume_mounts.iter().flatten().enumerate() {
        own_hosts &= mount.mount_path != HOSTS_PATH;
        mounts.push(volume_mount(input, index, mount)?);
    }
    if own_hosts {
        mounts.push(hosts(input)?);
    }
    if let Some(mount) = termination_message(input)? {
        mounts.push(mount);
    }
    Ok(mounts)
}

fn volume_mount(input: &Input<'_>, index: usize, mount: &core::VolumeMount) -> Result<Mount, MountError> {
    if let Some(image) = input.images.get(&mount.name) {
        return Ok(Mount {
            container_path: absolute(&mount.mount_path),
            image: Some(ImageMount { image: image.clone(), sub_path: sub_path(mount, input.env)?.unwrap_or_default() }),
            readonly: true,
            ..Mount::default()
        });
    }
    let volume = input
        .volumes
        .get(&mount.name)
        .ok_or_else(|| MountError::Missing { volume: mount.name.clone(), container: input.container.name.clone() })?;
    let sub_path = sub_path(mount, input.env)?;
    let host_path = match sub_path.as_deref() {
        None => volume.path.clone(),
        Some(sub) => bind_sub_path(input, index, mount, &volume.path, Path::new(sub))?,
    };
    let readonly = mount.read_only == Some(true) || volume.readonly;
    let recursive = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    Ok(Mount {
        container_path: absolute(&mount.mount_path),
        host_path,
        image: None,
        readonly,
        recursive_readonly: readonly && recursive,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(mount: &core::VolumeMount, env: &BTreeMap<String, String>) -> Result<Option<String>, MountError> {
    let path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        None => mount.sub_path.clone().unwrap_or_default(),
        Some(expression) => {
            let mut missing = std::collections::BTreeSet::new();
            let path = expand::expand(expression, |name| {
                let value = env.get(name).filter(|v| !v.is_empty()).cloned();
                if value.is_none() {
                    missing.insert(name.to_owned());
                }
                value
            });
            if !missing.is_empty() {
                return Err(MountError::Variable(missing.into_iter().collect::<Vec<_>>().join(", ")));
            }
            path
        }
    };
    if path.is_empty() {
        return Ok(None);
    }
    if path.starts_with('/') {
        return Err(MountError::Absolute(path));
    }
    if Path::new(&path).components().any(|c| c == Component::ParentDir) {
        return Err(MountError::Backsteps(path));
    }
    Ok(Some(path))
}

/// Binds what is at `sub` in the volume to a place of its own: the container
/// could otherwise swap a link under the runtime's hands.
fn bind_sub_path(
    input: &Input<'_>,
    index: usize,
    mount: &core::VolumeMount,
    volume: &Path,
    sub: &Path,
) -> Result<std::path::PathBuf, MountError> {
    let container = &input.container.name;
    let create = |source| MountError::Create { volume: mount.name.clone(), container: container.clone(), source };
    let prepare = |source| MountError::Prepare { volume: mount.name.clone(), container: container.clone(), source };
    if std::fs::metadata(volume.join(sub)).is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
        let mode = std::fs::metadata(volume).map_err(create)?.permissions().mode() & 0o7777;
        containers::mounts::make_dir_beneath(volume, sub, mode).map_err(create)?;
    }
    let place = pod_dir(input.root, spec::uid(input.pod))
        .join("volume-subpaths")
        .join(&mount.name)
        .join(container)
        .join(index.to_string());
    containers::mounts::bind_beneath(volume, sub, &place).map_err(prepare)?;
    Ok(place)
}

fn hosts(input: &Input<'_>) -> Result<Mount, MountError> {
    let path = pod_dir(input.root, spec::uid(input.pod)).join("etc-hosts");
    let failed = |source| MountError::Io { step: format!("writing {}", path.display()), source };
    let content = if spec::host_network(input.pod) {
        hostname::node_hosts(&std::fs::read_to_string(HOSTS_PATH).map_err(failed)?, input.pod)
    } else {
        let (name, domain) = hostname::of_pod(input.pod, input.cluster_domain)?;
        hostname::pod_hosts(input.pod_ips, &name, &domain, input.pod)
    };
    std::fs::write(&path, content).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    Ok(Mount { container_path: HOSTS_PATH.into(), host_path: path, ..Mount::default() })
}

fn termination_message(input: &Input<'_>) -> Result<Option<Mount>, MountError> {
    let Some(inside) = input.container.termination_message_path.clone().filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    let dir = pod_dir(input.root, spec::uid(input.pod)).join("containers").join(&input.container.name);
    let path = dir.join(format!("message-{}", input.restart_count));
    let failed = |source| MountError::Io { step: format!("making {}", path.display()), source };
    std::fs::create_dir_all(&dir).map_err(failed)?;
    std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o666).open(&path).map_err(failed)?;
    // Any user of the container may write it; `umask` must not matter.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(Some(Mount { container_path: inside, host_path: path, ..Mount::default() }))
}
