//! The copy itself and who wants to know of its changes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;

use super::ObjectKey;
use super::subscription::Pending;
use crate::reflector::{Object, Sink};

pub(super) struct State<K> {
    copy: RwLock<Copy<K>>,
    synced: watch::Sender<bool>,
    /// Changes up to here are in the copy.
    reached: watch::Sender<u64>,
    /// The newest write that the copy must show before it is current.
    wrote: AtomicU64,
}

pub(super) struct Copy<K> {
    pub(super) objects: BTreeMap<ObjectKey, Arc<K>>,
    subscribers: Vec<Weak<Pending<K>>>,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        let copy = Copy { objects: BTreeMap::new(), subscribers: Vec::new() };
        Self {
            copy: RwLock::new(copy),
            synced: watch::Sender::new(false),
            reached: watch::Sender::new(0),
            wrote: AtomicU64::new(0),
        }
    }
}

impl<K> State<K> {
    /// A panic elsewhere cannot leave the map half changed: each change is one
    /// call on it.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Copy<K>> {
        self.copy.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Copy<K>)) {
        change(&mut self.copy.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) async fn synced(&self) {
        // The sender lives in self, so waiting cannot fail.
        drop(self.synced.subscribe().wait_for(|synced| *synced).await);
    }

    pub(super) fn reach(&self, revision: u64) {
        self.reached.send_if_modified(|reached| {
            let newer = revision > *reached;
            *reached = revision.max(*reached);
            newer
        });
    }

    pub(super) fn wrote(&self, revision: u64) {
        self.wrote.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) async fn caught_up(&self) {
        let wrote = self.wrote.load(Ordering::Acquire);
        if *self.reached.borrow() < wrote {
            // The sender lives in self, so waiting cannot fail.
            drop(self.reached.subscribe().wait_for(|reached| *reached >= wrote).await);
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = ObjectKey::new(namespace, "");
        let copy = self.read();
        let range = copy.objects.range(first..);
        range.take_while(|(key, _)| &*key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn subscribe(&self, pending: &Arc<Pending<K>>) {
        self.change(|copy| {
            copy.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
            copy.subscribers.push(Arc::downgrade(pending));
            for key in copy.objects.keys() {
                pending.note(key, None);
            }
        });
        pending.wake();
    }
}

impl<K: Metadata<Ty = ObjectMeta>> State<K> {
    pub(super) fn apply(&self, object: K) {
        let key = ObjectKey::of(&object);
        let object = Arc::new(object);
        self.change(|copy| {
            let (key, old) = match copy.objects.entry(key) {
                Entry::Vacant(entry) => {
                    let key = entry.key().clone();
                    entry.insert(object);
                    (key, None)
                }
                Entry::Occupied(mut entry) => (entry.key().clone(), Some(entry.insert(object))),
            };
            copy.tell(&key, old);
        });
    }

    pub(super) fn delete(&self, object: &K) {
        let key = ObjectKey::of(object);
        self.change(|copy| {
            if let Some(old) = copy.objects.remove(&key) {
                copy.tell(&key, Some(old));
            }
        });
    }

    pub(super) fn replace(&self, objects: Vec<K>) {
        self.change(|copy| {
            let mut before = std::mem::take(&mut copy.objects);
            copy.objects = objects.into_iter().map(|object| (ObjectKey::of(&object), Arc::new(object))).collect();
            let mut changed = Vec::new();
            for (key, object) in &mut copy.objects {
                match before.remove(key) {
                    Some(old) if is_same(&*old, &**object) => *object = old,
                    old => changed.push((key.clone(), old)),
                }
            }
            changed.extend(before.into_iter().map(|(key, old)| (key, Some(old))));
            for (key, old) in changed {
                copy.tell(&key, old);
            }
        });
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }
}

/// The same state of the same object; objects without a revision never are.
fn is_same<K: Metadata<Ty = ObjectMeta>>(a: &K, b: &K) -> bool {
    let (a, b) = (a.metadata(), b.metadata());
    a.resource_version.is_some() && a.resource_version == b.resource_version && a.uid == b.uid
}

impl<K> Copy<K> {
    fn tell(&mut self, key: &ObjectKey, old: Option<Arc<K>>) {
        self.subscribers.retain(|subscriber| {
            let Some(pending) = subscriber.upgrade() else { return false };
            pending.note(key, old.clone());
            pending.wake();
            true
        });
    }
}

/// Fills the copy from a reflector.
pub(super) struct Copied<K>(pub(super) Arc<State<K>>);

impl<K: Object> Sink<K> for Copied<K> {
    fn replaced(&mut self, objects: Vec<K>) {
        self.0.replace(objects);
    }

    fn applied(&mut self, object: K) {
        self.0.apply(object);
    }

    fn deleted(&mut self, object: K) {
        self.0.delete(&object);
    }

    fn reached(&mut self, revision: &str) {
        self.0.reach(super::revision(revision));
    }
}

/// Fills the copy with trimmed objects.
pub(super) struct Trimmed<K> {
    pub(super) copied: Copied<K>,
    pub(super) trim: fn(&mut K),
}

impl<K: Object> Sink<K> for Trimmed<K> {
    fn replaced(&mut self, mut objects: Vec<K>) {
        objects.iter_mut().for_each(self.trim);
        self.copied.replaced(objects);
    }

    fn applied(&mut self, mut object: K) {
        (self.trim)(&mut object);
        self.copied.applied(object);
    }

    fn deleted(&mut self, object: K) {
        self.copied.deleted(object);
    }

    fn reached(&mut self, revision: &str) {
        self.copied.reached(revision);
    }
}
