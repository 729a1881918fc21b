//! The one loop under all controllers: changes become keys, keys become
//! reconciliations, bounded in number, backed off per key. A controller states
//! what it watches, how objects map to keys, and one function of a key.
//!
//! What a reconcile function may assume: it is never called twice at once for
//! one key; it is called after every change of what it watches, but not once
//! per change, and also without one. So it acts on the state it finds, never
//! on the event.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use ::api::error::Chain;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::informer::{Delta, Informer, ObjectKey};
use crate::queue::Queue;
use crate::reflector::Object;

/// Reconciliations at the same time unless the controller says otherwise;
/// upstream's `concurrent-*-syncs` are mostly this.
const CONCURRENCY: usize = 5;
/// Failures of one key in a row after which the log says so at warn. Conflicts
/// and races with other writers end long before.
const WARN_AFTER_FAILURES: u32 = 8;

/// What a reconciliation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something changes.
    Done,
    /// Another look after this time: a deadline, not a poll.
    After(Duration),
}

impl Action {
    /// The earlier of two wishes.
    pub fn or(self, other: Action) -> Action {
        match (self, other) {
            (Action::Done, action) | (action, Action::Done) => action,
            (Action::After(a), Action::After(b)) => Action::After(a.min(b)),
        }
    }
}

type Reconcile<Q, E> = Arc<dyn Fn(Q) -> BoxFuture<'static, Result<Action, E>> + Send + Sync>;
type Source<Q> = Box<dyn FnOnce(Queue<Q>) -> BoxFuture<'static, ()> + Send>;

/// A controller: a name, a reconcile function, and what it watches.
pub struct Controller<E, Q = ObjectKey> {
    name: &'static str,
    reconcile: Reconcile<Q, E>,
    queue: Queue<Q>,
    synced: Vec<BoxFuture<'static, ()>>,
    sources: Vec<Source<Q>>,
    concurrency: usize,
}

impl<E, Q> Controller<E, Q>
where
    E: std::error::Error + Send + 'static,
    Q: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static,
{
    /// The name appears in logs.
    pub fn new<F, R>(name: &'static str, reconcile: R) -> Self
    where
        R: Fn(Q) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Action, E>> + Send + 'static,
    {
        Self {
            name,
            reconcile: Arc::new(move |key| reconcile(key).boxed()),
            queue: Queue::new(),
            synced: Vec::new(),
            sources: Vec::new(),
            concurrency: CONCURRENCY,
        }
    }

    /// Keys to look at after each change of this informer's objects. `map` is
    /// called in order of changes; it may also note them elsewhere.
    pub fn watches<K, I>(
        mut self,
        informer: &Informer<K>,
        mut map: impl FnMut(&Delta<K>) -> I + Send + 'static,
    ) -> Self
    where
        K: Object,
        I: IntoIterator<Item = Q, IntoIter: Send>,
    {
        self = self.waits_for(informer);
        let informer = informer.clone();
        self.sources.push(Box::new(move |queue| {
            let mut changes = informer.subscribe();
            Box::pin(async move {
                while let Some(delta) = changes.next().await {
                    for key in map(&delta) {
                        queue.add(key);
                    }
                }
            })
        }));
        self
    }

    /// Reconciles only once this informer is filled: for what is read without
    /// being watched.
    pub fn waits_for<K: Object>(mut self, informer: &Informer<K>) -> Self {
        let informer = informer.clone();
        self.synced.push(Box::pin(async move { informer.synced().await }));
        self
    }

    /// Reconciles only once this has happened.
    pub fn waits_until(mut self, ready: impl Future<Output = ()> + Send + 'static) -> Self {
        self.synced.push(Box::pin(ready));
        self
    }

    /// Reconciliations at the same time.
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.concurrency = limit.max(1);
        self
    }

    /// The queue, for keys that come from elsewhere.
    pub fn queue(&self) -> Queue<Q> {
        self.queue.clone()
    }

    /// Takes keys from this queue, which others fill as well.
    pub fn fed_by(mut self, queue: &Queue<Q>) -> Self {
        self.queue = queue.clone();
        self
    }

    /// Runs until `shutdown`; then waits for the reconciliations under way.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { name, reconcile, queue, synced, sources, concurrency } = self;
        let mut sources: FuturesUnordered<_> = sources.into_iter().map(|source| source(queue.clone())).collect();
        let feed = async { while sources.next().await.is_some() {} };
        let work = async {
            let all = futures_util::future::join_all(synced);
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = all => {}
            }
            tracing::debug!(controller = name, "informers are filled, reconciling");
            work(name, reconcile, &queue, concurrency, &shutdown).await;
        };
        tokio::select! {
            () = work => {}
            // Sources end only with their informers, which live as long as they.
            () = async { feed.await; std::future::pending().await } => {}
        }
    }
}

async fn work<E, Q>(
    name: &'static str,
    reconcile: Reconcile<Q, E>,
    queue: &Queue<Q>,
    concurrency: usize,
    shutdown: &CancellationToken,
) where
    E: std::error::Error + Send + 'static,
    Q: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static,
{
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some((key, result)) = running.next(), if !running.is_empty() => finish(name, queue, key, result),
            key = queue.next(), if running.len() < concurrency => {
                let reconcile = reconcile(key.clone());
                running.push(async move { (key, reconcile.await) });
            }
        }
    }
    while let Some((key, result)) = running.next().await {
        finish(name, queue, key, result);
    }
}

fn finish<E, Q>(name: &'static str, queue: &Queue<Q>, key: Q, result: Result<Action, E>)
where
    E: std::error::Error + 'static,
    Q: Clone + Eq + Hash + Display,
{
    match result {
        Ok(action) => {
            queue.forget(&key);
            if let Action::After(delay) = action {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            let failures = queue.retry(key.clone());
            let err = Chain(&error);
            if failures == WARN_AFTER_FAILURES {
                tracing::warn!(controller = name, %key, failures, %err, "reconciliation keeps failing, retrying");
            } else {
                tracing::debug!(controller = name, %key, failures, %err, "reconciliation failed, retrying");
            }
        }
    }
    queue.done(&key);
}

#[cfg(test)]
mod tests;
