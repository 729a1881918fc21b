//! A plan that is being carried out, as the worker sees it: what it tells on
//! its way, and what follows when it is done. The steps are in [`super::steps`].

use std::time::SystemTime;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, RuntimeError, SandboxId};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::deadlines::{RETRY, stretched};
use super::{Stage, Worker, steps};
use crate::plan::Action;
use crate::spec;
use crate::status::{self, WaitReason};
use crate::volume::MountedVolumes;

/// Messages of a running job; it waits when the worker is behind.
pub(super) const PROGRESS_CAPACITY: usize = 16;

/// What a job tells while it runs.
pub(super) enum Progress {
    /// A sandbox was made.
    Sandbox(SandboxId),
    /// A container was made.
    Container(ContainerId),
    /// A container is being started again; its back-off goes up.
    Restarting { name: String, hash: u64, ended: SystemTime },
}

/// What came of a job.
#[derive(Default)]
pub(super) struct JobDone {
    /// Per container: why it waits, or that it was started.
    pub(super) reasons: Vec<(String, Option<WaitReason>)>,
    /// Volumes, when they were set up.
    pub(super) volumes: Option<MountedVolumes>,
    /// Something was done in the runtime.
    pub(super) changed: bool,
    /// Look again then.
    pub(super) retry_at: Option<SystemTime>,
    /// Something failed that has no time of its own for a retry.
    pub(super) failed: bool,
    /// Resources that containers have now, by name.
    pub(super) actual: Vec<(String, Option<core::ResourceRequirements>)>,
    /// Limits were to be changed in place.
    pub(super) resized: Option<Result<(), String>>,
    /// The job was the end of the pod's containers.
    pub(super) ended: Option<Result<(), RuntimeError>>,
}

impl Worker {
    pub(super) fn start_job(&mut self, actions: Vec<Action>) {
        if spec::spec(&self.pod).host_users == Some(false) && self.users.is_none() {
            self.users = self.context.users.take();
        }
        self.save_record();
        let job = steps::Job {
            context: self.context.clone(),
            pod: self.pod.clone(),
            actions,
            observed: self.observed.clone(),
            volumes: self.volumes.clone(),
            actual: self.resizing.record.actual.clone(),
            users: self.users,
            cancel: self.cancel.clone(),
            progress: self.progress.0.clone(),
        };
        self.volumes_stale = false;
        self.job = Some(Box::pin(job.run()));
    }

    pub(super) async fn note(&mut self, progress: Progress) {
        match progress {
            Progress::Sandbox(id) => {
                self.context.pods.owns(&id, &self.uid);
                self.ids.sandboxes.push(id);
                self.observe().await;
                let status = self.generate(false);
                self.set_status(status::without_early_end(&self.status, status));
            }
            Progress::Container(id) => self.ids.containers.push(id),
            Progress::Restarting { name, hash, ended } => self.backoffs.next(&name, hash, ended, SystemTime::now()),
        }
    }

    pub(super) async fn job_done(&mut self, done: JobDone) {
        self.job = None;
        while let Ok(progress) = self.progress.1.try_recv() {
            match progress {
                Progress::Sandbox(id) => {
                    self.context.pods.owns(&id, &self.uid);
                    self.ids.sandboxes.push(id);
                }
                Progress::Container(id) => self.ids.containers.push(id),
                Progress::Restarting { name, hash, ended } => self.backoffs.next(&name, hash, ended, SystemTime::now()),
            }
        }
        self.observe().await;
        if let Some(volumes) = done.volumes {
            self.volumes = volumes;
        }
        let mut look_again = false;
        let mut news = false;
        for (name, reason) in done.reasons {
            let old = self.reasons.get(&name);
            match reason {
                Some(reason) => {
                    news |= reason.shows_at_once(old);
                    look_again |= reason.looks_again(old);
                    self.reasons.insert(name, reason);
                }
                None => {
                    self.reasons.remove(&name);
                }
            }
        }
        if !done.actual.is_empty() || done.resized.is_some() {
            self.resized(done.actual, done.resized);
        }
        if let Some(result) = done.ended {
            self.containers_ended(result);
            return;
        }
        if done.failed {
            self.retries = self.retries.saturating_add(1);
        } else if done.changed {
            self.retries = 0;
        }
        let now = SystemTime::now();
        self.retry_at = match done.retry_at {
            Some(at) => Some(Instant::now() + at.duration_since(now).unwrap_or_default()),
            None if done.failed => Some(Instant::now() + stretched(RETRY, &self.uid, self.retries)),
            None => None,
        };
        if self.stage != Stage::Syncing {
            self.dirty = true;
            return;
        }
        if done.changed || look_again {
            self.after_write = news;
            self.dirty = true;
        } else if news {
            let status = self.generate(false);
            self.set_status(status::without_early_end(&self.status, status));
        }
    }
}

/// Waits for a job to end; for ever if there is none.
pub(super) async fn poll_job(job: &mut Option<BoxFuture<'static, JobDone>>) -> JobDone {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}
