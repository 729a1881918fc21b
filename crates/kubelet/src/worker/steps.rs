//! Carrying out a plan, step by step. It decides nothing: a step that fails is
//! reported, and the next plan says what follows.

use std::sync::Arc;
use std::time::SystemTime;

use api::types::api::core::v1 as core;
use containers::runtime::{IdRange, RuntimeError, SandboxId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::container::Starter;
use super::job::{JobDone, Progress};
use crate::context::Context;
use crate::image::Keyring;
use crate::kill::Killer;
use crate::observe::Observation;
use crate::plan::{Action, KillReason};
use crate::resize::Allotment;
use crate::resources;
use crate::spec::{self, Role};
use crate::status::WaitReason;
use crate::volume::{self, MountedVolumes};

/// A plan to be carried out.
pub(super) struct Job {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<core::Pod>,
    pub(super) actions: Vec<Action>,
    pub(super) observed: Observation,
    pub(super) volumes: MountedVolumes,
    /// Resources that are in force.
    pub(super) actual: Allotment,
    /// The pod's users on the machine, if it wants its own and there were any left.
    pub(super) users: Option<IdRange>,
    pub(super) cancel: CancellationToken,
    pub(super) progress: mpsc::Sender<Progress>,
}

impl Job {
    /// Runs all steps; stops early when cancelled.
    pub(super) async fn run(mut self) -> JobDone {
        let mut done = JobDone::default();
        // Never closed: closing is the only way for this to fail.
        let context = self.context.clone();
        let _turn = context.busy.acquire().await;
        if self.cancel.is_cancelled() {
            return done;
        }
        let starts = self.actions.iter().any(|a| matches!(a, Action::Start { .. } | Action::CreateSandbox { .. }));
        if (starts || self.actions.is_empty()) && !self.prepare(&mut done).await {
            return done;
        }
        drop(_turn);
        self.steps(&mut done).await;
        done
    }

    /// Directories, cgroup and volumes; false if containers can't start yet.
    async fn prepare(&mut self, done: &mut JobDone) -> bool {
        let context = self.context.clone();
        let uid = spec::uid(&self.pod);
        let dir = volume::pod_dir(&context.config.root_dir, uid);
        if let Err(err) = std::fs::create_dir_all(dir.join("volumes")) {
            self.event(
                "Warning",
                "FailedToMakePodDataDirectories",
                &format!("error making pod data directories: {err}"),
            );
            done.failed = true;
            return false;
        }
        let path = resources::cgroup_path(&context.config.cgroup_root, &self.pod);
        if self.observed.usable_sandbox().is_none()
            && let Err(err) = context.runtime.set_cgroup(&path, resources::of_pod_cgroup(&self.pod)).await
        {
            let text = format!("unable to ensure pod container exists: {}", api::error::Chain(&err));
            self.event("Warning", "FailedCreatePodContainer", &text);
            done.failed = true;
            return false;
        }
        let allocatable = context.allocatable();
        let sources = volume::Sources {
            references: &context.references,
            tokens: &context.tokens,
            client: &context.client,
            allocatable: &allocatable,
            host_ips: context.host_ips(),
        };
        let set_up = volume::set_up(&context.config.root_dir, &self.pod, &sources);
        match self.cancel.run_until_cancelled(set_up).await {
            None => false,
            Some(Ok(volumes)) => {
                self.volumes.clone_from(&volumes);
                done.volumes = Some(volumes);
                true
            }
            Some(Err(err)) => {
                self.event("Warning", "FailedMount", &err.to_string());
                done.failed = true;
                false
            }
        }
    }

    pub(super) fn event(&self, kind: &str, reason: &str, message: &str) {
        self.context.events.pod(&self.pod, kind, reason, message);
    }

    pub(super) async fn tell(&self, progress: Progress) {
        // The worker outlives its job.
        let _told = self.progress.send(progress).await;
    }

    pub(super) fn killer<'a>(&'a self, observed: &Observation) -> Killer<'a> {
        Killer {
            runtime: &*self.context.runtime,
            events: &self.context.events,
            pod: &self.pod,
            pod_ip: observed.ips().first().copied(),
            grace_seconds: None,
        }
    }

    async fn steps(&mut self, done: &mut JobDone) {
        let mut sandbox = self.observed.usable_sandbox().map(|s| s.id.clone());
        let mut keyring = None;
        for action in std::mem::take(&mut self.actions) {
            if self.cancel.is_cancelled() {
                return;
            }
            let result = match action {
                Action::KillPod => {
                    done.changed = true;
                    sandbox = None;
                    self.killer(&self.observed).pod(&self.observed).await
                }
                Action::Kill { id, name, message, reason } => {
                    done.changed = true;
                    self.killer(&self.observed).container(&id, &name, &message, reason).await
                }
                Action::Reset { id, name, kill } => self.reset(&id, &name, kill, done).await,
                Action::Remove { id } => self.context.runtime.remove_container(&id).await,
                Action::CreateSandbox { attempt, changed } => {
                    if changed {
                        self.event(
                            "Normal",
                            "SandboxChanged",
                            "Pod sandbox changed, it will be killed and re-created.",
                        );
                    }
                    match self.create_sandbox(attempt).await {
                        Ok(id) => {
                            done.changed = true;
                            self.tell(Progress::Sandbox(id.clone())).await;
                            if let Ok(status) = self.context.runtime.sandbox(&id).await {
                                self.observed.sandboxes.insert(0, status);
                            }
                            sandbox = Some(id);
                            Ok(())
                        }
                        Err(err) => {
                            let text = format!("Failed to create pod sandbox: {}", api::error::Chain(&err));
                            self.event("Warning", "FailedCreatePodSandBox", &text);
                            done.failed = true;
                            return;
                        }
                    }
                }
                Action::BackOff { role, index, until, delay } => {
                    self.back_off(role, index, until, delay, done);
                    if self.stops_at(role, index) {
                        return;
                    }
                    Ok(())
                }
                Action::Resize { containers } => {
                    let outcome = self.resize(&containers, done).await;
                    done.failed |= outcome.is_err();
                    done.changed |= outcome.is_ok();
                    done.resized = Some(outcome);
                    Ok(())
                }
                Action::Start { role, index, last_finished } => {
                    let Some(sandbox) = &sandbox else { return };
                    if keyring.is_none() {
                        keyring = Some(self.keyring().await);
                    }
                    let keyring = keyring.as_ref().unwrap_or(&EMPTY_KEYRING);
                    let ok = self.start(sandbox, (role, index, last_finished), keyring, done).await;
                    if !ok && self.stops_at(role, index) {
                        return;
                    }
                    Ok(())
                }
            };
            if let Err(err) = result {
                tracing::warn!(uid = spec::uid(&self.pod), err = %api::error::Chain(&err), "a step of the pod failed");
                done.failed = true;
                return;
            }
        }
    }

    /// Whether nothing is started after this container when it does not start.
    fn stops_at(&self, role: Role, index: usize) -> bool {
        role == Role::Init && spec::init_containers(&self.pod).get(index).is_some_and(|c| !spec::is_sidecar(c))
    }

    async fn reset(
        &self,
        id: &containers::runtime::ContainerId,
        name: &str,
        kill: bool,
        done: &mut JobDone,
    ) -> Result<(), RuntimeError> {
        done.changed = true;
        if kill {
            self.killer(&self.observed).container(id, name, "killing", KillReason::RestartAll).await?;
        }
        self.context.runtime.remove_container(id).await
    }

    fn back_off(&self, role: Role, index: usize, until: SystemTime, delay: std::time::Duration, done: &mut JobDone) {
        let Some(container) = spec::at(&self.pod, role, index) else { return };
        let pod = spec::full_name(&self.pod);
        let text = format!("Back-off restarting failed container {} in pod {pod}", container.name);
        self.context.events.container(&self.pod, &container.name, "Warning", "BackOff", &text);
        let message =
            format!("back-off {} restarting failed container={} pod={pod}", go_duration(delay), container.name);
        done.reasons.push((container.name.clone(), Some(WaitReason { reason: "CrashLoopBackOff".into(), message })));
        sooner(&mut done.retry_at, until);
    }

    async fn start(
        &self,
        sandbox: &SandboxId,
        (role, index, last_finished): (Role, usize, Option<SystemTime>),
        keyring: &Keyring,
        done: &mut JobDone,
    ) -> bool {
        let Some(container) = spec::at(&self.pod, role, index) else { return true };
        if let Some(ended) = last_finished {
            self.tell(Progress::Restarting {
                name: container.name.clone(),
                hash: spec::container_hash(&container),
                ended,
            })
            .await;
        }
        let starter = Starter { job: self, sandbox, role, container: &container, keyring };
        let result = self.cancel.run_until_cancelled(starter.images()).await;
        let Some(result) = result else { return false };
        let result = match result {
            Ok(images) => starter.start(&images, done).await,
            Err(missing) => {
                if let Some(until) = missing.until {
                    sooner(&mut done.retry_at, until);
                }
                Err(missing.why)
            }
        };
        match result {
            Ok(()) => {
                done.reasons.push((container.name.clone(), None));
                if role == Role::Main || spec::is_sidecar(&container) {
                    done.actual.push((container.name.clone(), container.resources.clone()));
                }
                true
            }
            Err(why) => {
                if done.retry_at.is_none() {
                    done.failed = true;
                }
                done.reasons.push((container.name.clone(), Some(why)));
                false
            }
        }
    }

    async fn keyring(&self) -> Keyring {
        let mut keyring = Keyring::default();
        let mut missing = Vec::new();
        for secret in spec::spec(&self.pod).image_pull_secrets.iter().flatten().filter(|s| !s.name.is_empty()) {
            match self.context.references.secret(spec::namespace(&self.pod), &secret.name).await {
                Ok(found) => keyring.add(&found),
                Err(_) => missing.push(secret.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event("Warning", "FailedToRetrieveImagePullSecret", &text);
        }
        keyring
    }
}

static EMPTY_KEYRING: std::sync::LazyLock<Keyring> = std::sync::LazyLock::new(Keyring::default);

fn sooner(slot: &mut Option<SystemTime>, at: SystemTime) {
    *slot = Some(slot.map_or(at, |have| have.min(at)));
}

/// `10s`, `1m20s`, `5m0s`: as Go prints whole seconds.
fn go_duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
