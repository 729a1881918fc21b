//! One pod's life on this node: a task that takes events, decides by
//! [`crate::plan`] and [`crate::status`], and has steps carried out by
//! [`steps`]. It owns everything of its pod; nobody else acts on it.

mod container;
mod ending;
mod rung;
mod steps;
mod storage;
mod writes;

use std::sync::Arc;
use std::time::SystemTime;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, RuntimeError, SandboxId};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoffs;
use crate::context::Context;
use crate::mailbox::{Mail, Mailbox};
use crate::observe::{self, Observation};
use crate::plan::{self, Action};
use crate::probe::{Kind, Outcome, Prober};
use crate::spec;
use crate::status::{self, EndedByAgent, Reasons, WaitReason};
use crate::volume::MountedVolumes;

/// Retry of a step that failed without a deadline of its own (upstream's
/// `backOffPeriod`), stretched by up to half.
const RETRY: Duration = Duration::from_secs(10);
/// Messages of a running job; it waits when the worker is behind.
const PROGRESS_CAPACITY: usize = 16;

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

/// What a job tells while it runs.
enum Progress {
    /// A sandbox was made.
    Sandbox(SandboxId),
    /// A container was made.
    Container(ContainerId),
    /// A container is being started again; its back-off goes up.
    Restarting { name: String, hash: u64, ended: SystemTime },
}

/// What came of a job.
#[derive(Default)]
struct JobDone {
    /// Per container: why it waits, or that it was started.
    reasons: Vec<(String, Option<WaitReason>)>,
    /// Volumes, when they were set up.
    volumes: Option<MountedVolumes>,
    /// Something was done in the runtime.
    changed: bool,
    /// Look again then.
    retry_at: Option<SystemTime>,
    /// Something failed that has no time of its own for a retry.
    failed: bool,
    /// The job was the end of the pod's containers.
    ended: Option<Result<(), RuntimeError>>,
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
    rung: Option<rung::Rung>,
    rung_write: Option<BoxFuture<'static, ()>>,
}

impl Worker {
    /// A worker for this pod. `ids` is what a former run of the agent left.
    pub(crate) fn new(context: Arc<Context>, mailbox: Arc<Mailbox>, pod: Arc<core::Pod>, ids: Ids) -> Self {
        let seen_at = jiff::Timestamp::now().to_string();
        let uid = spec::uid(&pod).to_owned();
        let own = annotated(&pod, &seen_at);
        let status = spec::status(&pod).clone();
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
            rung: None,
            rung_write: None,
        }
    }

    /// Runs until the pod is gone from API and machine, or until `shutdown`,
    /// which leaves its containers running.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.context.references.register(&self.pod);
        self.observe().await;
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

    fn start_job(&mut self, actions: Vec<Action>) {
        let job = steps::Job {
            context: self.context.clone(),
            pod: self.pod.clone(),
            actions,
            observed: self.observed.clone(),
            volumes: self.volumes.clone(),
            cancel: self.cancel.clone(),
            progress: self.progress.0.clone(),
        };
        self.volumes_stale = false;
        self.job = Some(Box::pin(job.run()));
    }

    /// True if the pod's time is over.
    fn check_deadline(&mut self) -> bool {
        let Some(deadline) = self.active_deadline() else { return false };
        if SystemTime::now() < deadline || self.ended.is_some() {
            return false;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.context.events.pod(&self.pod, "Normal", "DeadlineExceeded", message);
        self.ended =
            Some(EndedByAgent { reason: "DeadlineExceeded".into(), message: message.into(), grace_seconds: None });
        self.begin_ending();
        self.dirty = true;
        true
    }

    fn active_deadline(&self) -> Option<SystemTime> {
        let seconds = u64::try_from(spec::spec(&self.pod).active_deadline_seconds?).ok()?;
        let start = self.status.start_time.as_ref()?.0;
        Some(SystemTime::from(start) + Duration::from_secs(seconds))
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
            host_ips: self.context.host_ips(),
            runtime_name: &self.context.runtime_name,
        })
    }

    fn set_status(&mut self, status: core::PodStatus) {
        let status = status::settle(&self.status, status, SystemTime::now());
        if status != self.status {
            self.status = status;
            let mut pod = (*self.pod).clone();
            pod.status = Some(self.status.clone());
            self.context.pods.update(&self.uid, Arc::new(pod));
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

    async fn receive(&mut self, mail: Mail) {
        if let Some(pod) = mail.object {
            self.object(pod);
        }
        if mail.gone {
            self.gone = true;
            self.dirty = true;
        }
        if mail.reference {
            self.volumes_stale = true;
            self.dirty = true;
        }
        if mail.runtime {
            // A job looks for itself when it is done.
            if self.job.is_none() {
                self.observe().await;
            }
            self.dirty = true;
        }
        if mail.sleep {
            self.rung_changed();
        }
    }

    fn object(&mut self, pod: Arc<core::Pod>) {
        let new = annotated(&pod, &self.seen_at);
        let meta = |p: &core::Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        if meta(&new) != meta(&self.pod) {
            self.volumes_stale = true;
        }
        let spec_changed =
            new.spec != self.pod.spec || new.metadata.deletion_timestamp != self.pod.metadata.deletion_timestamp;
        if spec_changed {
            self.context.references.register(&new);
        }
        let shorter = new.metadata.deletion_grace_period_seconds < self.pod.metadata.deletion_grace_period_seconds
            && new.metadata.deletion_grace_period_seconds.is_some();
        self.writes.api_has(&pod);
        let foreign = conditions_of_others(&new) != conditions_of_others(&self.pod);
        self.dirty |= spec_changed
            || foreign
            || self.volumes_stale
            || meta(&new) != meta(&self.pod)
            || self.stage == Stage::Ended;
        self.pod = new;
        if shorter && self.stage == Stage::Ending {
            // Begin again with less time.
            self.job = None;
            self.dirty = true;
        }
    }

    async fn note(&mut self, progress: Progress) {
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

    async fn job_done(&mut self, done: JobDone) {
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
        let mut pull_failed = false;
        let mut news = false;
        for (name, reason) in done.reasons {
            let old = self.reasons.get(&name);
            match reason {
                Some(reason) => {
                    // That a restart waits is shown with the next look at the pod, so that
                    // the end of the last run stays in sight; every other reason at once.
                    news |= reason.reason != "CrashLoopBackOff" && old != Some(&reason);
                    pull_failed |= reason.reason == "ErrImagePull";
                    self.reasons.insert(name, reason);
                }
                None => {
                    self.reasons.remove(&name);
                }
            }
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
        if done.changed || pull_failed {
            self.after_write = news;
            self.dirty = true;
        } else if news {
            let status = self.generate(false);
            self.set_status(status::without_early_end(&self.status, status));
        }
    }

    fn probed(&mut self, finished: crate::probe::Finished) {
        let Some(report) = self.prober.record(finished) else { return };
        let (kind, name) = (report.kind, &report.container);
        let event =
            |reason: &str, message: String| self.context.events.container(&self.pod, name, "Warning", reason, &message);
        match report.outcome {
            Outcome::Success => {}
            Outcome::Failure(output) => event("Unhealthy", format!("{} probe failed: {output}", kind.as_str())),
            Outcome::Warning(output) => event("ProbeWarning", format!("{} probe warning: {output}", kind.as_str())),
            Outcome::Unknown(err) => {
                event("Unhealthy", format!("{} probe errored and resulted in unknown state: {err}", kind.as_str()));
            }
        }
        if !report.changed {
            return;
        }
        if self.job.is_some() || self.stage != Stage::Syncing {
            // Readiness reaches the API even while other containers start or end.
            if kind != Kind::Liveness {
                let status = self.generate(false);
                self.set_status(status::without_early_end(&self.status, status));
            }
        }
        self.dirty = true;
    }

    fn written(&mut self, result: writes::Written) {
        match result {
            writes::Written::Done => {}
            writes::Written::Gone => self.gone = true,
        }
        self.dirty |= self.after_write || self.stage == Stage::Ended || self.gone;
    }

    fn next_deadline(&self) -> Option<Instant> {
        let wall = |at: SystemTime| Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default();
        let syncing = self.stage == Stage::Syncing && self.job.is_none();
        let deadline =
            self.active_deadline().filter(|_| self.stage == Stage::Syncing && self.ended.is_none()).map(wall);
        let retry = self.retry_at.filter(|_| self.job.is_none());
        let token = self
            .context
            .tokens
            .renew_at(&self.uid)
            .filter(|_| syncing && !self.observed.containers.is_empty())
            .map(wall);
        let rung = self.rung_due().filter(|_| self.rung_write.is_none());
        [deadline, retry, token, rung, self.prober.next_due(), self.writes.retry_at(), self.storage.due()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// The agent's copy: where the pod came from and when it was first seen.
fn annotated(pod: &core::Pod, seen_at: &str) -> Arc<core::Pod> {
    let mut own = pod.clone();
    let notes = own.metadata.annotations.get_or_insert_default();
    notes.entry("kubernetes.io/config.source".into()).or_insert_with(|| "api".into());
    notes.entry("kubernetes.io/config.seen".into()).or_insert_with(|| seen_at.into());
    Arc::new(own)
}

fn conditions_of_others(pod: &core::Pod) -> Vec<&core::PodCondition> {
    let all = spec::status(pod).conditions.iter().flatten();
    all.filter(|c| !status::conditions::OWNED.contains(&c.type_.as_str())).collect()
}

/// Stretches a wait by up to half, differently for each pod and attempt, so
/// that pods that failed together don't return together.
fn stretched(wait: Duration, uid: &str, attempt: u32) -> Duration {
    let seed = uid
        .bytes()
        .fold(attempt.wrapping_mul(0x9e37_79b9), |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    wait + wait.mul_f64(f64::from(seed % 1000) / 2000.0)
}

async fn poll_job(job: &mut Option<BoxFuture<'static, JobDone>>) -> JobDone {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}

async fn poll_rung(write: &mut Option<BoxFuture<'static, ()>>) {
    match write {
        Some(write) => write.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
