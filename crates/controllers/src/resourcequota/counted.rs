//! Numbers of objects of the kinds that quotas count by `count/…`: follows the
//! metadata of just these kinds, as long as a quota names them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::error::Chain;
use api::gvk::{GroupVersion, GroupVersionResource};
use api::quota::Evaluator;
use client::backoff::Backoff;
use client::queue::Queue;
use client::reflector::{Reflector, Sink};
use client::{Client, ClientError, Informer, ObjectKey, PartialObjectMetadata, WatchParams};
use k8s_openapi::api::core::v1::ResourceQuota;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use client::discovery::discover;

/// First and longest wait after discovery failed.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// See [`RETRY_FIRST`].
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Group and plural.
type Kind = (String, String);

/// Names by namespace, of the kinds that are listed already.
#[derive(Default)]
pub(super) struct Counted {
    kinds: Mutex<HashMap<Kind, HashMap<String, HashSet<String>>>>,
}

impl Counted {
    /// Objects in a namespace; `None` while the kind is not listed.
    pub(super) fn number(&self, group: &str, plural: &str, namespace: &str) -> Option<usize> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.get(&(group.to_owned(), plural.to_owned()))?;
        Some(kind.get(namespace).map_or(0, HashSet::len))
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Kind, HashMap<String, HashSet<String>>>)) {
        change(&mut self.kinds.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The kinds that a quota counts by number.
fn kinds_of(quota: &ResourceQuota) -> BTreeSet<Kind> {
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    let kinds = hard.filter_map(|(name, _)| Evaluator::counted_by(name));
    kinds.map(|(group, plural)| (group.to_owned(), plural.to_owned())).collect()
}

/// Follows what quotas name until `shutdown`; quotas that a change concerns
/// are put into `queue`.
pub(super) async fn run(
    client: Client,
    quotas: Informer<ResourceQuota>,
    counted: Arc<Counted>,
    queue: Queue<ObjectKey>,
    shutdown: CancellationToken,
) {
    let mut changes = quotas.subscribe();
    let defined = Arc::new(Notify::new());
    let mut followers = Followers {
        client,
        quotas,
        counted,
        queue,
        defined: defined.clone(),
        running: JoinSet::new(),
        stops: HashMap::new(),
        shutdown: shutdown.clone(),
    };
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut retry = None;
    loop {
        let timer = async {
            match retry {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            change = changes.next() => if change.is_none() { break },
            () = defined.notified() => {}
            () = timer => {}
        }
        // One look is enough for all that has changed so far.
        while changes.try_next().is_some() {}
        tokio::select! {
            () = shutdown.cancelled() => break,
            looked = followers.look() => match looked {
                Ok(()) => {
                    backoff.reset();
                    retry = None;
                }
                Err(error) => {
                    tracing::debug!(err = %Chain(&error), "cannot discover what quotas count, retrying");
                    retry = Some(backoff.next_delay());
                }
            }
        }
    }
    while followers.running.join_next().await.is_some() {}
}

struct Followers {
    client: Client,
    quotas: Informer<ResourceQuota>,
    counted: Arc<Counted>,
    queue: Queue<ObjectKey>,
    /// A kind was defined: it may be one that a quota waits for.
    defined: Arc<Notify>,
    running: JoinSet<()>,
    stops: HashMap<Kind, CancellationToken>,
    shutdown: CancellationToken,
}

impl Followers {
    async fn look(&mut self) -> Result<(), ClientError> {
        let wanted: BTreeSet<Kind> = self.quotas.list().iter().flat_map(|quota| kinds_of(quota)).collect();
        let (stops, counted) = (&mut self.stops, &self.counted);
        stops.retain(|kind, stop| {
            let stays = wanted.contains(kind) || kind.1 == DEFINITIONS.1;
            if !stays {
                stop.cancel();
                counted.change(|kinds| drop(kinds.remove(kind)));
            }
            stays
        });
        let mut missing: BTreeSet<Kind> = wanted.into_iter().filter(|kind| !self.stops.contains_key(kind)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let served = discover(&self.client).await?;
        for resource in served.resources {
            let kind = (resource.gvr.group_version.group.clone(), resource.gvr.resource.clone());
            if resource.can("list") && resource.can("watch") && missing.remove(&kind) {
                self.follow(kind, &resource.gvr);
            }
        }
        if !missing.is_empty() {
            let kind = (DEFINITIONS.0.to_owned(), DEFINITIONS.1.to_owned());
            if !self.stops.contains_key(&kind) {
                let group_version = GroupVersion::new(DEFINITIONS.0, "v1");
                let gvr = GroupVersionResource { group_version, resource: DEFINITIONS.1.to_owned() };
                let stop = self.shutdown.child_token();
                self.stops.insert(kind, stop.clone());
                let sink = Definitions(self.defined.clone());
                self.running
                    .spawn(Reflector::new(self.client.metadata(&gvr, None), WatchParams::default(), sink).run(stop));
            }
        }
        Ok(())
    }

    fn follow(&mut self, kind: Kind, gvr: &GroupVersionResource) {
        let stop = self.shutdown.child_token();
        self.stops.insert(kind.clone(), stop.clone());
        let sink =
            Names { kind, counted: self.counted.clone(), quotas: self.quotas.clone(), queue: self.queue.clone() };
        let api = self.client.metadata(gvr, None);
        self.running.spawn(Reflector::new(api, WatchParams::default(), sink).run(stop));
    }
}

const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

/// Says that definitions came or changed.
struct Definitions(Arc<Notify>);

impl Sink<PartialObjectMetadata> for Definitions {
    fn replaced(&mut self, _objects: Vec<PartialObjectMetadata>) {
        self.0.notify_one();
    }

    fn applied(&mut self, _object: PartialObjectMetadata) {
        self.0.notify_one();
    }

    fn deleted(&mut self, _object: PartialObjectMetadata) {}
}

/// Keeps the names of one kind.
struct Names {
    kind: Kind,
    counted: Arc<Counted>,
    quotas: Informer<ResourceQuota>,
    queue: Queue<ObjectKey>,
}

impl Names {
    fn changed(&self, namespace: Option<&str>) {
        let quotas = match namespace {
            Some(namespace) => self.quotas.in_namespace(namespace),
            None => self.quotas.list(),
        };
        for quota in quotas.iter().filter(|quota| kinds_of(quota).contains(&self.kind)) {
            self.queue.add(ObjectKey::of(&**quota));
        }
    }
}

fn place(object: PartialObjectMetadata) -> (String, String) {
    (object.metadata.namespace.unwrap_or_default(), object.metadata.name.unwrap_or_default())
}

impl Sink<PartialObjectMetadata> for Names {
    fn replaced(&mut self, objects: Vec<PartialObjectMetadata>) {
        let mut names: HashMap<String, HashSet<String>> = HashMap::new();
        for (namespace, name) in objects.into_iter().map(place) {
            names.entry(namespace).or_default().insert(name);
        }
        self.counted.change(|kinds| drop(kinds.insert(self.kind.clone(), names)));
        self.changed(None);
    }

    fn applied(&mut self, object: PartialObjectMetadata) {
        // The API server has charged it.
        let (namespace, name) = place(object);
        self.counted.change(|kinds| {
            kinds.entry(self.kind.clone()).or_default().entry(namespace).or_default().insert(name);
        });
    }

    fn deleted(&mut self, object: PartialObjectMetadata) {
        let (namespace, name) = place(object);
        self.counted.change(|kinds| {
            let Some(kind) = kinds.get_mut(&self.kind) else { return };
            let Some(names) = kind.get_mut(&namespace) else { return };
            names.remove(&name);
            if names.is_empty() {
                kind.remove(&namespace);
            }
        });
        self.changed(Some(&namespace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_counted_by_namespace_and_the_quota_is_looked_at_again() {
        let quota = json!({"metadata": {"namespace": "a", "name": "q"}, "spec": {"hard": {"secrets": "1"}}});
        let queue = Queue::new();
        let counted = Arc::new(Counted::default());
        let mut names = Names {
            kind: (String::new(), "secrets".into()),
            counted: counted.clone(),
            quotas: Informer::fixed(vec![serde_json::from_value(quota).unwrap()]),
            queue: queue.clone(),
        };
        let secret = |namespace: &str, name: &str| -> PartialObjectMetadata {
            serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}})).unwrap()
        };
        assert_eq!(counted.number("", "secrets", "a"), None);
        names.replaced(vec![secret("a", "x"), secret("b", "x")]);
        names.applied(secret("a", "y"));
        assert_eq!(counted.number("", "secrets", "a"), Some(2));
        names.deleted(secret("a", "x"));
        names.deleted(secret("a", "y"));
        assert_eq!(counted.number("", "secrets", "a"), Some(0));
        assert_eq!(queue.len(), 1);
    }
}
