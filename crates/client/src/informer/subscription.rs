//! Who follows an informer. A subscription holds no events, only which keys
//! changed and what was given for them last; what is read is the state at the
//! time of reading. So it needs no buffer that could overflow: it is bounded
//! by the objects that exist or were given, and nothing is lost for good.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::Notify;

use super::state::State;
use super::{Delta, ObjectKey};

/// Stale entries of the order that are kept before it is cleaned.
const STALE_ORDER_ENTRIES: usize = 64;

pub(super) struct Pending<K> {
    keys: Mutex<Keys<K>>,
    notify: Notify,
}

struct Keys<K> {
    /// Changed keys and what the subscriber knows of them.
    known: HashMap<ObjectKey, Option<Arc<K>>>,
    /// The keys in order of their first change; may name some that are no
    /// longer in `known`.
    order: VecDeque<ObjectKey>,
    /// A delta that came with another one for the same key.
    next: Option<Delta<K>>,
}

impl<K> Pending<K> {
    fn lock(&self) -> MutexGuard<'_, Keys<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key changed; `old` is what it was before, if it was there. Called
    /// under the copy's write lock.
    pub(super) fn note(&self, key: &ObjectKey, old: Option<Arc<K>>) {
        let mut keys = self.lock();
        if keys.known.contains_key(key) {
            return;
        }
        keys.known.insert(key.clone(), old);
        keys.order.push_back(key.clone());
    }

    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }
}

/// Changes of an informer's objects, for one reader.
pub struct Subscription<K> {
    state: Arc<State<K>>,
    pending: Arc<Pending<K>>,
}

impl<K> Subscription<K> {
    pub(super) fn new(state: Arc<State<K>>) -> Self {
        let keys = Keys { known: HashMap::new(), order: VecDeque::new(), next: None };
        let pending = Arc::new(Pending { keys: Mutex::new(keys), notify: Notify::new() });
        state.subscribe(&pending);
        Self { state, pending }
    }
}

impl<K: Metadata<Ty = ObjectMeta>> Subscription<K> {
    /// The next change; waits for one. Never none while the informer exists,
    /// and the subscription keeps it: the option lets it stand in a `while let`.
    pub async fn next(&mut self) -> Option<Delta<K>> {
        loop {
            if let Some(delta) = self.try_next() {
                return Some(delta);
            }
            // A wake between the two is kept by the notification.
            self.pending.notify.notified().await;
        }
    }

    /// The next change, if one is there.
    pub fn try_next(&mut self) -> Option<Delta<K>> {
        // Lock order: copy before keys, as in every change.
        let copy = self.state.read();
        let mut keys = self.pending.lock();
        if let Some(delta) = keys.next.take() {
            return Some(delta);
        }
        while let Some(key) = keys.order.pop_front() {
            let Some(known) = keys.known.remove(&key) else { continue };
            match (known, copy.objects.get(&key).cloned()) {
                (None, None) => continue,
                (None, Some(new)) => return Some(Delta::Added(new)),
                (Some(old), None) => return Some(Delta::Deleted(old)),
                (Some(old), Some(new)) if old.metadata().uid != new.metadata().uid => {
                    keys.next = Some(Delta::Added(new));
                    return Some(Delta::Deleted(old));
                }
                (Some(old), Some(new)) => return Some(Delta::Updated { old, new }),
            }
        }
        if keys.order.capacity() > STALE_ORDER_ENTRIES {
            keys.order.shrink_to(STALE_ORDER_ENTRIES);
            keys.known.shrink_to(STALE_ORDER_ENTRIES);
        }
        None
    }
}
