//! Probes of one pod: when each is due, what its results add up to
//! (`prober.worker`, 1.36). Due times are real deadlines; nothing ticks.

mod check;
mod grpc;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, ContainerState, Runtime};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::observe::Observation;
use crate::spec;

pub(crate) use check::Outcome;

/// What a probe's results add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Enough successes in a row.
    Success,
    /// Enough failures in a row.
    Failure,
    /// Not enough of either yet.
    Unknown,
}

/// Verdicts about one container; `None` where it has no such probe or none is
/// known.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct ProbeResults {
    /// Of the startup probe.
    pub(crate) startup: Option<Verdict>,
    /// Of the liveness probe.
    pub(crate) liveness: Option<Verdict>,
    /// Of the readiness probe.
    pub(crate) readiness: Option<Verdict>,
}

/// Which probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Holds the others back until it succeeds.
    Startup,
    /// Failure restarts the container.
    Liveness,
    /// Decides about readiness.
    Readiness,
}

impl Kind {
    /// As messages spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

struct Probe {
    kind: Kind,
    container: Arc<core::Container>,
    id: ContainerId,
    spec: core::Probe,
    /// Results of the same kind in a row.
    run: i32,
    last: Option<Verdict>,
    /// It has done its work for this container.
    on_hold: bool,
    running: bool,
    due: Instant,
    /// Wait before the next try while the container was never ready.
    eager: Duration,
}

/// First wait after a failed readiness probe of a container that was never
/// ready, doubled up to the probe's period. A fresh app is often ready some
/// milliseconds after its first probe; waiting a whole period for that would
/// be most of a cold start.
const FIRST_EAGER: Duration = Duration::from_millis(5);

impl Probe {
    fn period(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.spec.period_seconds.unwrap_or(10)).unwrap_or(10).max(1))
    }
}

/// One probe's end.
pub(crate) struct Finished {
    id: ContainerId,
    kind: Kind,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What a finished probe means for the pod.
pub(crate) struct Report {
    /// The container's name.
    pub(crate) container: String,
    /// Which probe.
    pub(crate) kind: Kind,
    /// What came of it.
    pub(crate) outcome: Outcome,
    /// A verdict changed.
    pub(crate) changed: bool,
}

/// The probes of one pod.
#[derive(Default)]
pub(crate) struct Prober {
    probes: Vec<Probe>,
    results: HashMap<ContainerId, ProbeResults>,
    tasks: JoinSet<Finished>,
    /// While the pod is frozen.
    paused: bool,
    /// Only readiness goes on while the pod ends.
    ending: bool,
}

impl Prober {
    /// Verdicts by container.
    pub(crate) fn results(&self) -> &HashMap<ContainerId, ProbeResults> {
        &self.results
    }

    /// Containers of a former run of the agent: what the API shows of them
    /// stays true until a probe says otherwise.
    pub(crate) fn adopt(&mut self, observed: &Observation, status: &core::PodStatus, runtime_name: &str) {
        let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        for container in all {
            let Some(id) =
                container.container_id.as_deref().and_then(|id| id.strip_prefix(&format!("{runtime_name}://")))
            else {
                continue;
            };
            if !observed.containers.iter().any(|o| o.id.0 == id && o.running()) {
                continue;
            }
            let verdict = |yes: bool| yes.then_some(Verdict::Success);
            self.results.insert(
                ContainerId(id.into()),
                ProbeResults {
                    startup: verdict(container.started == Some(true)),
                    liveness: None,
                    readiness: verdict(container.ready),
                },
            );
        }
    }

    /// Probes for running containers that are new, none for those that ended.
    pub(crate) fn sync(&mut self, pod: &core::Pod, observed: &Observation) {
        self.probes.retain(|p| observed.containers.iter().any(|o| o.id == p.id && o.running()));
        self.results.retain(|id, _| observed.containers.iter().any(|o| o.id == *id && o.running()));
        let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
        for container in spec::main_containers(pod).iter().chain(sidecars) {
            let Some(running) = observed.find(&container.name) else { continue };
            let ContainerState::Running { started, .. } = running.state else { continue };
            if self.probes.iter().any(|p| p.id == running.id) {
                continue;
            }
            self.add(container, &running.id, started);
        }
    }

    fn add(&mut self, container: &core::Container, id: &ContainerId, started: SystemTime) {
        let probes = [
            (Kind::Startup, &container.startup_probe),
            (Kind::Liveness, &container.liveness_probe),
            (Kind::Readiness, &container.readiness_probe),
        ];
        let shared = Arc::new(container.clone());
        let known = self.results.get(id).copied().unwrap_or_default();
        let mut results = known;
        let age = SystemTime::now().duration_since(started).unwrap_or_default();
        for (kind, probe) in probes {
            let Some(spec) = probe.clone() else { continue };
            match kind {
                Kind::Startup => results.startup = results.startup.or(Some(Verdict::Unknown)),
                Kind::Liveness => results.liveness = results.liveness.or(Some(Verdict::Success)),
                Kind::Readiness => results.readiness = results.readiness.or(Some(Verdict::Failure)),
            }
            let delay = Duration::from_secs(u64::try_from(spec.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
            self.probes.push(Probe {
                kind,
                container: shared.clone(),
                id: id.clone(),
                spec,
                run: 0,
                last: None,
                on_hold: kind == Kind::Startup && known.startup == Some(Verdict::Success),
                running: false,
                due: Instant::now() + delay.saturating_sub(age),
                eager: FIRST_EAGER,
            });
        }
        if container.startup_probe.is_none() {
            results.startup = None;
        }
        self.results.insert(id.clone(), results);
    }

    /// The pod ends: it is neither restarted nor does its start matter.
    pub(crate) fn end(&mut self) {
        self.ending = true;
    }

    /// No probe runs until [`Prober::resume`].
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// Probes go on; the first waits its period.
    pub(crate) fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            let now = Instant::now();
            for probe in &mut self.probes {
                probe.due = now + probe.period();
            }
        }
    }

    fn may_run(&self, probe: &Probe) -> bool {
        if self.paused || probe.running || probe.on_hold {
            return false;
        }
        let started = match self.results.get(&probe.id).and_then(|r| r.startup) {
            None => true,
            Some(verdict) => verdict == Verdict::Success,
        };
        match probe.kind {
            Kind::Startup => !started && !self.ending,
            Kind::Liveness => started && !self.ending,
            Kind::Readiness => started,
        }
    }

    /// When the next probe is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.probes.iter().filter(|p| self.may_run(p)).map(|p| p.due).min()
    }

    /// Starts the probes that are due.
    pub(crate) fn start_due(&mut self, runtime: &Arc<dyn Runtime>, pod: &core::Pod, pod_ip: Option<IpAddr>) {
        let now = Instant::now();
        for index in 0..self.probes.len() {
            if self.probes[index].due > now || !self.may_run(&self.probes[index]) {
                continue;
            }
            let probe = &mut self.probes[index];
            probe.running = true;
            let period = probe.period();
            while probe.due <= now {
                probe.due += period;
            }
            let (id, kind, spec) = (probe.id.clone(), probe.kind, probe.spec.clone());
            let (container, runtime, name) = (probe.container.clone(), runtime.clone(), spec::full_name(pod));
            self.tasks.spawn(async move {
                let outcome = check::run(&*runtime, &spec, &container, &id, pod_ip, &name).await;
                Finished { id, kind, outcome }
            });
        }
    }

    /// Waits for a probe to end; for ever if none runs.
    pub(crate) async fn finished(&mut self) -> Finished {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(finished)) => return finished,
                // Cancelled with the pod.
                Some(Err(_)) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// Takes a result into account; `None` if the container is gone.
    pub(crate) fn record(&mut self, finished: Finished) -> Option<Report> {
        let Finished { id, kind, outcome } = finished;
        let probe = self.probes.iter_mut().find(|p| p.id == id && p.kind == kind)?;
        probe.running = false;
        let container = probe.container.name.clone();
        let report = |changed| Some(Report { container: container.clone(), kind, outcome: outcome.clone(), changed });
        let verdict = match &outcome {
            Outcome::Success | Outcome::Warning(_) => Verdict::Success,
            Outcome::Failure(_) => Verdict::Failure,
            // Nothing was learnt.
            Outcome::Unknown(_) => return report(false),
        };
        if verdict == Verdict::Success {
            probe.eager = probe.period();
        } else if kind == Kind::Readiness && probe.eager < probe.period() {
            probe.due = probe.due.min(Instant::now() + probe.eager);
            probe.eager *= 2;
        }
        if probe.last == Some(verdict) {
            probe.run = probe.run.saturating_add(1);
        } else {
            probe.last = Some(verdict);
            probe.run = 1;
        }
        let needed = match verdict {
            Verdict::Failure => probe.spec.failure_threshold.unwrap_or(3),
            _ => probe.spec.success_threshold.unwrap_or(1),
        };
        if probe.run < needed {
            return report(false);
        }
        if kind == Kind::Startup || (kind == Kind::Liveness && verdict == Verdict::Failure) {
            probe.on_hold = true;
            probe.run = 0;
        }
        let results = self.results.entry(id.clone()).or_default();
        let slot = match kind {
            Kind::Startup => &mut results.startup,
            Kind::Liveness => &mut results.liveness,
            Kind::Readiness => &mut results.readiness,
        };
        let changed = *slot != Some(verdict);
        *slot = Some(verdict);
        if kind == Kind::Startup && verdict == Verdict::Success {
            // The others have waited for this; they are due now.
            let now = Instant::now();
            for other in self.probes.iter_mut().filter(|p| p.id == id && p.kind != Kind::Startup) {
                other.due = other.due.min(now);
            }
        }
        report(changed)
    }
}

#[cfg(test)]
mod tests;
