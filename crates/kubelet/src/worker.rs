//! One pod's life on this node: a task that takes events, decides by
//! [`crate::plan`] and [`crate::status`], and has steps carried out by
//! [`steps`]. It owns everything of its pod; nobody else acts on it.

mod actuate;
mod container;
mod deadlines;
mod ending;
mod incoming;
mod job;
mod resize;
mod rung;
mod sandbox;
mod steps;
mod storage;
mod writes;

use std::sync::Arc;
use std::time::SystemTime;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, IdRange, RuntimeError, SandboxId};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::deadlines::sleep_until;
use self::incoming::annotated;
use self::job::{JobDone, PROGRESS_CAPACITY, Progress, poll_job};
use crate::backoff::Backoffs;
use crate::context::Context;
use crate::mailbox::Mailbox;
use crate::observe::{self, Observation};
use crate::plan;
use crate::probe::Prober;
use crate::spec;
use crate::status::{self, EndedByAgent, Reasons};
use crate::volume::MountedVolumes;

/// Where the pod is in its life. It only moves forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Started and kept running.
    Syncing,
    /// Its containers are being ended.
    Ending,
    /// Nothing of it runs or will.
    Ended,
}

/// Ids of what the runtime has of the pod, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Ids {
    pub(crate) sandboxes: Vec<SandboxId>,
    pub(crate) containers: Vec<ContainerId>,
}

/// One pod's worker.
pub(crate) struct Worker {
    context: Arc<Context>,
    mailbox: Arc<Mailbox>,
    uid: String,
    /// As the API has it, with the agent's own annotations.
    pod: Arc<core::Pod>,
    seen_at: String,
    stage: Stage,
    ids: Ids,
    observed: Observation,
    /// The status that should be in the API.
    status: core::PodStatus,
    writes: writes::Writes,
    reasons: Reasons,
    backoffs: Backoffs,
    prober: Prober,
    volumes: MountedVolumes,
    volumes_stale: bool,
    ended: Option<EndedByAgent>,
    /// What the API showed when the end began.
    status_at_end: Option<core::PodStatus>,
    gone: bool,
    cleaned: bool,
    dirty: bool,
    job: Option<BoxFuture<'static, JobDone>>,
    cancel: CancellationToken,
    progress: (mpsc::Sender<Progress>, mpsc::Receiver<Progress>),
    retry_at: Option<Instant>,
    /// The next steps wait until the API shows the present status.
    after_write: bool,
    retries: u32,
    storage: storage::Storage,
    /// Its users on the machine, if it has a user namespace of its own.
    users: Option<IdRange>,
    resizing: resize::Resizing,
    rung: Option<rung::RungKeeper>,
    rung_write: Option<BoxFuture<'static, ()>>,
    /// The API was told that the pod does not sleep any more.
    rung_cleared: bool,
}

impl Worker {
    /// A worker for this pod. `ids` is what a former run of the agent left.
    pub(crate) fn new(context: Arc<Context>, mailbox: Arc<Mailbox>, pod: Arc<core::Pod>, ids: Ids) -> Self {
        let seen_at = jiff::Timestamp::now().to_string();
        let uid = spec::uid(&pod).to_owned();
        let own = annotated(&pod, &seen_at);
        let status = spec::status(&pod).clone();
        let resizing = resize::Resizing::new(&context.config.root_dir, &own, !ids.sandboxes.is_empty());
        let own = Arc::new(resizing.record.allotted.apply((*own).clone()));
        context.pods.update(&uid, own.clone());
        Self {
            writes: writes::Writes::new(&pod),
            context,
            mailbox,
            uid,
            pod: own,
            seen_at,
            stage: Stage::Syncing,
            ids,
            observed: Observation::default(),
            status,
            reasons: Reasons::new(),
            backoffs: Backoffs::default(),
            prober: Prober::default(),
            volumes: MountedVolumes::new(),
            volumes_stale: true,
            ended: None,
            status_at_end: None,
            gone: false,
            cleaned: false,
            dirty: true,
            job: None,
            cancel: CancellationToken::new(),
            progress: mpsc::channel(PROGRESS_CAPACITY),
            retry_at: None,
            after_write: false,
            retries: 0,
            storage: storage::Storage::default(),
            users: None,
            resizing,
            rung: None,
            rung_write: None,
            rung_cleared: false,
        }
    }

    /// Runs until the pod is gone from API and machine, or until `shutdown`,
    /// which leaves its containers running.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.context.references.register(&self.pod);
        self.observe().await;
        self.users = self.observed.sandboxes.iter().find_map(|sandbox| sandbox.users);
        self.try_resize();
        self.prober.adopt(&self.observed, &self.status, &self.context.runtime_name);
        loop {
            self.step().await;
            if self.gone && self.cleaned {
                break;
            }
            let deadline = self.next_deadline();
            tokio::select! {
                () = shutdown.cancelled() => break,
                mail = self.mailbox.take() => self.receive(mail).await,
                Some(progress) = self.progress.1.recv() => self.note(progress).await,
                done = poll_job(&mut self.job) => self.job_done(done).await,
                result = self.writes.finished() => self.written(result),
                finished = self.prober.finished() => self.probed(finished),
                usage = self.storage.measured() => self.storage_measured(&usage),
                () = poll_rung(&mut self.rung_write) => self.rung_write = None,
                () = sleep_until(deadline) => self.dirty = true,
            }
        }
        self.drop_rung().await;
        if !shutdown.is_cancelled() {
            self.context.references.unregister(&self.uid);
            self.context.tokens.forget(&self.uid);
            self.context.puller.forget(&self.uid);
        }
    }

    /// Everything that follows from the present state.
    async fn step(&mut self) {
        if self.stage == Stage::Syncing
            && (self.pod.metadata.deletion_timestamp.is_some() || self.gone || self.ended.is_some())
        {
            self.begin_ending();
        }
        if self.dirty && self.job.is_none() {
            self.dirty = false;
            match self.stage {
                Stage::Syncing => self.sync(),
                Stage::Ending => self.end_containers(),
                Stage::Ended => self.ended_step().await,
            }
        }
        self.prober.start_due(&self.context.runtime, &self.pod, self.observed.ips().first().copied());
        self.keep_storage();
        self.keep_rung().await;
        self.tell_rung();
        self.writes.start(&self.context.client, &self.pod, &self.status, self.stage == Stage::Ended);
    }

    /// Brings status and runtime in line with the specification.
    fn sync(&mut self) {
        if self.check_deadline() {
            self.end_containers();
            return;
        }
        self.prober.sync(&self.pod, &self.observed);
        self.follow_resize();
        let status = self.generate(false);
        let phase = status.phase.clone().unwrap_or_default();
        let terminal = status::is_terminal(&phase);
        self.set_status(status::without_early_end(&self.status, status));
        if terminal {
            self.begin_ending();
            self.end_containers();
            return;
        }
        if self.after_write && !self.writes.settled(&self.pod, &self.status) {
            // The failure must be seen before the next attempt hides it.
            self.dirty = false;
            return;
        }
        self.after_write = false;
        let restart_all = self.restarting_all();
        let actions = plan::plan(&plan::Input {
            pod: &self.pod,
            observed: &self.observed,
            probes: self.prober.results(),
            backoffs: &self.backoffs,
            actual: &self.resizing.record.actual,
            restart_all,
            now: SystemTime::now(),
        });
        self.retry_at = None;
        if actions.is_empty() && !self.volumes_stale {
            return;
        }
        self.start_job(actions);
    }

    fn restarting_all(&self) -> bool {
        let condition = self.status.conditions.iter().flatten().find(|c| c.type_ == "AllContainersRestarting");
        condition.is_some_and(|c| c.status == "True")
    }

    /// The status that follows from what is known now.
    fn generate(&self, terminal: bool) -> core::PodStatus {
        status::generate(&status::Input {
            pod: &self.pod,
            observed: &self.observed,
            old: &self.status,
            reasons: &self.reasons,
            probes: self.prober.results(),
            terminal,
            ended: self.ended.as_ref(),
            actual: &self.resizing.record.actual,
            resize: if terminal { Vec::new() } else { self.resizing.conditions() },
            host_ips: self.context.host_ips(),
            runtime_name: &self.context.runtime_name,
        })
    }

    fn set_status(&mut self, status: core::PodStatus) {
        let status = status::settle(&self.status, status, SystemTime::now());
        if status != self.status {
            let ended = |status: &core::PodStatus| status::is_terminal(status.phase.as_deref().unwrap_or_default());
            let ends = ended(&status) && !ended(&self.status);
            self.status = status;
            let mut pod = (*self.pod).clone();
            pod.status = Some(self.status.clone());
            self.context.pods.update(&self.uid, Arc::new(pod));
            if ends {
                self.context.pods.room();
            }
        }
    }

    /// Asks the runtime about everything it has of the pod.
    async fn observe(&mut self) {
        let runtime = &self.context.runtime;
        let mut observed = Observation::default();
        let mut ids = Ids::default();
        for id in &self.ids.sandboxes {
            match runtime.sandbox(id).await {
                Ok(status) => {
                    observed.sandboxes.push(status);
                    ids.sandboxes.push(id.clone());
                }
                Err(RuntimeError::NotFound { .. }) => {}
                Err(err) => {
                    tracing::warn!(uid = %self.uid, err = %api::error::Chain(&err), "sandbox status is not available");
                    return;
                }
            }
        }
        for id in &self.ids.containers {
            match runtime.container(id).await {
                Ok(status) => {
                    observed.containers.push(observe::container(status));
                    ids.containers.push(id.clone());
                }
                Err(RuntimeError::NotFound { .. }) => {}
                Err(err) => {
                    tracing::warn!(uid = %self.uid, err = %api::error::Chain(&err), "container status is not available");
                    return;
                }
            }
        }
        let count = spec::main_containers(&self.pod).len()
            + spec::init_containers(&self.pod).len()
            + spec::ephemeral_containers(&self.pod).len();
        observe::share_messages(&mut observed.containers, count);
        self.observed = observed.sorted();
        self.ids = ids;
    }
}

async fn poll_rung(write: &mut Option<BoxFuture<'static, ()>>) {
    match write {
        Some(write) => write.await,
        None => std::future::pending().await,
    }
}
