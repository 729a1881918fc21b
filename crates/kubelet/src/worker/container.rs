//! Making and starting one container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerConfig, Image, LogLimits, SandboxId};

use super::job::{JobDone, Progress};
use super::steps::Job;
use crate::env;
use crate::expand;
use crate::hooks;
use crate::image::{Keyring, NoImage, Wanted};
use crate::labels;
use crate::plan::KillReason;
use crate::resources;
use crate::security;
use crate::spec::{self, Role};
use crate::status::WaitReason;
use crate::volume::mounts;

/// One container that is to run.
pub(super) struct Starter<'a> {
    pub(super) job: &'a Job,
    pub(super) sandbox: &'a SandboxId,
    pub(super) role: Role,
    pub(super) container: &'a core::Container,
    pub(super) keyring: &'a Keyring,
}

/// What a container needs of images.
pub(super) struct Images {
    own: Image,
    /// Image ids by the name of the volume.
    volumes: BTreeMap<String, String>,
}

/// Why no configuration could be made: `CreateContainerConfigError`.
#[derive(thiserror::Error, Debug)]
enum ConfigError {
    #[error(transparent)]
    Env(#[from] env::EnvError),
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error(transparent)]
    Security(#[from] security::SecurityError),
    #[error("unable to find target container {0:?}")]
    Target(String),
}

fn why(reason: &str, message: String) -> WaitReason {
    WaitReason { reason: reason.into(), message }
}

impl Starter<'_> {
    fn event(&self, kind: &str, reason: &str, message: &str) {
        self.job.context.events.container(&self.job.pod, &self.container.name, kind, reason, message);
    }

    /// The images of the container and of its image volumes, pulled if need be.
    pub(super) async fn images(&self) -> Result<Images, NoImage> {
        let result = self.all_images().await;
        if let Err(missing) = &result {
            self.event("Warning", "Failed", &format!("Error: {}", missing.why.reason));
        }
        result
    }

    async fn all_images(&self) -> Result<Images, NoImage> {
        let (puller, pod) = (&self.job.context.puller, &*self.job.pod);
        let mut volumes = BTreeMap::new();
        for volume in spec::spec(pod).volumes.iter().flatten() {
            let Some(source) = &volume.image else { continue };
            if self.container.volume_mounts.iter().flatten().any(|m| m.name == volume.name) {
                let found = puller.ensure(pod, Wanted::by_volume(source), self.keyring).await?;
                volumes.insert(volume.name.clone(), found.id);
            }
        }
        let own = puller.ensure(pod, Wanted::by_container(self.container), self.keyring).await?;
        Ok(Images { own, volumes })
    }

    /// Makes it, starts it, and runs its postStart hook.
    pub(super) async fn start(&self, images: &Images, done: &mut JobDone) -> Result<(), WaitReason> {
        let runtime = &self.job.context.runtime;
        let config = match self.config(images).await {
            Ok(config) => config,
            Err(err) => {
                let message = err.to_string();
                self.event("Warning", "Failed", &format!("Error: {message}"));
                return Err(why("CreateContainerConfigError", message));
            }
        };
        let id = match runtime.create_container(self.sandbox, config).await {
            Ok(id) => id,
            Err(err) => {
                let message = api::error::Chain(&err).to_string();
                self.event("Warning", "Failed", &format!("Error: {message}"));
                return Err(why("CreateContainerError", message));
            }
        };
        done.changed = true;
        self.job.tell(Progress::Container(id.clone())).await;
        self.event("Normal", "Created", "Container created");
        if let Err(err) = runtime.start_container(&id).await {
            let message = api::error::Chain(&err).to_string();
            self.event("Warning", "Failed", &format!("Error: {message}"));
            return Err(why("RunContainerError", message));
        }
        self.event("Normal", "Started", "Container started");
        let Some(hook) = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let ip = self.job.observed.ips().first().copied();
        let run = hooks::run(&**runtime, &self.job.pod, self.container, &id, hook, ip);
        // A pod that is to end does not wait for its start.
        let Some(Err(failed)) = self.job.cancel.run_until_cancelled(run).await else { return Ok(()) };
        // The text may hold secrets; it is kept out of the event, as upstream does.
        self.event("Warning", "FailedPostStartHook", "PostStartHook failed");
        let killer = self.job.killer(&self.job.observed);
        if let Err(err) = killer.container(&id, &self.container.name, "FailedPostStartHook", KillReason::Other).await {
            tracing::warn!(err = %api::error::Chain(&err), "container could not be ended after its postStart hook failed");
        }
        Err(why("PostStartHookError", failed.to_string()))
    }

    fn restart_count(&self) -> i32 {
        match self.job.observed.find(&self.container.name) {
            Some(last) => last.restart_count.saturating_add(1),
            None => restart_count_by_logs(&self.job.context.log_dir(&self.job.pod).join(&self.container.name)),
        }
    }

    async fn config(&self, images: &Images) -> Result<ContainerConfig, ConfigError> {
        let job = self.job;
        let (context, pod, container) = (&job.context, &job.pod, self.container);
        let restart_count = self.restart_count();
        let mut pod_ips = job.observed.ips();
        if spec::host_network(pod) {
            pod_ips = context.host_ips().to_vec();
        }
        let volumes: BTreeMap<String, PathBuf> = job.volumes.iter().map(|(n, v)| (n.clone(), v.path.clone())).collect();
        let services = context.services.list();
        let allocatable = context.allocatable();
        let sources = env::Sources {
            references: &context.references,
            services: &services,
            pod_ips: &pod_ips,
            host_ips: context.host_ips(),
            allocatable: &allocatable,
            volumes: &volumes,
        };
        let target = self.target()?;
        let env = env::build(pod, container, &sources).await?;
        let mounts = mounts::build(&mounts::Input {
            root: &context.config.root_dir,
            pod,
            container,
            restart_count,
            env: &env,
            volumes: &job.volumes,
            images: &images.volumes,
            pod_ips: &pod_ips,
            cluster_domain: &context.config.cluster_domain,
        })?;
        let mut security = security::of_container(pod, container, &images.own, &context.config.seccomp_dir)?;
        security.pid_of = target;
        let words = |list: &Option<Vec<String>>| list.iter().flatten().map(|w| expand::with_env(w, &env)).collect();
        let (command, args) = (words(&container.command), words(&container.args));
        Ok(ContainerConfig {
            name: container.name.clone(),
            attempt: u32::try_from(restart_count).unwrap_or(0),
            image: images.own.id.clone(),
            command,
            args,
            working_dir: container.working_dir.clone().unwrap_or_default(),
            env: env.into_iter().collect(),
            mounts,
            devices: Vec::new(),
            labels: labels::container(pod, container),
            annotations: labels::container_annotations(pod, container, restart_count),
            log_path: PathBuf::from(&container.name).join(format!("{restart_count}.log")),
            log_limits: LogLimits::default(),
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            tty: container.tty == Some(true),
            resources: resources::of_container(pod, container, context.memory_bytes),
            security,
            stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        })
    }

    /// The container whose processes an ephemeral one wants to see.
    fn target(&self) -> Result<Option<containers::runtime::ContainerId>, ConfigError> {
        if self.role != Role::Ephemeral {
            return Ok(None);
        }
        let wanted = spec::ephemeral_containers(&self.job.pod)
            .iter()
            .find(|c| c.name == self.container.name)
            .and_then(|c| c.target_container_name.clone())
            .filter(|n| !n.is_empty());
        match wanted {
            None => Ok(None),
            Some(name) => match self.job.observed.find(&name) {
                Some(found) => Ok(Some(found.id.clone())),
                None => Err(ConfigError::Target(name)),
            },
        }
    }
}

/// A runtime that lost its memory must not reset the count: logs `N.log` tell
/// how far it came.
fn restart_count_by_logs(dir: &std::path::Path) -> i32 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.split('.').next()?.parse::<i32>().ok())
        .max()
        .map_or(0, |last| last.saturating_add(1))
}
