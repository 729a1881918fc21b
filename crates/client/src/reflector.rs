//! Follows one collection for as long as it is wanted: list and watch, again
//! after ends and errors. What is kept of it is the sink's business.

use std::time::{Duration, Instant};

use ::api::error::Chain;
use futures_util::StreamExt;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, ListParams};
use crate::backoff::Backoff;
use crate::error::ClientError;
use crate::watch::{WatchEvent, WatchParams};

/// First and longest wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// See [`RETRY_FIRST`].
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// A watch that lasted this long counts as healthy: its end is routine.
const HEALTHY_WATCH: Duration = Duration::from_secs(2);
/// Objects a page where the server does not stream the initial state.
const PAGE_OBJECTS: u32 = 500;
/// Failures after which the log says so at warn.
const WARN_AFTER_ATTEMPTS: u32 = 6;

/// What a reflector requires of a kind.
pub trait Object: Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static {}
impl<K: Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// Receives the state of a collection. Calls come one at a time, in the order
/// of the server's revisions; the sink must not block.
pub trait Sink<K>: Send + 'static {
    /// The whole state: what is not in it is gone.
    fn replaced(&mut self, objects: Vec<K>);
    /// New or changed.
    fn applied(&mut self, object: K);
    /// Gone; its last state.
    fn deleted(&mut self, object: K);
    /// Everything up to this revision has been handed over. After each of the
    /// other calls, and when nothing happened for a while.
    fn reached(&mut self, _revision: &str) {}
}

/// Follows one collection into a sink.
pub struct Reflector<K, S> {
    api: Api<K>,
    params: WatchParams,
    sink: S,
    keep_managed_fields: bool,
    /// The server refused to stream the initial state.
    list_first: bool,
    revision: Option<String>,
}

impl<K: Object, S: Sink<K>> Reflector<K, S> {
    /// Selectors are taken from `params`; revisions are the reflector's own.
    pub fn new(api: Api<K>, params: WatchParams, sink: S) -> Self {
        Self { api, params, sink, keep_managed_fields: false, list_first: false, revision: None }
    }

    /// Hands `metadata.managedFields` to the sink too; they are most of an
    /// object's size and few need them.
    pub fn keep_managed_fields(mut self) -> Self {
        self.keep_managed_fields = true;
        self
    }

    /// Follows until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Dropped at any await: the sink is only called between them.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow() => {}
        }
    }

    /// Never ends.
    async fn follow(&mut self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
        loop {
            let started = Instant::now();
            let result = self.once().await;
            if started.elapsed() >= HEALTHY_WATCH {
                backoff.reset();
            }
            match result {
                Ok(()) if backoff.attempts() == 0 && started.elapsed() >= HEALTHY_WATCH => continue,
                Ok(()) => {}
                Err(error) if error.is_gone() => {
                    tracing::debug!(collection = self.api.path(), "the watched revision is gone, listing again");
                    self.revision = None;
                }
                Err(error) => {
                    let (collection, err) = (self.api.path(), Chain(&error));
                    if backoff.attempts() == WARN_AFTER_ATTEMPTS {
                        tracing::warn!(collection, %err, "cannot follow the collection, retrying");
                    } else {
                        tracing::debug!(collection, %err, "cannot follow the collection, retrying");
                    }
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// One connection: the initial state if it is not known, then events.
    async fn once(&mut self) -> Result<(), ClientError> {
        if self.revision.is_none() {
            if self.list_first {
                return self.list().await;
            }
            match self.stream(true).await {
                // Servers without the feature call the parameter invalid.
                Err(error) if error.is_invalid() || error.code() == Some(400) => self.list_first = true,
                result => return result,
            }
            return self.list().await;
        }
        self.stream(false).await
    }

    async fn list(&mut self) -> Result<(), ClientError> {
        let mut params = ListParams {
            label_selector: self.params.label_selector.clone(),
            field_selector: self.params.field_selector.clone(),
            limit: Some(PAGE_OBJECTS),
            ..ListParams::default()
        };
        let mut objects = Vec::new();
        loop {
            let page = self.api.list(&params).await?;
            objects.extend(page.items.into_iter().map(|object| self.trim(object)));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => {
                    self.revision = page.metadata.resource_version;
                    break;
                }
            }
        }
        self.sink.replaced(objects);
        self.sink.reached(self.revision.as_deref().unwrap_or_default());
        self.stream(false).await
    }

    async fn stream(&mut self, initial: bool) -> Result<(), ClientError> {
        let params = WatchParams {
            resource_version: if initial { None } else { self.revision.clone() },
            send_initial_events: initial,
            ..self.params.clone()
        };
        let mut events = self.api.watch(&params).await?;
        let mut state = initial.then(Vec::new);
        while let Some(event) = events.next().await {
            let event = event?;
            match (event, &mut state) {
                (WatchEvent::Added(object) | WatchEvent::Modified(object), Some(state)) => {
                    state.push(self.trim(object));
                }
                (WatchEvent::Added(object) | WatchEvent::Modified(object), None) => {
                    let object = self.trim(object);
                    self.revision.clone_from(&object.metadata().resource_version);
                    self.sink.applied(object);
                    self.sink.reached(self.revision.as_deref().unwrap_or_default());
                }
                (WatchEvent::Deleted(object), None) => {
                    self.revision.clone_from(&object.metadata().resource_version);
                    self.sink.deleted(object);
                    self.sink.reached(self.revision.as_deref().unwrap_or_default());
                }
                // Deleted while the initial state was on its way.
                (WatchEvent::Deleted(object), Some(state)) => {
                    let gone = object.metadata();
                    state.retain(|kept: &K| {
                        let kept = kept.metadata();
                        (&kept.name, &kept.namespace) != (&gone.name, &gone.namespace)
                    });
                }
                (WatchEvent::Bookmark { resource_version, initial_events_end }, _) => {
                    if let Some(objects) = state.take_if(|_| initial_events_end) {
                        self.sink.replaced(objects);
                    }
                    if state.is_none() {
                        self.sink.reached(&resource_version);
                        self.revision = Some(resource_version);
                    }
                }
            }
        }
        Ok(())
    }

    fn trim(&self, mut object: K) -> K {
        if !self.keep_managed_fields {
            object.metadata_mut().managed_fields = None;
        }
        object
    }
}
