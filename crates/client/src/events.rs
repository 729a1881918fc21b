//! Records what happened to an object as core/v1 Events. Losing one is allowed:
//! whatever must be known is in a status.
//!
//! As upstream's recorder: an event that repeats is counted, ten that differ
//! only in their message within ten minutes are combined, and one source may
//! write 25 about an object at once, then one in five minutes.

mod correlate;

use ::api::error::Chain;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{Metadata, Resource};
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::Patch;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::ClientError;

use self::correlate::{Correlator, Verdict};

/// Events that wait to be written; more are dropped. Upstream's queue has as many.
const QUEUE_EVENTS: usize = 1000;
/// Attempts to write one event while the server cannot be reached.
const WRITE_ATTEMPTS: u32 = 12;
/// First and longest wait between them.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// See [`RETRY_FIRST`].
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// As planned.
    Normal,
    /// Someone may want to look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Records events for one component. Cloning shares the queue.
#[derive(Clone)]
pub struct Recorder {
    source: EventSource,
    queue: mpsc::Sender<Event>,
}

/// Writes what a [`Recorder`] was told. Its owner runs it.
#[must_use = "events are written by the task"]
pub struct RecorderTask {
    client: Client,
    queue: mpsc::Receiver<Event>,
    correlator: Correlator,
}

/// A reference to an object, for its events.
pub fn reference<K: Metadata<Ty = ObjectMeta> + Resource>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// For a component (`deployment-controller`) and, for node agents, a host.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> (Recorder, RecorderTask) {
        let (sender, receiver) = mpsc::channel(QUEUE_EVENTS);
        let source = EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        let recorder = Recorder { source, queue: sender };
        (recorder, RecorderTask { client, queue: receiver, correlator: Correlator::default() })
    }

    /// The same queue under another component's name.
    pub fn named(&self, component: &str) -> Recorder {
        let source = EventSource { component: Some(component.to_owned()), host: self.source.host.clone() };
        Recorder { source, queue: self.queue.clone() }
    }

    /// Records an event. Returns at once; writes later.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let now = Timestamp::now();
        let name = object.name.as_deref().unwrap_or_default();
        let namespace = object.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: object.clone(),
            type_: Some(kind.as_str().to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            ..Event::default()
        };
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, name, "event dropped: too many wait or the recorder has ended");
        }
    }

    /// Records a normal event about an object at hand.
    pub fn normal<K: Metadata<Ty = ObjectMeta>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.event(&reference(object), EventType::Normal, reason, message);
    }

    /// Records a warning about an object at hand.
    pub fn warning<K: Metadata<Ty = ObjectMeta>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.event(&reference(object), EventType::Warning, reason, message);
    }
}

impl RecorderTask {
    /// Writes events until `shutdown` or until every recorder is gone.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                event = self.queue.recv() => event,
            };
            let Some(event) = event else { return };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.write(event) => {}
            }
        }
    }

    async fn write(&mut self, event: Event) {
        let (key, verdict) = self.correlator.observe(event);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
        loop {
            match self.once(&verdict).await {
                Ok(Some(name)) => return self.correlator.written(key, name),
                Ok(None) => return,
                // The server refused it and would again.
                Err(error @ ClientError::Api(_)) => {
                    return tracing::debug!(err = %Chain(&error), "event refused");
                }
                Err(error) if backoff.attempts() + 1 >= WRITE_ATTEMPTS => {
                    return tracing::warn!(err = %Chain(&error), "event lost: the server cannot be reached");
                }
                Err(_) => tokio::time::sleep(backoff.next_delay()).await,
            }
        }
    }

    /// The name under which the event now is, or none if it is left out.
    async fn once(&self, verdict: &Verdict) -> Result<Option<String>, ClientError> {
        match verdict {
            Verdict::Skip => Ok(None),
            Verdict::Create(event) => self.create(event).await.map(Some),
            Verdict::Count { name, event } => {
                let patch = json!({
                    "count": event.count,
                    "lastTimestamp": event.last_timestamp,
                    "message": event.message,
                });
                let api = self.client.of::<Event>(event);
                match api.patch(name, &Patch::Strategic(patch)).await {
                    Ok(_) => Ok(Some(name.clone())),
                    // It has expired since.
                    Err(error) if error.is_not_found() => self.create(event).await.map(Some),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn create(&self, event: &Event) -> Result<String, ClientError> {
        self.client.of(event).create(event).await?;
        Ok(event.metadata.name.clone().unwrap_or_default())
    }
}
