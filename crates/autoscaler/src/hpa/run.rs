//! Running the loop: its settings, its copies of the API's objects, its tasks.

use std::sync::Arc;
use std::time::Duration;

use client::events::Recorder;
use client::queue::Queue;
use client::{Client, Controller, Informer, WatchParams};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decide::Settings;
use super::grouping::Timing;
use super::look::Looker;
use super::memory::Memories;
use super::scale::Mapper;
use super::sources::Sources;
use super::triggers;

/// Autoscalers looked at at the same time; upstream's number.
const CONCURRENT: usize = 5;
/// The shortest sample period that is kept: below it looks would meet the same
/// samples again.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

/// Settings; the defaults are upstream's.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoscalerConfig {
    /// From one sample of an autoscaler's metrics to the next; at least 100 ms.
    pub sample_period: Duration,
    /// How far back recommendations hold a scale down, where an autoscaler
    /// does not say.
    pub downscale_stabilization: Duration,
    /// How far usage may be from its target, as a part of it, without a
    /// change, where an autoscaler does not say.
    pub tolerance: f64,
    /// How long after its start a pod's CPU counts only while it is ready.
    pub cpu_initialization_period: Duration,
    /// A pod that became unready this soon after its start never was ready.
    pub initial_readiness_delay: Duration,
}

impl Default for AutoscalerConfig {
    fn default() -> Self {
        Self {
            sample_period: Duration::from_secs(15),
            downscale_stabilization: Duration::from_secs(300),
            tolerance: 0.1,
            cpu_initialization_period: Duration::from_secs(300),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// The HorizontalPodAutoscaler loop.
pub struct Autoscaler {
    client: Client,
    config: AutoscalerConfig,
}

impl Autoscaler {
    /// Nothing happens before [`Autoscaler::run`].
    pub fn new(client: Client, config: AutoscalerConfig) -> Self {
        Self { client, config }
    }

    /// Runs until `shutdown`, then waits for the looks under way. Where several
    /// processes run it, run it inside `client::leader`.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { client, config } = self;
        let (autoscalers, autoscalers_task) = Informer::new(client.all(), WatchParams::default());
        let (pods, pods_task) = Informer::trimmed(client.all(), WatchParams::default(), trim);
        let (recorder, recorder_task) = Recorder::new(client.clone(), "horizontal-pod-autoscaler", None);
        let mapper = Arc::new(Mapper::new(client.clone()));
        let memories = Arc::new(Memories::default());
        let queue = Queue::new();
        let looker = Arc::new(Looker {
            client: client.clone(),
            autoscalers: autoscalers.clone(),
            pods: pods.clone(),
            recorder,
            sources: Sources::new(client, Arc::clone(&mapper), signed(config.sample_period)),
            mapper,
            memories: Arc::clone(&memories),
            queue: queue.clone(),
            settings: Settings {
                tolerance: config.tolerance,
                downscale_stabilization: config.downscale_stabilization,
                timing: Timing {
                    cpu_initialization_period: signed(config.cpu_initialization_period),
                    initial_readiness_delay: signed(config.initial_readiness_delay),
                },
            },
            period: config.sample_period.max(SHORTEST_PERIOD),
            started: Instant::now(),
        });
        let controller = Controller::new("horizontalpodautoscaler", move |key| Arc::clone(&looker).look(key))
            .fed_by(&queue)
            .watches(&autoscalers, triggers::of_autoscaler)
            .watches(&pods, move |delta| triggers::of_pod(delta, &memories))
            .concurrency(CONCURRENT);
        let mut running = JoinSet::new();
        running.spawn(autoscalers_task.run(shutdown.clone()));
        running.spawn(pods_task.run(shutdown.clone()));
        running.spawn(recorder_task.run(shutdown.clone()));
        running.spawn(controller.run(shutdown.clone()));
        while let Some(ended) = running.join_next().await {
            // A panic is our mistake: the rest must not go on as if nothing
            // had happened.
            if let Err(error) = ended {
                tracing::error!(err = %error, "a task of the autoscaler ended abnormally, stopping");
                shutdown.cancel();
            }
        }
    }
}

/// Keeps of a pod what decisions read.
fn trim(pod: &mut Pod) {
    pod.metadata.annotations = None;
    if let Some(spec) = pod.spec.take() {
        let slim = |container: Container| Container {
            name: container.name,
            resources: container.resources,
            restart_policy: container.restart_policy,
            ..Container::default()
        };
        pod.spec = Some(PodSpec {
            containers: spec.containers.into_iter().map(slim).collect(),
            init_containers: spec.init_containers.map(|all| all.into_iter().map(slim).collect()),
            overhead: spec.overhead,
            resources: spec.resources,
            ..PodSpec::default()
        });
    }
    if let Some(status) = pod.status.take() {
        pod.status = Some(PodStatus {
            conditions: status.conditions.map(|mut all| {
                all.retain(|condition| condition.type_ == "Ready");
                all
            }),
            phase: status.phase,
            start_time: status.start_time,
            // What is allocated counts for pods with requests of their own.
            container_statuses: status.container_statuses.filter(|_| has_own_requests(pod)),
            init_container_statuses: status.init_container_statuses.filter(|_| has_own_requests(pod)),
            ..PodStatus::default()
        });
    }
}

fn has_own_requests(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.resources.is_some())
}
