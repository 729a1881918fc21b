//! Volumes of pods: made before the sandbox, kept up to date while the pod
//! runs, taken down after it has ended. What a container sees of them is
//! decided in [`mounts`].

pub(crate) mod atomic;
mod claim;
mod content;
mod hostpath;
pub(crate) mod mounts;
mod ownership;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use api::types::api::core::v1 as core;

use crate::references::References;
use crate::resources;
use crate::spec;
use crate::tokens::Tokens;

/// A volume that is ready for containers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mounted {
    /// Where it is on the machine.
    pub(crate) path: PathBuf,
    /// Containers may not write it, whatever their mount says.
    pub(crate) readonly: bool,
}

/// Volumes of one pod by name.
pub(crate) type MountedVolumes = BTreeMap<String, Mounted>;

/// Why a volume is not ready.
#[derive(thiserror::Error, Debug)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
pub(crate) struct VolumeError {
    /// Its name in the pod.
    volume: String,
    /// The cause.
    #[source]
    source: SetUpError,
}

/// Causes of [`VolumeError`]. Texts are upstream's where clients see them.
#[derive(thiserror::Error, Debug)]
pub(crate) enum SetUpError {
    /// A referenced object can't be had.
    #[error(transparent)]
    Reference(#[from] crate::references::ReferenceError),
    /// An item names a key that the ConfigMap lacks.
    #[error("configmap references non-existent config key: {0}")]
    ConfigKey(String),
    /// An item names a key that the Secret lacks.
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    /// A field that can't be shown.
    #[error(transparent)]
    Field(#[from] crate::env::downward::FieldError),
    /// No service account token.
    #[error("failed to fetch token: {0}")]
    Token(#[source] client::ClientError),
    /// The path on the machine is not what the volume's type says.
    #[error("hostPath type check failed: {path} {problem}")]
    HostPath {
        /// The path.
        path: String,
        /// `is not a directory`, …
        problem: &'static str,
    },
    /// A path of an item is not allowed.
    #[error("invalid path: {0}")]
    Path(String),
    /// A claim that can't be used.
    #[error("{0}")]
    Claim(String),
    /// A source that this agent does not know.
    #[error("no volume plugin matched")]
    Unsupported,
    /// A file operation failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done, with its path.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl SetUpError {
    fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}

/// What volumes are made from.
pub(crate) struct Sources<'a> {
    /// ConfigMaps and Secrets.
    pub(crate) references: &'a References,
    /// Service account tokens.
    pub(crate) tokens: &'a Tokens,
    /// For claims.
    pub(crate) client: &'a client::Client,
    /// What the machine offers, in thousandths.
    pub(crate) allocatable: &'a BTreeMap<String, i64>,
    /// Addresses of the machine.
    pub(crate) host_ips: &'a [IpAddr],
}

/// Directory of everything the agent keeps of a pod.
pub(crate) fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

fn volume_dir(root: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
    pod_dir(root, uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// Where an emptyDir volume is.
pub(crate) fn empty_dir_path(root: &Path, uid: &str, name: &str) -> PathBuf {
    volume_dir(root, uid, "empty-dir", name)
}

/// Makes all volumes of the pod, or brings them up to date. Stops at the first
/// that can't be made; those before it stay.
pub(crate) async fn set_up(root: &Path, pod: &core::Pod, sources: &Sources<'_>) -> Result<MountedVolumes, VolumeError> {
    let mut mounted = MountedVolumes::new();
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let one = one(root, pod, volume, sources).await;
        match one.map_err(|source| VolumeError { volume: volume.name.clone(), source })? {
            Some(ready) => {
                if carries_mounts(pod, &volume.name) && ready.path.starts_with(root) {
                    let step = SetUpError::io(format!("sharing {}", ready.path.display()));
                    containers::mounts::share(&ready.path)
                        .map_err(step)
                        .map_err(|source| VolumeError { volume: volume.name.clone(), source })?;
                }
                mounted.insert(volume.name.clone(), ready);
            }
            None => continue,
        }
    }
    Ok(mounted)
}

/// Whether mounts that a container makes in this volume reach others.
fn carries_mounts(pod: &core::Pod, volume: &str) -> bool {
    let mut mounts = spec::init_containers(pod)
        .iter()
        .chain(spec::main_containers(pod))
        .flat_map(|container| container.volume_mounts.iter().flatten());
    mounts.any(|m| m.name == volume && m.mount_propagation.as_deref() == Some("Bidirectional"))
}

async fn one(
    root: &Path,
    pod: &core::Pod,
    volume: &core::Volume,
    sources: &Sources<'_>,
) -> Result<Option<Mounted>, SetUpError> {
    let uid = spec::uid(pod);
    let dir = |plugin: &str| volume_dir(root, uid, plugin, &volume.name);
    let fs_group = spec::spec(pod).security_context.as_ref().and_then(|s| s.fs_group);
    if let Some(empty) = &volume.empty_dir {
        return empty_dir(&dir("empty-dir"), empty, fs_group).map(Some);
    }
    if let Some(host) = &volume.host_path {
        return hostpath::check(host).map(Some);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claim::set_up(pod, claim, sources.client, fs_group).await.map(Some);
    }
    let (plugin, in_memory) = if volume.config_map.is_some() {
        ("configmap", false)
    } else if volume.secret.is_some() {
        ("secret", true)
    } else if volume.projected.is_some() {
        ("projected", true)
    } else if volume.downward_api.is_some() {
        ("downward-api", true)
    } else if volume.image.is_some() {
        // Mounted by the runtime.
        return Ok(None);
    } else {
        return Err(SetUpError::Unsupported);
    };
    let payload = content::payload(pod, volume, sources).await?;
    let path = dir(plugin);
    make_dir(&path, in_memory.then_some(None))?;
    atomic::write(&path, &payload, |dir| ownership::apply(dir, fs_group, true))?;
    Ok(Some(Mounted { path, readonly: true }))
}

/// `memory`: `Some(limit)` for a file system in memory.
fn make_dir(path: &Path, memory: Option<Option<u64>>) -> Result<(), SetUpError> {
    let name = path.display();
    std::fs::create_dir_all(path).map_err(SetUpError::io(format!("making {name}")))?;
    if let Some(limit) = memory {
        let mounted = containers::mounts::is_mount_point(path).map_err(SetUpError::io(format!("looking at {name}")))?;
        if !mounted {
            containers::mounts::tmpfs(path, limit).map_err(SetUpError::io(format!("mounting a tmpfs on {name}")))?;
        }
    }
    // Whoever the container runs as, it may use the volume; `umask` must not matter.
    let mode =
        std::fs::metadata(path).map_err(SetUpError::io(format!("looking at {name}")))?.permissions().mode() & 0o7777;
    if mode & 0o777 != 0o777 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o777))
            .map_err(SetUpError::io(format!("opening {name} to all")))?;
    }
    Ok(())
}

fn empty_dir(path: &Path, source: &core::EmptyDirVolumeSource, fs_group: Option<i64>) -> Result<Mounted, SetUpError> {
    let limit = source
        .size_limit
        .as_ref()
        .map(resources::quantity_value)
        .and_then(|b| u64::try_from(b).ok())
        .filter(|b| *b > 0);
    let memory = (source.medium.as_deref() == Some("Memory")).then_some(limit);
    let new = !path.exists();
    make_dir(path, memory)?;
    if new {
        ownership::apply(path, fs_group, false)?;
    }
    Ok(Mounted { path: path.into(), readonly: false })
}

/// Takes down what was mounted for the pod and deletes what its volumes hold.
/// Idempotent.
pub(crate) fn tear_down(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    for part in ["volume-subpaths", "volumes"] {
        let part = dir.join(part);
        if part.exists() {
            containers::mounts::unmount_below(&part)?;
            remove_all(&part)?;
        }
    }
    Ok(())
}

/// Removes everything the agent keeps of the pod. Idempotent.
pub(crate) fn remove_pod_dir(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    if !dir.exists() {
        return Ok(());
    }
    containers::mounts::unmount_below(&dir)?;
    remove_all(&dir)
}

fn remove_all(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
