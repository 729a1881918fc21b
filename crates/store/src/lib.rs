//! Revisions and bytes: the one place where cluster state lives.
//!
//! The store knows keys, values and revisions; it knows no Kubernetes word. It
//! does not interpret values, authorize callers or decide conflicts beyond the
//! preconditions it is given.
//!
//! Two implementations share one contract (see [`contract`]): the embedded
//! store in this crate and, later, an etcd cluster.

pub mod contract;
pub mod embedded;
mod ephemeral;
pub mod memory;
mod stage;

pub use embedded::{EmbeddedStore, Options};
pub use ephemeral::EphemeralStore;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_core::future::BoxFuture;

/// Most writes that one commit may hold.
pub const MAX_WRITES: usize = 128;
/// Longest key, bytes.
pub const MAX_KEY_BYTES: usize = 4096;
/// Largest value, bytes. The same bound as an etcd request has by default, so
/// that an object accepted here can move to an etcd cluster.
pub const MAX_VALUE_BYTES: usize = 1536 * 1024;

/// A point in the store's history; revision 0 is the empty store before any
/// commit. Every commit takes the next revision; all puts and deletes of one
/// commit share it. Equals `resourceVersion` in the API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One version of one key. Immutable and shared: the store, every reader and
/// every watcher hold the same allocation.
pub struct Entry {
    /// The whole key, for example `/registry/pods/default/web`.
    pub key: Arc<str>,
    /// The value as it was put; for a deletion event, the last value.
    pub value: Bytes,
    /// The revision at which the key came into being (again).
    pub created: Revision,
    /// The revision of this version.
    pub modified: Revision,
    facet: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    /// A version of a key; readers attach facets to it later.
    pub fn new(key: Arc<str>, value: Bytes, created: Revision, modified: Revision) -> Self {
        Self { key, value, created, modified, facet: OnceLock::new() }
    }

    /// What a reader derived from this entry's bytes, computed at most once and
    /// kept as long as the entry lives. Every caller of one store must ask for
    /// the same type; another type than the one attached first returns `None`.
    pub fn facet<T: Any + Send + Sync>(&self, derive: impl FnOnce(&Entry) -> T) -> Option<Arc<T>> {
        let any = self.facet.get_or_init(|| Arc::new(derive(self)));
        Arc::clone(any).downcast::<T>().ok()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("bytes", &self.value.len())
            .field("created", &self.created)
            .field("modified", &self.modified)
            .finish()
    }
}

/// What must hold for a key at the moment of the commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precondition {
    /// Nothing: the write is unconditional.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists, at whatever revision.
    Present,
    /// The key exists and its last modification is this revision.
    ModifiedAt(Revision),
}

/// One write of a commit. A commit names each key at most once.
#[derive(Clone, Debug)]
pub enum Write {
    /// Set the key.
    Put {
        /// Key to write.
        key: Arc<str>,
        /// New value; shared, not copied.
        value: Bytes,
        /// Checked before anything is written.
        when: Precondition,
    },
    /// Remove the key. Absent keys are not an error unless `when` says so.
    Delete {
        /// Key to remove.
        key: Arc<str>,
        /// Checked before anything is written.
        when: Precondition,
    },
}

impl Write {
    /// The key it writes.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// What must hold for that key.
    pub fn when(&self) -> Precondition {
        match self {
            Self::Put { when, .. } | Self::Delete { when, .. } => *when,
        }
    }
}

/// A commit that is durable.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The revision of this commit; the current one if nothing was written.
    pub revision: Revision,
    /// One per write, in order: the new entry of a put, the last entry of a
    /// delete, `None` where a deleted key was absent.
    pub entries: Vec<Option<Arc<Entry>>>,
}

/// Why a commit was refused. Nothing of it was written.
#[derive(thiserror::Error, Debug)]
pub enum CommitError {
    /// A precondition failed; `current` is the key's state, for the retry.
    #[error("precondition failed for {key}")]
    Conflict {
        /// The first key whose precondition did not hold.
        key: Arc<str>,
        /// What is there now.
        current: Option<Arc<Entry>>,
    },
    /// The disk is full (or its reserve reached). Deletes are still taken.
    #[error("the disk is full: deletes are still possible, other writes are refused")]
    Full(#[source] std::io::Error),
    /// A value or key exceeds its bound.
    #[error("{key} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The key.
        key: Arc<str>,
        /// Size of the value, bytes.
        bytes: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// Durability could not be reached; whether the write will be seen after a
    /// restart is unknown. The store refuses all further writes.
    #[error("the write could not be made durable")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Why a read failed.
#[derive(thiserror::Error, Debug)]
pub enum ReadError {
    /// The revision is older than the history still held.
    #[error("revision {requested} was compacted, the oldest held is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} is in the future, the current one is {current}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The current revision.
        current: Revision,
    },
    /// The backend did not answer.
    #[error("the store did not answer")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// A range read: keys that start with `prefix`, in byte order.
#[derive(Clone, Debug)]
pub struct Range {
    /// Common prefix, ending in `/` where a whole collection is meant.
    pub prefix: String,
    /// Only keys strictly after this one.
    pub after: Option<String>,
    /// At most so many entries; 0 for all.
    pub limit: usize,
    /// Read as of this revision; `None` for the current one.
    pub at: Option<Revision>,
}

/// A page of a range read.
#[derive(Clone, Debug)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision at which this page is true.
    pub revision: Revision,
    /// How many more keys follow in the range.
    pub remaining: usize,
}

/// One change, in commit order.
#[derive(Clone, Debug)]
pub struct Event {
    /// The new version. For a deletion: the last value, with `modified` set to
    /// the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The version before, `None` for a creation.
    pub previous: Option<Arc<Entry>>,
    /// True for a deletion.
    pub deleted: bool,
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// The changes of one commit under the watched prefix; never empty.
    Events(Arc<[Event]>),
    /// The watcher fell behind the history that is held and must start anew.
    /// Nothing follows.
    Lagged,
}

/// A watch of a prefix. Yields every change after its start revision exactly
/// once and in order, or says [`WatchItem::Lagged`].
pub trait Watch: Send {
    /// The next item; pends while nothing changes. Cancel safe.
    fn next(&mut self) -> BoxFuture<'_, WatchItem>;
    /// The revision up to which everything has been yielded: all changes at or
    /// below it under the prefix have come out of [`Watch::next`]. Moves on as
    /// the store moves on even if the prefix does not change (bookmarks).
    fn progress(&self) -> Revision;
}

/// The store. Every method can be called from any task at any time.
///
/// Linearizable: a read that starts after a commit was acknowledged sees it.
pub trait Store: Send + Sync + 'static {
    /// The revision of the latest acknowledged commit.
    fn current(&self) -> BoxFuture<'_, Result<Revision, ReadError>>;
    /// One key, now.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Arc<Entry>>, ReadError>>;
    /// A page of keys.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>>;
    /// Applies all writes or none, durably. At most 128 writes.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, CommitError>>;
    /// Watches from just after `from`; `None` from now on.
    fn watch(&self, prefix: &str, from: Option<Revision>) -> BoxFuture<'_, Result<Box<dyn Watch>, ReadError>>;
    /// Forgets history before `revision`. Never blocks readers or writers.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>>;
}
