//! A work queue: keys that need a look, each at most once in the queue and at
//! most once in work, delayed and backed off per key. It does no work itself.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::exponential;

/// First delay after a failure, as upstream's default controller rate limiter.
const RETRY_FIRST: Duration = Duration::from_millis(5);
/// Longest delay after failures, as upstream's.
const RETRY_LIMIT: Duration = Duration::from_secs(1000);

/// Keys that need a look. Cloning shares the queue. Bounded by the number of
/// distinct keys: the caller's keys name objects, which are bounded.
pub struct Queue<Q> {
    shared: Arc<Shared<Q>>,
}

impl<Q> Clone for Queue<Q> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<Q> {
    keys: Mutex<Keys<Q>>,
    changed: Notify,
}

struct Keys<Q> {
    ready: VecDeque<Q>,
    /// In `ready`, or to be put there when their work ends.
    dirty: HashSet<Q>,
    working: HashSet<Q>,
    /// By time; the number tells equal times apart.
    delayed: BTreeSet<(Instant, u64)>,
    delayed_keys: HashMap<u64, Q>,
    delays: HashMap<Q, (Instant, u64)>,
    next_delay: u64,
    failures: HashMap<Q, u32>,
}

impl<Q> Default for Queue<Q> {
    fn default() -> Self {
        let keys = Keys {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            delayed: BTreeSet::new(),
            delayed_keys: HashMap::new(),
            delays: HashMap::new(),
            next_delay: 0,
            failures: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { keys: Mutex::new(keys), changed: Notify::new() }) }
    }
}

impl<Q: Clone + Eq + Hash> Queue<Q> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Keys<Q>> {
        self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This key needs a look now. If it is in work, it gets another one after.
    pub fn add(&self, key: Q) {
        if self.lock().make_ready(key) {
            self.shared.changed.notify_one();
        }
    }

    /// This key needs a look after `delay`, also if it gets one before; of
    /// several delays the shortest counts.
    pub fn add_after(&self, key: Q, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        if self.lock().delay(key, Instant::now() + delay) {
            self.shared.changed.notify_one();
        }
    }

    /// Work on this key failed: another look after a delay that doubles with
    /// each failure. Returns how often it has failed.
    pub fn retry(&self, key: Q) -> u32 {
        let mut keys = self.lock();
        let failures = keys.failures.entry(key.clone()).or_default();
        let delay = exponential(RETRY_FIRST, RETRY_LIMIT, *failures);
        *failures = failures.saturating_add(1);
        let failures = *failures;
        let earlier = keys.delay(key, Instant::now() + delay);
        drop(keys);
        if earlier {
            self.shared.changed.notify_one();
        }
        failures
    }

    /// Work on this key succeeded: forget its failures.
    pub fn forget(&self, key: &Q) {
        self.lock().failures.remove(key);
    }

    /// The next key to work on; waits for one. Give it back with [`Queue::done`].
    /// For one caller at a time.
    pub async fn next(&self) -> Q {
        loop {
            let changed = self.shared.changed.notified();
            let wake = {
                let mut keys = self.lock();
                keys.promote(Instant::now());
                if let Some(key) = keys.take() {
                    return key;
                }
                keys.delayed.first().map(|(when, _)| *when)
            };
            match wake {
                None => changed.await,
                Some(when) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(when) => {}
                    }
                }
            }
        }
    }

    /// Work on this key has ended.
    pub fn done(&self, key: &Q) {
        let mut keys = self.lock();
        keys.working.remove(key);
        if keys.dirty.contains(key) {
            keys.ready.push_back(key.clone());
            drop(keys);
            self.shared.changed.notify_one();
        }
    }

    /// Keys waiting to be worked on now.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// True if no key waits to be worked on now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<Q: Clone + Eq + Hash> Keys<Q> {
    /// True if a waiting reader has something new.
    fn make_ready(&mut self, key: Q) -> bool {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// True if the key is now the first of all delayed ones.
    fn delay(&mut self, key: Q, when: Instant) -> bool {
        if self.delays.get(&key).is_some_and(|(earlier, _)| *earlier <= when) {
            return false;
        }
        self.undelay(&key);
        let entry = (when, self.next_delay);
        self.next_delay += 1;
        self.delayed.insert(entry);
        self.delayed_keys.insert(entry.1, key.clone());
        self.delays.insert(key, entry);
        self.delayed.first() == Some(&entry)
    }

    fn undelay(&mut self, key: &Q) {
        if let Some(entry) = self.delays.remove(key) {
            self.delayed.remove(&entry);
            self.delayed_keys.remove(&entry.1);
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first().copied().filter(|(when, _)| *when <= now) {
            self.delayed.remove(&entry);
            if let Some(key) = self.delayed_keys.remove(&entry.1) {
                self.delays.remove(&key);
                self.make_ready(key);
            }
        }
    }

    fn take(&mut self) -> Option<Q> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn now(queue: &Queue<&'static str>) -> Option<&'static str> {
        queue.next().now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once_and_worked_on_by_one() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(now(&queue), Some("a"));
        queue.add("a");
        assert_eq!(now(&queue), None, "in work");
        queue.done(&"a");
        assert_eq!(now(&queue), Some("a"), "asked for while in work");
        queue.done(&"a");
        assert_eq!(now(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_counts_and_outlives_an_immediate_add() {
        let queue = Queue::new();
        let started = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(7));
        assert_eq!(queue.next().await, "a");
        assert_eq!(started.elapsed().as_secs(), 3);
        queue.done(&"a");
        queue.add_after("b", Duration::from_secs(5));
        queue.add("b");
        assert_eq!(now(&queue), Some("b"));
        queue.done(&"b");
        assert_eq!(queue.next().await, "b");
        assert_eq!(started.elapsed().as_secs(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_until_forgotten() {
        let queue = Queue::new();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..4 {
            let started = Instant::now();
            let key = queue.next().await;
            waits.push(started.elapsed().as_millis());
            queue.retry(key);
            queue.done(&key);
        }
        assert_eq!(waits, [0, 5, 10, 20]);
        let key = queue.next().await;
        queue.forget(&key);
        queue.done(&key);
        assert_eq!(queue.retry("a"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_reader_is_woken_by_an_add() {
        let queue = Queue::new();
        queue.add_after("later", Duration::from_secs(100));
        let (key, ()) = tokio::join!(queue.next(), async { queue.add("now") });
        assert_eq!(key, "now");
    }
}
