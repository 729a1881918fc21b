//! Follows the metadata of every kind that can be collected, and what kinds
//! there are.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use api::error::Chain;
use api::gvk::GroupVersion;
use client::backoff::Backoff;
use client::reflector::{Reflector, Sink};
use client::{Client, PartialObjectMetadata, WatchParams};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Collector;
use super::graph::{Identity, Owner, Seen, Uid};
use super::plan::{FOREGROUND, ORPHAN};
use client::discovery::{Resource, by_kind, discover};

/// Kinds whose objects nobody owns or misses and that are many.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Kinds whose objects change what kinds there are.
const DEFINING: [&str; 2] = ["customresourcedefinitions", "apiservices"];
/// A new kind is served a moment after its definition says so: look again
/// after these times.
const LOOK_AGAIN: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn run(client: Client, collector: Arc<Collector>, shutdown: CancellationToken) {
    let mut followers = Followers { client, collector, running: JoinSet::new(), stops: HashMap::new(), shutdown };
    followers.run().await;
    while followers.running.join_next().await.is_some() {}
}

struct Followers {
    client: Client,
    collector: Arc<Collector>,
    running: JoinSet<()>,
    stops: HashMap<(String, String), CancellationToken>,
    shutdown: CancellationToken,
}

impl Followers {
    async fn run(&mut self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
        let mut again = LOOK_AGAIN.iter();
        loop {
            let wait = match self.look().await {
                Ok(()) => {
                    backoff.reset();
                    again.next().copied()
                }
                Err(()) => Some(backoff.next_delay()),
            };
            let timer = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.collector.rediscover.notified() => again = LOOK_AGAIN.iter(),
                () = timer => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), ()> {
        let discovered = tokio::select! {
            () = self.shutdown.cancelled() => return Ok(()),
            discovered = discover(&self.client) => discovered,
        };
        let discovered = match discovered {
            Ok(discovered) => discovered,
            Err(error) => {
                tracing::debug!(err = %Chain(&error), "cannot discover what is served, retrying");
                return Err(());
            }
        };
        *self.collector.kinds.write().unwrap_or_else(PoisonError::into_inner) = by_kind(&discovered.resources);
        let wanted: HashMap<_, _> = discovered
            .resources
            .into_iter()
            .filter(is_collected)
            .map(|resource| ((resource.gvr.group_version.group.clone(), resource.gvr.resource.clone()), resource))
            .collect();
        // What a server that does not answer serves is not gone.
        let failed: HashSet<_> =
            discovered.failed.iter().filter_map(|text| GroupVersion::parse(text)).map(|gv| gv.group).collect();
        self.stops.retain(|key, stop| {
            let stays = wanted.contains_key(key) || failed.contains(&key.0);
            if !stays {
                stop.cancel();
            }
            stays
        });
        let new: Vec<_> = wanted.into_iter().filter(|(key, _)| !self.stops.contains_key(key)).collect();
        self.collector.unlisted.send_modify(|unlisted| *unlisted = Some(unlisted.unwrap_or(0) + new.len()));
        for (key, resource) in new {
            let stop = self.shutdown.child_token();
            self.stops.insert(key, stop.clone());
            let api = self.client.metadata(&resource.gvr, None);
            let sink = Follow::new(self.collector.clone(), &resource);
            self.running.spawn(Reflector::new(api, WatchParams::default(), sink).run(stop));
        }
        Ok(())
    }
}

fn is_collected(resource: &Resource) -> bool {
    let name = (resource.gvr.group_version.group.as_str(), resource.gvr.resource.as_str());
    !IGNORED.contains(&name) && ["delete", "list", "watch"].iter().all(|verb| resource.can(verb))
}

/// Puts one kind's objects into the graph.
struct Follow {
    collector: Arc<Collector>,
    group: Arc<str>,
    kind: Arc<str>,
    is_listed: bool,
    is_defining: bool,
}

impl Follow {
    fn new(collector: Arc<Collector>, resource: &Resource) -> Self {
        Self {
            collector,
            group: resource.gvr.group_version.group.as_str().into(),
            kind: resource.kind.as_str().into(),
            is_listed: false,
            is_defining: DEFINING.contains(&resource.gvr.resource.as_str()),
        }
    }

    fn seen(&self, metadata: &ObjectMeta) -> Seen {
        let text = |text: &Option<String>| Arc::<str>::from(text.as_deref().unwrap_or_default());
        let has = |finalizer: &str| metadata.finalizers.iter().flatten().any(|known| known == finalizer);
        Seen {
            uid: text(&metadata.uid),
            identity: Identity {
                group: self.group.clone(),
                kind: self.kind.clone(),
                namespace: text(&metadata.namespace),
                name: text(&metadata.name),
            },
            owners: metadata.owner_references.iter().flatten().map(owner).collect(),
            is_deleting: metadata.deletion_timestamp.is_some(),
            is_foreground: has(FOREGROUND),
            is_orphaning: has(ORPHAN),
        }
    }

    fn changed(&self) {
        if self.is_defining {
            self.collector.rediscover.notify_one();
        }
    }

    fn note_listed(&mut self) {
        if !std::mem::replace(&mut self.is_listed, true) {
            self.collector.unlisted.send_modify(|unlisted| *unlisted = unlisted.map(|count| count.saturating_sub(1)));
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.note_listed();
    }
}

impl Sink<PartialObjectMetadata> for Follow {
    fn replaced(&mut self, objects: Vec<PartialObjectMetadata>) {
        let mut work = Vec::new();
        {
            let mut graph = self.collector.graph();
            let seen: Vec<_> = objects.iter().map(|object| self.seen(&object.metadata)).collect();
            let uids: HashSet<Uid> = seen.iter().map(|seen| seen.uid.clone()).collect();
            for seen in seen {
                graph.apply(seen, &mut work);
            }
            graph.retain(&self.group, &self.kind, &uids, &mut work);
        }
        self.collector.push(work);
        self.note_listed();
        self.changed();
    }

    fn applied(&mut self, object: PartialObjectMetadata) {
        let mut work = Vec::new();
        self.collector.graph().apply(self.seen(&object.metadata), &mut work);
        self.collector.push(work);
        self.changed();
    }

    fn deleted(&mut self, object: PartialObjectMetadata) {
        let mut work = Vec::new();
        self.collector.graph().remove(&object.metadata.uid.as_deref().unwrap_or_default().into(), &mut work);
        self.collector.push(work);
        self.changed();
    }
}

/// A reference as the graph has it; the version does not matter.
pub(super) fn owner(reference: &OwnerReference) -> Owner {
    let group = GroupVersion::parse(&reference.api_version).map(|version| version.group).unwrap_or_default();
    Owner {
        uid: reference.uid.as_str().into(),
        group: group.into(),
        kind: reference.kind.as_str().into(),
        name: reference.name.as_str().into(),
        blocks: reference.block_owner_deletion == Some(true),
    }
}
