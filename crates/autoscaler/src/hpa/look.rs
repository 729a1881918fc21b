//! One look at one autoscaler: reads what the decision needs, and writes what
//! it says. Decides nothing.

use std::sync::Arc;
use std::time::Duration;

use api::error::Chain;
use api::selector::Selector;
use client::events::{EventType, Recorder, reference};
use client::informer::Behind;
use client::queue::Queue;
use client::{Action, Client, ClientError, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::decide::{self, Course, Moment, Observed, Report, Settings};
use super::memory::{Memories, selects};
use super::pace;
use super::scale::{Mapper, Target};
use super::sources::Sources;

/// Attempts to write a status that others write as well.
const STATUS_ATTEMPTS: u32 = 5;

/// Why a look has to be repeated.
#[derive(thiserror::Error, Debug)]
pub(crate) enum LookError {
    /// The status could not be written.
    #[error("failed to update status for {name}")]
    Status {
        /// The autoscaler's name.
        name: String,
        /// The cause.
        #[source]
        source: ClientError,
    },
    /// Own writes do not show yet.
    #[error(transparent)]
    Behind(#[from] Behind),
}

/// What looks need.
pub(crate) struct Looker {
    pub(crate) client: Client,
    pub(crate) autoscalers: Informer<HorizontalPodAutoscaler>,
    pub(crate) pods: Informer<Pod>,
    pub(crate) recorder: Recorder,
    pub(crate) mapper: Arc<Mapper>,
    pub(crate) sources: Sources,
    pub(crate) memories: Arc<Memories>,
    pub(crate) queue: Queue<ObjectKey>,
    pub(crate) settings: Settings,
    pub(crate) period: Duration,
    /// The steady clock's zero.
    pub(crate) started: Instant,
}

impl Looker {
    fn now(&self) -> Moment {
        Moment { wall: Timestamp::now(), steady: self.started.elapsed() }
    }

    /// Looks at the autoscaler of this key, if it is due.
    pub(crate) async fn look(self: Arc<Self>, key: ObjectKey) -> Result<Action, LookError> {
        self.autoscalers.caught_up().await?;
        let Some(autoscaler) = self.autoscalers.get(&key) else {
            if self.memories.forget(&key) {
                // Others may have waited for this one to let go.
                self.again(&key.namespace, &key);
            }
            return Ok(Action::Done);
        };
        let uid = autoscaler.metadata.uid.clone().unwrap_or_default();
        let spec = autoscaler.spec.clone();
        let held =
            self.memories.with(&key, &uid, |memory| pace::hold(memory, &spec, self.period, self.started.elapsed()));
        if let Some(wait) = held {
            return Ok(Action::After(wait));
        }
        let report = self.observe(&key, &uid, &autoscaler).await;
        let failures = self.memories.with(&key, &uid, |memory| {
            memory.failures = if report.failed { memory.failures.saturating_add(1) } else { 0 };
            memory.unsettled = report.unsettled;
            memory.looked = Some((self.started.elapsed(), spec));
            memory.failures
        });
        let about = reference(&*autoscaler);
        for event in &report.events {
            let kind = if event.warning { EventType::Warning } else { EventType::Normal };
            self.recorder.event(&about, kind, event.reason, event.message.as_str());
        }
        if autoscaler.status.clone().unwrap_or_default() != report.status
            && let Err(source) = self.write_status(&autoscaler, report.status).await
        {
            self.recorder.event(&about, EventType::Warning, "FailedUpdateStatus", Chain(&source).to_string());
            return Err(LookError::Status { name: key.name.to_string(), source });
        }
        Ok(Action::After(pace::next(self.period, failures)))
    }

    /// Those of a namespace that could not tell a number look again.
    fn again(&self, namespace: &str, but: &ObjectKey) {
        for key in self.memories.keys(namespace, |memory| memory.failures > 0) {
            if key != *but {
                self.queue.add(key);
            }
        }
    }

    async fn observe(&self, key: &ObjectKey, uid: &str, autoscaler: &HorizontalPodAutoscaler) -> Report {
        let spec = autoscaler.spec.clone();
        let target = match Target::read(&self.mapper, &key.namespace, &spec.scale_target_ref).await {
            Ok(target) => target,
            Err(error) => {
                self.learn(key, uid, None);
                return decide::without_scale(autoscaler, &Chain(&error).to_string(), self.now());
            }
        };
        let selector = Selector::parse(&target.scale.selector).ok().filter(|selector| !selector.is_empty());
        let pods = self.selected(&key.namespace, selector.as_ref());
        if self.learn(key, uid, selector.clone()) {
            self.again(&key.namespace, key);
            for other in self.memories.controlling(&key.namespace, &pods) {
                if other != *key {
                    self.queue.add(other);
                }
            }
        }
        let controlling = self.memories.controlling(&key.namespace, &pods);
        let asks = decide::course(autoscaler, target.scale.replicas) == Course::Metrics && controlling.len() < 2;
        let answers = match &selector {
            Some(selector) if asks => {
                let metrics = spec.metrics.as_deref().unwrap_or_default();
                self.sources.ask(&key.namespace, &selector.to_string(), metrics).await
            }
            _ => Vec::new(),
        };
        let (scale, now) = (target.scale.clone(), self.now());
        let observed =
            Observed { autoscaler, scale: &scale, pods: &pods, controlling: &controlling, answers: &answers };
        let decision =
            self.memories.with(key, uid, |memory| decide::decide(&observed, &mut memory.history, &self.settings, now));
        let Some(rescale) = decision.rescale.clone() else { return decision.kept() };
        match target.write(&self.client, rescale.to).await {
            Ok(()) => {
                let (from, to) = (rescale.from, rescale.to);
                tracing::debug!(namespace = %key.namespace, name = %key.name, from, to, "rescaled");
                let steady = self.started.elapsed();
                self.memories.with(key, uid, |memory| {
                    memory.rescaled = Some(steady);
                    if spec.behavior.is_some() {
                        memory.history.rescaled(from, to, steady);
                    }
                });
                decision.rescaled()
            }
            Err(error) => decision.refused(&Chain(&error).to_string()),
        }
    }

    /// Notes which pods are the target's; true if that is new.
    fn learn(&self, key: &ObjectKey, uid: &str, selector: Option<Selector>) -> bool {
        self.memories.with(key, uid, |memory| {
            let news = memory.selector != selector;
            memory.selector = selector;
            news
        })
    }

    fn selected(&self, namespace: &str, selector: Option<&Selector>) -> Vec<Arc<Pod>> {
        let Some(selector) = selector else { return Vec::new() };
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|pod| selects(selector, pod));
        pods
    }

    /// Writes the status, over what others wrote in between.
    async fn write_status(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), ClientError> {
        let api = self.client.of(autoscaler);
        let name = autoscaler.metadata.name.as_deref().unwrap_or_default();
        let mut object = autoscaler.clone();
        let mut attempt = 1;
        loop {
            object.status = Some(status.clone());
            match api.replace_status(name, &object).await {
                Ok(written) => {
                    self.autoscalers.wrote(written.metadata.resource_version.as_deref());
                    return Ok(());
                }
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.is_conflict() && attempt < STATUS_ATTEMPTS => {
                    let newest = api.get_opt(name).await?;
                    match newest.filter(|newest| newest.metadata.uid == autoscaler.metadata.uid) {
                        Some(newest) => object = newest,
                        None => return Ok(()),
                    }
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
