//! One partition: an ordered map of the latest versions and the ring of the
//! commits that led to them. Decides nothing about budgets; the image does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use crate::{Entry, Event, Range, Revision};

/// What an event costs besides the version it supersedes: its slot in the ring,
/// its allocation, and a share of the entry's own header. Bytes.
const EVENT_OVERHEAD_BYTES: usize = 160;

/// Most commits a watcher looks through under one hold of the lock, so that a
/// watcher of one key among many does not keep commits waiting.
const SCAN_COMMITS: usize = 1024;

/// The part of one commit that lies in one partition.
pub(super) struct Commit {
    pub(super) revision: Revision,
    pub(super) events: Arc<[Event]>,
}

impl Commit {
    /// The bytes that only the history keeps alive.
    pub(super) fn history_bytes(&self) -> usize {
        self.events
            .iter()
            .map(|event| {
                let superseded = event.previous.as_ref().map_or(0, |e| e.key.len() + e.value.len());
                EVENT_OVERHEAD_BYTES + superseded
            })
            .sum()
    }
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Commit>,
    /// The highest revision that fell out of the ring: the oldest readable one.
    floor: Revision,
}

impl State {
    /// The commits above `revision`.
    fn since(&self, revision: Revision) -> impl Iterator<Item = &Commit> {
        let first = self.ring.partition_point(|commit| commit.revision <= revision);
        self.ring.range(first..)
    }

    fn settled_at(&self, revision: Revision) -> bool {
        self.ring.back().is_none_or(|last| last.revision <= revision)
    }
}

/// What a watcher finds.
pub(super) enum Found {
    /// A commit with events under the prefix.
    Commit(Revision, Arc<[Event]>),
    /// Nothing up to and including this revision.
    Nothing(Revision),
    /// History above the cursor is gone.
    Lagged,
}

/// See the module.
pub(super) struct Partition {
    pub(super) name: Arc<str>,
    /// Signalled after each change has become current.
    pub(super) changed: Notify,
    state: RwLock<State>,
    history: AtomicUsize,
}

impl Partition {
    pub(super) fn load(name: Arc<str>, entries: Vec<Arc<Entry>>) -> Self {
        let entries = entries.into_iter().map(|entry| (Arc::clone(&entry.key), entry)).collect();
        Self {
            name,
            changed: Notify::new(),
            state: RwLock::new(State { entries, ..State::default() }),
            history: AtomicUsize::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn floor(&self) -> Revision {
        self.read().floor
    }

    pub(super) fn history_bytes(&self) -> usize {
        self.history.load(Ordering::Relaxed)
    }

    pub(super) fn latest(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().entries.get(key).cloned()
    }

    pub(super) fn copy_into(&self, entries: &mut Vec<Arc<Entry>>) {
        entries.extend(self.read().entries.values().cloned());
    }

    /// The key as of `at`; the outer `None` if that is no longer held.
    pub(super) fn get(&self, key: &str, at: Revision) -> Option<Option<Arc<Entry>>> {
        let state = self.read();
        if state.settled_at(at) {
            return Some(state.entries.get(key).cloned());
        }
        if at < state.floor {
            return None;
        }
        let undone = state.since(at).flat_map(|commit| commit.events.iter()).find(|event| *event.entry.key == *key);
        Some(match undone {
            Some(event) => event.previous.clone(),
            None => state.entries.get(key).cloned(),
        })
    }

    /// Appends up to `limit` entries of the range as of `at` and returns how
    /// many more there are; `None` if `at` is no longer held.
    pub(super) fn range(&self, range: &Range, at: Revision, limit: usize, out: &mut Vec<Arc<Entry>>) -> Option<usize> {
        let state = self.read();
        if at < state.floor {
            return None;
        }
        let start = match &range.after {
            Some(after) if after.as_str() >= range.prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(range.prefix.as_str()),
        };
        let live = state
            .entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&range.prefix));
        if state.settled_at(at) {
            return Some(take(live.map(|(_, entry)| entry), limit, out));
        }
        // The first event after `at` says what each key was at `at`.
        let mut undone: HashMap<&str, Option<&Arc<Entry>>> = HashMap::new();
        for event in state.since(at).flat_map(|commit| commit.events.iter()) {
            undone.entry(&event.entry.key).or_insert(event.previous.as_ref());
        }
        let mut then: Vec<&Arc<Entry>> =
            live.filter(|(key, _)| !undone.contains_key(&***key)).map(|(_, entry)| entry).collect();
        let in_range =
            |key: &str| key.starts_with(&range.prefix) && range.after.as_deref().is_none_or(|after| key > after);
        let restored = undone.iter().filter(|(key, _)| in_range(key)).filter_map(|(_, entry)| *entry);
        then.extend(restored);
        then.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Some(take(then.into_iter(), limit, out))
    }

    /// The first commit above `after`, and not above `until`, with events under
    /// `prefix`.
    pub(super) fn find(&self, prefix: &str, after: Revision, until: Revision) -> Found {
        let mut cursor = after;
        loop {
            let state = self.read();
            if cursor < state.floor {
                return Found::Lagged;
            }
            let mut commits = state.since(cursor).take_while(|commit| commit.revision <= until);
            for commit in commits.by_ref().take(SCAN_COMMITS) {
                cursor = commit.revision;
                let matching = commit.events.iter().filter(|event| event.entry.key.starts_with(prefix)).count();
                if matching == commit.events.len() {
                    return Found::Commit(commit.revision, Arc::clone(&commit.events));
                }
                if matching > 0 {
                    let events = commit.events.iter().filter(|event| event.entry.key.starts_with(prefix));
                    return Found::Commit(commit.revision, events.cloned().collect());
                }
            }
            if commits.next().is_none() {
                return Found::Nothing(until);
            }
        }
    }

    /// Applies commits, in order.
    pub(super) fn apply(&self, commits: Vec<Commit>) {
        let mut state = self.write();
        self.history.fetch_add(commits.iter().map(Commit::history_bytes).sum(), Ordering::Relaxed);
        for commit in commits {
            for event in commit.events.iter() {
                if event.deleted {
                    state.entries.remove(&event.entry.key);
                } else {
                    // The key of the first version is kept: one allocation a key.
                    match state.entries.get_mut(&event.entry.key) {
                        Some(slot) => *slot = Arc::clone(&event.entry),
                        None => {
                            state.entries.insert(Arc::clone(&event.entry.key), Arc::clone(&event.entry));
                        }
                    }
                }
            }
            state.ring.push_back(commit);
        }
    }

    /// Drops commits up to and including `revision`; returns the bytes freed.
    pub(super) fn forget(&self, revision: Revision) -> usize {
        let state = self.write();
        let count = state.ring.partition_point(|commit| commit.revision <= revision);
        self.unlink(state, count)
    }

    /// Drops the oldest commits until at least `bytes` are freed.
    pub(super) fn evict(&self, bytes: usize) -> usize {
        let state = self.write();
        let (mut count, mut freed) = (0, 0);
        for commit in &state.ring {
            if freed >= bytes {
                break;
            }
            freed += commit.history_bytes();
            count += 1;
        }
        self.unlink(state, count)
    }

    fn unlink(&self, mut state: RwLockWriteGuard<'_, State>, count: usize) -> usize {
        let dropped: Vec<Commit> = state.ring.drain(..count).collect();
        if let Some(last) = dropped.last() {
            state.floor = last.revision;
        }
        if state.ring.len() < state.ring.capacity() / 4 {
            state.ring.shrink_to_fit();
        }
        drop(state);
        let freed = dropped.iter().map(Commit::history_bytes).sum();
        self.history.fetch_sub(freed, Ordering::Relaxed);
        freed
    }
}

fn take<'a>(mut entries: impl Iterator<Item = &'a Arc<Entry>>, limit: usize, out: &mut Vec<Arc<Entry>>) -> usize {
    out.extend(entries.by_ref().take(limit).cloned());
    entries.count()
}
