//! The store's state in memory: every key, and as much history as its budget
//! holds. Serves reads at any held revision and watches; knows nothing of how
//! commits become durable, so each backend publishes into the same image.
//!
//! Keys are grouped into partitions by their leading path segments; each
//! partition has its own lock, ordered map and ring of events. A reader first
//! takes the current revision and then undoes whatever a partition holds above
//! it, so a commit that spans partitions is seen whole or not at all although
//! the partitions are written one after the other.
//!
//! History is undone from the ring rather than kept in persistent maps: almost
//! every read is of the current state, which then is one plain B-tree walk with
//! 24 bytes per key, and a read at an older revision costs one pass over the
//! events since, which the ring's budget bounds.

mod partition;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::{Entry, Event, Page, Range, ReadError, Revision};
use partition::{Commit, Partition};
pub use watch::ImageWatch;

/// Bytes of history kept over all partitions unless the options say otherwise:
/// superseded and deleted versions plus the events themselves. Room for about
/// 20,000 updates of 1 KiB objects.
pub const DEFAULT_HISTORY_BYTES: usize = 32 << 20;

/// Keys are partitioned up to and including this slash unless the options say
/// otherwise: `/a/b/c/d` belongs to `/a/b/`.
pub const DEFAULT_PARTITION_SLASHES: usize = 3;

/// How often an unpinned read is tried anew when history is dropped under it,
/// before it keeps commits out for the length of one read.
const READ_ATTEMPTS: usize = 4;

/// How an image is laid out.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions {
    /// Bound of the history over all partitions, bytes. The history itself may
    /// be larger by one batch of commits while that is published.
    pub history_bytes: usize,
    /// A key's partition ends with its so many-th slash; a key with fewer
    /// belongs to the partition that ends with its last one.
    pub partition_slashes: usize,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self { history_bytes: DEFAULT_HISTORY_BYTES, partition_slashes: DEFAULT_PARTITION_SLASHES }
    }
}

/// One durable commit to publish.
#[derive(Debug)]
pub struct Change {
    /// Its revision; greater than that of every change before it.
    pub revision: Revision,
    /// Its events, each key at most once; not empty.
    pub events: Vec<Event>,
}

/// The state and its history. Shared by readers, watchers and one publisher.
pub struct Image {
    options: ImageOptions,
    partitions: RwLock<BTreeMap<Arc<str>, Arc<Partition>>>,
    current: AtomicU64,
    /// Nothing before this revision can be read in any partition.
    base: AtomicU64,
    history: AtomicUsize,
    publishing: Mutex<()>,
    changed: Notify,
}

impl Image {
    /// An empty image at revision 0.
    pub fn new(options: ImageOptions) -> Self {
        Self {
            options,
            partitions: RwLock::default(),
            current: AtomicU64::new(0),
            base: AtomicU64::new(0),
            history: AtomicUsize::new(0),
            publishing: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// An image of `entries` as they were at `revision`, without history before
    /// it. Sorted entries are taken in fastest.
    pub fn load(options: ImageOptions, revision: Revision, entries: Vec<Arc<Entry>>) -> Self {
        let image = Self::new(options);
        image.current.store(revision.0, Ordering::Release);
        image.base.store(revision.0, Ordering::Release);
        let mut grouped: BTreeMap<Arc<str>, Vec<Arc<Entry>>> = BTreeMap::new();
        for entry in entries {
            let name = &entry.key[..image.partition_end(&entry.key)];
            match grouped.get_mut(name) {
                Some(group) => group.push(entry),
                None => {
                    grouped.insert(Arc::from(name), vec![entry]);
                }
            }
        }
        let partitions = grouped
            .into_iter()
            .map(|(name, group)| (Arc::clone(&name), Arc::new(Partition::load(name, group))))
            .collect();
        *image.partitions.write().unwrap_or_else(PoisonError::into_inner) = partitions;
        image
    }

    /// The revision of the last published change.
    pub fn current(&self) -> Revision {
        Revision(self.current.load(Ordering::Acquire))
    }

    /// The oldest revision at which keys under `prefix` can still be read, and
    /// from which they can be watched.
    pub fn oldest(&self, prefix: &str) -> Revision {
        self.selected(prefix).iter().map(|p| p.floor()).max().unwrap_or_default().max(self.base())
    }

    /// Bytes of history held now, as the budget counts them.
    pub fn history_bytes(&self) -> usize {
        self.history.load(Ordering::Relaxed)
    }

    /// One key as of the current revision.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        let name = &key[..self.partition_end(key)];
        let partition = self.partitions().get(name).cloned()?;
        self.settled(|at| partition.get(key, at)).flatten()
    }

    /// A page of keys.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] and [`ReadError::Future`] for a revision that is
    /// not held; never [`ReadError::Unavailable`].
    pub fn range(&self, range: &Range) -> Result<Page, ReadError> {
        let Some(requested) = range.at else {
            // The closure fails only where history is dropped between the
            // reading of the revision and of the partition; `settled` retries.
            let page = self.settled(|at| self.page(range, at));
            return page.ok_or_else(|| self.compacted(&range.prefix, self.current()));
        };
        let current = self.current();
        if requested > current {
            return Err(ReadError::Future { requested, current });
        }
        self.page(range, requested).ok_or_else(|| self.compacted(&range.prefix, requested))
    }

    /// A watch of `prefix` from just after `from`, or from now on.
    ///
    /// # Errors
    /// As [`Image::range`].
    pub fn watch(self: &Arc<Self>, prefix: &str, from: Option<Revision>) -> Result<ImageWatch, ReadError> {
        let current = self.current();
        let from = from.unwrap_or(current);
        if from > current {
            return Err(ReadError::Future { requested: from, current });
        }
        let single = self.single(prefix).map(|name| self.partition(name));
        let oldest = match &single {
            Some(partition) => partition.floor().max(self.base()),
            None => self.oldest(prefix),
        };
        if from < oldest {
            return Err(ReadError::Compacted { requested: from, oldest });
        }
        Ok(ImageWatch::new(Arc::clone(self), single, prefix, from))
    }

    /// Makes changes visible, in order, and wakes the watchers. The caller has
    /// made them durable.
    ///
    /// # Panics
    /// If a change's revision is not above the current one.
    pub fn publish(&self, changes: Vec<Change>) {
        let Some(last) = changes.last().map(|change| change.revision) else {
            return;
        };
        let guard = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut touched: Vec<(Arc<Partition>, Vec<Commit>)> = Vec::new();
        let mut before = self.current();
        for change in changes {
            assert!(change.revision > before, "revision {} published after {before}", change.revision);
            before = change.revision;
            self.distribute(change, &mut touched);
        }
        for (partition, commits) in &mut touched {
            let commits = std::mem::take(commits);
            // Counted before it can be dropped again.
            self.history.fetch_add(commits.iter().map(Commit::history_bytes).sum(), Ordering::Relaxed);
            partition.apply(commits);
        }
        self.current.store(last.0, Ordering::Release);
        for (partition, _) in &touched {
            partition.changed.notify_waiters();
        }
        self.changed.notify_waiters();
        self.shrink();
        drop(guard);
    }

    /// Forgets the history before `revision`. Every partition is held only for
    /// as long as its own events take to unlink; they are freed outside.
    ///
    /// # Errors
    /// [`ReadError::Future`] for a revision that does not exist yet,
    /// [`ReadError::Compacted`] for one that is already forgotten.
    pub fn compact(&self, revision: Revision) -> Result<(), ReadError> {
        let current = self.current();
        if revision > current {
            return Err(ReadError::Future { requested: revision, current });
        }
        let before = Revision(self.base.fetch_max(revision.0, Ordering::AcqRel));
        if before > revision {
            return Err(ReadError::Compacted { requested: revision, oldest: before });
        }
        let all: Vec<_> = self.partitions().values().cloned().collect();
        for partition in all {
            let freed = partition.forget(revision);
            self.history.fetch_sub(freed, Ordering::Relaxed);
        }
        // Watchers that are overtaken learn it now, not at the next change.
        for partition in self.partitions().values() {
            partition.changed.notify_waiters();
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Everything as of the last published change, in key order within each
    /// partition. Only for the publisher: it must not publish meanwhile.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let partitions: Vec<_> = self.partitions().values().cloned().collect();
        let mut entries = Vec::new();
        for partition in partitions {
            partition.copy_into(&mut entries);
        }
        entries
    }

    /// The key's latest published version, even if its revision is not the
    /// current one yet. Only for the publisher, for whom the two are the same.
    pub(crate) fn latest(&self, key: &str) -> Option<Arc<Entry>> {
        let name = &key[..self.partition_end(key)];
        self.partitions().get(name)?.latest(key)
    }

    fn base(&self) -> Revision {
        Revision(self.base.load(Ordering::Acquire))
    }

    fn partitions(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Arc<str>, Arc<Partition>>> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn partition_end(&self, key: &str) -> usize {
        let mut end = 0;
        for (at, _) in key.match_indices('/').take(self.options.partition_slashes) {
            end = at + 1;
        }
        end
    }

    /// The name of the one partition that holds every key under `prefix`.
    fn single<'a>(&self, prefix: &'a str) -> Option<&'a str> {
        let (at, _) = prefix.match_indices('/').nth(self.options.partition_slashes.checked_sub(1)?)?;
        Some(&prefix[..=at])
    }

    /// The partitions that may hold keys under `prefix`.
    fn selected(&self, prefix: &str) -> Vec<Arc<Partition>> {
        let partitions = self.partitions();
        match self.single(prefix) {
            Some(name) => partitions.get(name).cloned().into_iter().collect(),
            None => partitions
                .iter()
                .filter(|(name, _)| name.starts_with(prefix) || prefix.starts_with(&***name))
                .map(|(_, partition)| Arc::clone(partition))
                .collect(),
        }
    }

    /// The partition of that name, made if need be.
    fn partition(&self, name: &str) -> Arc<Partition> {
        if let Some(partition) = self.partitions().get(name) {
            return Arc::clone(partition);
        }
        let mut partitions = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = Arc::from(name);
        Arc::clone(partitions.entry(Arc::clone(&name)).or_insert_with(|| Arc::new(Partition::load(name, Vec::new()))))
    }

    fn compacted(&self, prefix: &str, requested: Revision) -> ReadError {
        ReadError::Compacted { requested, oldest: self.oldest(prefix) }
    }

    /// Reads at the current revision, anew if history is dropped meanwhile.
    fn settled<T>(&self, mut read: impl FnMut(Revision) -> Option<T>) -> Option<T> {
        for _ in 0..READ_ATTEMPTS {
            if let Some(value) = read(self.current()) {
                return Some(value);
            }
        }
        let _guard = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        read(self.current())
    }

    /// `None` if `at` is no longer held.
    fn page(&self, range: &Range, at: Revision) -> Option<Page> {
        let selected = self.selected(&range.prefix);
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let (mut entries, mut remaining) = (Vec::new(), 0);
        if let [partition] = &selected[..] {
            remaining = partition.range(range, at, limit, &mut entries)?;
        } else {
            for partition in &selected {
                partition.range(range, at, usize::MAX, &mut entries)?;
            }
            // A partition's keys may lie between those of a deeper one.
            entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            if entries.len() > limit {
                remaining = entries.len() - limit;
                entries.truncate(limit);
            }
        }
        (at >= self.base()).then_some(Page { entries, revision: at, remaining })
    }

    fn distribute(&self, change: Change, touched: &mut Vec<(Arc<Partition>, Vec<Commit>)>) {
        let mut rest = change.events;
        while let Some(first) = rest.first() {
            let name = first.entry.key[..self.partition_end(&first.entry.key)].to_owned();
            let same = |event: &Event| event.entry.key[..self.partition_end(&event.entry.key)] == *name;
            let (mine, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(same);
            rest = others;
            let commit = Commit { revision: change.revision, events: Arc::from(mine) };
            match touched.iter_mut().find(|(partition, _)| *partition.name == *name) {
                Some((_, commits)) => commits.push(commit),
                None => touched.push((self.partition(&name), vec![commit])),
            }
        }
    }

    /// Drops the oldest history of the largest partition until the budget is
    /// kept, so that one busy collection cannot cost the others their history.
    fn shrink(&self) {
        while self.history_bytes() > self.options.history_bytes {
            let largest = {
                let partitions = self.partitions();
                partitions.values().max_by_key(|partition| partition.history_bytes()).cloned()
            };
            let Some(largest) = largest else { return };
            let excess = self.history_bytes() - self.options.history_bytes;
            let freed = largest.evict(excess.max(largest.history_bytes() / 8));
            if freed == 0 {
                return;
            }
            self.history.fetch_sub(freed, Ordering::Relaxed);
            largest.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
