//! This node's part in [`Sleeper`]s: it has the Services held that they name,
//! and says in their status what is held and that a client waits. Who is taken
//! to zero or back is decided elsewhere, from that status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::elastic::{self, Sleeper, SleeperNode};
use api::error::Chain;
use api::types::apimachinery::pkg::apis::meta::v1::Time;
use client::{Client, Informer, ObjectKey, Patch, WatchParams};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Hold, HoldLimits, Holding, Holds, Released};

/// Writes under way at the same time: a mass wake must not queue one by one.
const WRITES: usize = 16;
/// After a failed write.
const RETRY: Duration = Duration::from_secs(5);
/// Releases of one Service that wait to be counted; later ones are not.
const RELEASES: usize = 1024;

/// What the queue's thread told of a Service.
#[derive(Default)]
struct Heard {
    held_since: Option<Time>,
    released: Vec<Duration>,
}

#[derive(Default)]
struct Ear {
    heard: Mutex<BTreeMap<ObjectKey, Heard>>,
    notify: Notify,
}

impl Ear {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Heard>> {
        // Nothing panics while it is held.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything heard; releases are given out once.
    fn take(&self) -> BTreeMap<ObjectKey, Heard> {
        let mut heard = self.lock();
        let all = heard.iter_mut().map(|(service, one)| {
            let given = Heard { held_since: one.held_since.clone(), released: std::mem::take(&mut one.released) };
            (service.clone(), given)
        });
        let all = all.collect();
        heard.retain(|_, one| one.held_since.is_some());
        all
    }

    fn held(&self, service: &ObjectKey) {
        self.lock().entry(service.clone()).or_default().held_since = Some(Time(api::time::now()));
        self.notify.notify_one();
    }

    fn released(&self, service: &ObjectKey, released: Released) {
        let mut heard = self.lock();
        let entry = heard.entry(service.clone()).or_default();
        entry.held_since = None;
        if released.packets > 0 && entry.released.len() < RELEASES {
            entry.released.push(released.first_held);
        }
        drop(heard);
        self.notify.notify_one();
    }
}

/// See the module.
pub struct HeldSleepers {
    client: Client,
    node: String,
    wanted: watch::Sender<Arc<Holds>>,
    applied: watch::Receiver<Arc<Holds>>,
    ear: Arc<Ear>,
    /// What the status of each says of this node, as last written or found.
    told: BTreeMap<ObjectKey, SleeperNode>,
}

impl HeldSleepers {
    /// The node's part, and what its proxy needs for
    /// [`holding`](crate::service::ServiceProxy::holding).
    pub fn new(client: Client, node: &str) -> (Self, Holding) {
        let (wanted, wants) = watch::channel(Arc::new(Holds::new()));
        let (applies, applied) = watch::channel(Arc::new(Holds::new()));
        let ear = Arc::new(Ear::default());
        let (on_held, on_released) = (Arc::clone(&ear), Arc::clone(&ear));
        let holding = Holding {
            wanted: wants,
            applied: applies,
            on_held: Arc::new(move |service| on_held.held(service)),
            on_released: Arc::new(move |service, released| on_released.released(service, released)),
            limits: HoldLimits::default(),
        };
        (Self { client, node: node.to_owned(), wanted, applied, ear, told: BTreeMap::new() }, holding)
    }

    /// Until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let (sleepers, task) = Informer::<Sleeper>::new(self.client.all(), WatchParams::default());
        tokio::join!(task.run(shutdown.clone()), self.follow(sleepers, &shutdown));
    }

    async fn follow(mut self, sleepers: Informer<Sleeper>, shutdown: &CancellationToken) {
        if shutdown.run_until_cancelled(sleepers.synced()).await.is_none() {
            return;
        }
        // Also an empty answer counts: what a former run held is over.
        self.wanted.send_replace(Arc::new(wanted(&sleepers.list())));
        let mut changes = sleepers.subscribe();
        let mut failed = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                change = changes.next() => if change.is_none() { return },
                changed = self.applied.changed() => if changed.is_err() { return },
                () = self.ear.notify.notified() => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
            let now = sleepers.list();
            let wanted = wanted(&now);
            self.wanted.send_if_modified(|before| {
                let other = **before != wanted;
                if other {
                    *before = Arc::new(wanted);
                }
                other
            });
            failed = !self.tell(&now).await;
        }
    }

    /// Writes what changed; false if something could not be written.
    async fn tell(&mut self, sleepers: &[Arc<Sleeper>]) -> bool {
        let mut writes = JoinSet::new();
        let mut good = true;
        // What is told later than this is told by the next round.
        let heard = self.ear.take();
        let known: Vec<ObjectKey> = sleepers.iter().map(|sleeper| ObjectKey::of(&**sleeper)).collect();
        self.told.retain(|key, _| known.contains(key));
        for (key, sleeper) in known.into_iter().zip(sleepers) {
            let before = self.told.entry(key.clone()).or_insert_with(|| found(sleeper, &self.node)).clone();
            let entry = self.entry(sleeper, &before, &heard);
            if entry == before {
                continue;
            }
            while writes.len() >= WRITES {
                good &= self.written(writes.join_next().await);
            }
            let (client, node) = (self.client.clone(), self.node.clone());
            writes.spawn(async move { (key.clone(), write(&client, &node, &key, entry).await) });
        }
        while !writes.is_empty() {
            good &= self.written(writes.join_next().await);
        }
        good
    }

    fn written(&mut self, write: Option<Result<(ObjectKey, Option<SleeperNode>), tokio::task::JoinError>>) -> bool {
        match write {
            Some(Ok((key, Some(entry)))) => {
                self.told.insert(key, entry);
                true
            }
            Some(Ok((_, None)) | Err(_)) => false,
            None => true,
        }
    }

    /// What there is to say of a Sleeper now.
    fn entry(&self, sleeper: &Sleeper, before: &SleeperNode, heard: &BTreeMap<ObjectKey, Heard>) -> SleeperNode {
        let applied = self.applied.borrow();
        let keys: Vec<ObjectKey> = services(sleeper).collect();
        let first = keys.first().and_then(|key| applied.get(key)).copied();
        let same = keys.iter().all(|key| applied.get(key).copied() == first);
        let mut entry = SleeperNode { name: self.node.clone(), wakes: before.wakes.clone(), ..SleeperNode::default() };
        entry.holding = first.filter(|_| same).map(|hold| match hold {
            Hold::WhenUnserved => elastic::Hold::WhenUnserved,
            Hold::Always => elastic::Hold::Always,
        });
        let heard = || keys.iter().filter_map(|key| heard.get(key));
        entry.held_since = heard().filter_map(|one| one.held_since.clone()).min_by_key(|time| time.0);
        for took in heard().flat_map(|one| &one.released) {
            entry.wakes.record(*took);
        }
        entry
    }
}

fn services(sleeper: &Sleeper) -> impl Iterator<Item = ObjectKey> + '_ {
    let namespace = sleeper.metadata.namespace.as_deref().unwrap_or_default();
    sleeper.spec.services.iter().map(move |name| ObjectKey::new(namespace, name.as_str()))
}

/// What the Sleepers want held; of two wishes for one Service the stronger.
fn wanted(sleepers: &[Arc<Sleeper>]) -> Holds {
    let mut holds = Holds::new();
    for sleeper in sleepers.iter().filter(|sleeper| sleeper.metadata.deletion_timestamp.is_none()) {
        let Some(hold) = sleeper.spec.hold else { continue };
        let hold = match hold {
            elastic::Hold::WhenUnserved => Hold::WhenUnserved,
            elastic::Hold::Always => Hold::Always,
        };
        for service in services(sleeper) {
            let held = holds.entry(service).or_insert(hold);
            *held = (*held).max(hold);
        }
    }
    holds
}

/// What an earlier run wrote.
fn found(sleeper: &Sleeper, node: &str) -> SleeperNode {
    let nodes = sleeper.status.iter().flat_map(|status| &status.nodes);
    let own = nodes.into_iter().find(|entry| entry.name == node).cloned();
    own.unwrap_or_else(|| SleeperNode { name: node.to_owned(), ..SleeperNode::default() })
}

async fn write(client: &Client, node: &str, key: &ObjectKey, entry: SleeperNode) -> Option<SleeperNode> {
    let patch = json!({
        "apiVersion": "elastic.darter.dev/v1alpha1", "kind": "Sleeper",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        "status": {"nodes": [entry]},
    });
    let patch = Patch::Apply { value: patch, manager: format!("darter-node-{node}"), force: true };
    match client.namespaced::<Sleeper>(&key.namespace).patch_status(&key.name, &patch).await {
        Ok(_) => Some(entry),
        // It is gone, and with it what there was to say.
        Err(error) if error.is_not_found() => Some(entry),
        Err(err) => {
            tracing::warn!(sleeper = %key, err = %Chain(&err), "a Sleeper's status could not be written");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(name: &str, hold: Option<elastic::Hold>, services: &[&str]) -> Arc<Sleeper> {
        let object = json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                     "policy": "p", "replicas": 1, "services": services, "hold": hold},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_stronger_wish_for_a_service_counts_and_none_holds_nothing() {
        let all = [
            sleeper("a", Some(elastic::Hold::WhenUnserved), &["one", "two"]),
            sleeper("b", Some(elastic::Hold::Always), &["two"]),
            sleeper("c", None, &["three"]),
        ];
        let key = |name: &str| ObjectKey::new("n", name);
        let expected = Holds::from([(key("one"), Hold::WhenUnserved), (key("two"), Hold::Always)]);
        assert_eq!(wanted(&all), expected);
    }
}
