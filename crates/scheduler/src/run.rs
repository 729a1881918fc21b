//! The scheduler against an API server: reflectors feed the core, the core's
//! steps go to the lanes, their outcomes come back. One loop, woken by events
//! and by the core's own deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Client;
use client::events::Recorder;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::act::{Actor, Job, Lanes, Outcome};
use crate::core::{Core, CoreConfig, Step};
use crate::follow::{self, Shared};
use crate::metrics::Counters;

/// Jobs under way at most. More would only wait in the API server.
const MAX_JOBS: usize = 512;
/// Decisions in a row before other tasks get a turn.
const DECISIONS_PER_TURN: usize = 32;

/// Settings of a scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Pods with this `spec.schedulerName` are ours; also the name in events.
    pub scheduler_name: String,
    /// Starts the sequence by which ties are broken; none: by the clock.
    pub seed: Option<u64>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".into(), seed: None }
    }
}

/// Places pods on nodes until told to stop.
pub struct Scheduler {
    client: Client,
    config: SchedulerConfig,
    shared: Arc<Shared>,
}

/// Reads what the scheduler counts, while it runs and after.
#[derive(Clone, Debug)]
pub struct SchedulerMetrics(Arc<Shared>);

impl SchedulerMetrics {
    /// Prometheus text under upstream's names.
    pub fn text(&self) -> String {
        let (counters, queue) = self.0.with(|core| (core.counters().clone(), core.queue_counts()));
        counters.text(queue)
    }

    /// The counters.
    pub fn counters(&self) -> Arc<Counters> {
        self.0.with(|core| core.counters().clone())
    }
}

impl Scheduler {
    /// Prepares a scheduler; nothing happens before [`Scheduler::run`].
    pub fn new(client: Client, config: SchedulerConfig) -> Self {
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let seed = config.seed.unwrap_or_else(clock);
        let core = Core::new(CoreConfig { scheduler_name: config.scheduler_name.clone(), seed });
        Self { client, config, shared: Shared::new(core) }
    }

    /// What it counts.
    pub fn metrics(&self) -> SchedulerMetrics {
        SchedulerMetrics(self.shared.clone())
    }

    /// Runs until `shutdown`; bindings under way are finished.
    pub async fn run(self, shutdown: CancellationToken) {
        let name: Arc<str> = self.config.scheduler_name.as_str().into();
        let (recorder, recorder_task) = Recorder::new(self.client.clone(), &name, None);
        let mut watches = follow::spawn(&self.shared, &self.client, &shutdown);
        watches.spawn(recorder_task.run(shutdown.clone()));
        let actor = Actor { client: self.client.clone(), recorder, scheduler_name: name };
        let (outcomes, received) = mpsc::channel(MAX_JOBS);
        let lanes = Lanes::spawn(&actor, &outcomes, MAX_JOBS);
        drop((actor, outcomes));
        let mut cycle = Cycle { shared: self.shared, lanes, outcomes: received, under_way: 0 };
        cycle.run(&shutdown).await;
        let Cycle { lanes, outcomes, .. } = cycle;
        drain(lanes.close()).await;
        drop(outcomes);
        drain(watches).await;
    }
}

/// Waits for tasks that end by themselves.
async fn drain(mut tasks: tokio::task::JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the scheduler broke");
        }
    }
}

struct Cycle {
    shared: Arc<Shared>,
    lanes: Lanes,
    outcomes: mpsc::Receiver<Outcome>,
    under_way: usize,
}

impl Cycle {
    async fn run(&mut self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let more = self.shared.is_synced() && self.decide();
            if more {
                tokio::task::yield_now().await;
                self.take_outcomes();
                continue;
            }
            let deadline = self.deadline();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.shared.changed.notified() => {}
                Some(outcome) = self.outcomes.recv() => self.take(outcome),
                () = tokio::time::sleep_until(deadline.into()), if self.under_way < MAX_JOBS => {}
            }
            self.take_outcomes();
        }
    }

    /// When the core has something to do by time alone; far off if never.
    fn deadline(&self) -> Instant {
        const FAR: Duration = Duration::from_secs(3600);
        let deadline = self.shared.with(|core| core.deadline());
        deadline.map_or_else(|| Instant::now() + FAR, |time| self.shared.instant(time))
    }

    /// Takes some steps; true if there may be more.
    fn decide(&mut self) -> bool {
        for _ in 0..DECISIONS_PER_TURN {
            if self.under_way == MAX_JOBS {
                return false;
            }
            let now = self.shared.now();
            let decided = self.shared.with(|core| {
                let started = Instant::now();
                let step = core.next(now);
                if step.is_some() {
                    core.counters().algorithm.observe(started.elapsed());
                }
                step
            });
            let Some(step) = decided else { return false };
            self.send(match step {
                Step::Bind { pod, node } => Job::Bind { pod, node },
                Step::Report(report) => Job::Report(report),
                Step::Preempt { report, victims, outranked, node } => Job::Preempt { report, victims, outranked, node },
                Step::PrepareVolumes { pod, node, plan } => Job::PrepareVolumes { pod, node, plan },
                Step::Skipped { pod } => Job::Skipped { pod },
            });
        }
        true
    }

    fn send(&mut self, job: Job) {
        self.under_way += 1;
        self.lanes.send(job);
    }

    fn take_outcomes(&mut self) {
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.take(outcome);
        }
    }

    fn take(&mut self, outcome: Outcome) {
        self.under_way -= 1;
        let now = self.shared.now();
        match outcome {
            Outcome::Reported => {}
            Outcome::Preempted { uid, succeeded } => self.shared.with(|core| core.preempted(&uid, succeeded, now)),
            Outcome::VolumesRequested { uid, result } => {
                if let Some(report) = self.shared.with(|core| core.volumes_requested(&uid, result, now)) {
                    self.send(Job::Report(report));
                }
            }
            Outcome::Bound { uid, result } => {
                if let Some(report) = self.shared.with(|core| core.bound(&uid, result, now)) {
                    self.send(Job::Report(report));
                }
            }
        }
    }
}
