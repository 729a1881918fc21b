//! `darter reset`: removes everything that `up` made on this machine for one
//! data directory, and nothing else.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containers::runtime::{SandboxConfig, SandboxId, SandboxNetwork};
use containers::{EmbeddedConfig, EmbeddedRuntime, ShimCommand};
use network::activity::Activity;
use network::pod::PodNetwork;
use network::service::ServiceProxy;

use crate::arguments;
use crate::instance::Instance;
use crate::networks::Networks;

/// Why not everything could be removed. What is gone is gone; run it again.
#[derive(thiserror::Error, Debug)]
pub(crate) enum ResetError {
    /// The folder is not one of ours.
    #[error("{path} is not a data directory of darter (no keys and no store in it); nothing was removed")]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// A server still runs there.
    #[error("a server still uses {path}; stop it first. Nothing was removed")]
    Running {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not root.
    #[error("removing containers and networks needs root; run it again with sudo")]
    NotRoot,
    /// The user said no.
    #[error("nothing was removed; --yes removes without asking")]
    Declined,
    /// Something could not be removed.
    #[error("removing {what}")]
    Remove {
        /// What.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn removing<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> ResetError {
    let what = what.into();
    move |source| ResetError::Remove { what, source: source.into() }
}

/// Removes it all.
pub(crate) async fn run(arguments: &arguments::Reset) -> Result<(), ResetError> {
    let instance = Instance::new(&arguments.place.data_dir).map_err(removing("the data directory"))?;
    if !instance.data_dir.exists() {
        println!("{} does not exist; nothing to remove", instance.data_dir.display());
        return Ok(());
    }
    if !instance.pki().is_dir() && !instance.store().is_dir() && !instance.containers().is_dir() {
        return Err(ResetError::NotOurs { path: instance.data_dir });
    }
    if instance.store().is_dir() {
        store::EmbeddedStore::open(&instance.store(), store::embedded::Options::default())
            .map_err(|source| ResetError::Running { path: instance.data_dir.clone(), source: Box::new(source) })?;
    }
    if !arguments.yes && !confirmed(&instance).map_err(removing("asking"))? {
        return Err(ResetError::Declined);
    }
    if instance.containers().is_dir() && instance.run_dir.exists() {
        if !rustix::process::geteuid().is_root() {
            return Err(ResetError::NotRoot);
        }
        remove_node(&instance).await?;
    }
    unmount_below(&instance.data_dir)?;
    for folder in [&instance.run_dir, &instance.data_dir] {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(removing(folder.display().to_string())(error));
            }
            _ => {}
        }
    }
    println!("{} removed", instance.data_dir.display());
    Ok(())
}

fn confirmed(instance: &Instance) -> io::Result<bool> {
    print!("Remove the cluster in {} with all its pods and data? [y/N] ", instance.data_dir.display());
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Interfaces go with their namespaces; the rest of the network is removed as
/// a whole afterwards.
struct Gone;

#[async_trait::async_trait]
impl SandboxNetwork for Gone {
    async fn attach(
        &self,
        _id: &SandboxId,
        _netns: &Path,
        _config: &SandboxConfig,
    ) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        Err("this process only removes".into())
    }

    async fn detach(&self, _id: &SandboxId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

async fn remove_node(instance: &Instance) -> Result<(), ResetError> {
    let program = std::env::current_exe().map_err(removing("the node's pods"))?;
    let runtime = EmbeddedRuntime::open(EmbeddedConfig {
        root: instance.containers(),
        state: instance.run_dir.clone(),
        cgroup_root: instance.cgroup.clone(),
        registries: None,
        network: Arc::new(Gone),
        shim: ShimCommand { program, args: vec!["shim".into()] },
    })
    .await
    .map_err(removing("the node's pods"))?;
    runtime.destroy().await.map_err(removing("the node's pods"))?;
    runtime.close().await;
    let Some(networks) = Networks::read(instance).map_err(removing("the networks"))? else { return Ok(()) };
    let pods = PodNetwork::open(networks.pod_network(instance)).map_err(removing("the pod network"))?;
    pods.teardown().map_err(removing("the pod network"))?;
    ServiceProxy::remove_rules(&networks.service_proxy(instance, "")).map_err(removing("the Services' rules"))?;
    Activity::remove_rules(&networks.activity(instance)).map_err(removing("the view of pod traffic"))
}

/// Volumes in memory are mounts of their own; a path below another comes first.
fn unmount_below(folder: &Path) -> Result<(), ResetError> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(removing("mounts"))?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ").replace("\\134", "\\")))
        .filter(|path| path.starts_with(folder) && path != folder)
        .collect();
    mounts.sort();
    for mount in mounts.iter().rev() {
        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH)
            .map_err(|error| removing(format!("mount {}", mount.display()))(io::Error::from(error)))?;
    }
    Ok(())
}
