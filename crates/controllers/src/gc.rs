//! Garbage collection: deletes what has no owner any more, lets owners go when
//! their dependents are gone, and cuts dependents loose that are to stay. It
//! follows the metadata of every kind that can be listed and deleted.
//!
//! [`graph`] is who owns whom, as far as it was seen; [`plan`] decides about
//! one object; nothing is deleted on the graph's word alone: that an owner is
//! absent is always confirmed by the server.

mod apply;
mod follow;
mod graph;
mod plan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use client::Controller;
use client::queue::Queue;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Error};
use client::discovery::Kinds;

use self::graph::{Graph, Work};

/// Upstream's `concurrent-gc-syncs`.
const CONCURRENT: usize = 20;
/// Time to wait for every kind to be listed before the first decision. One
/// that never is, for instance of a broken aggregated server, must not stop
/// collection: owners are confirmed one by one anyway.
const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// Shared by those who follow kinds and those who act.
pub(crate) struct Collector {
    graph: Mutex<Graph>,
    kinds: RwLock<Kinds>,
    queue: Queue<Work>,
    /// Kinds that are followed and not listed yet; none before discovery.
    unlisted: watch::Sender<Option<usize>>,
    /// What is served may have changed.
    rediscover: Notify,
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, work: Vec<Work>) {
        for work in work {
            self.queue.add(work);
        }
    }

    async fn listed(&self) {
        let mut unlisted = self.unlisted.subscribe();
        // The sender lives in self, so waiting cannot fail.
        drop(tokio::time::timeout(SYNC_LIMIT, unlisted.wait_for(|unlisted| *unlisted == Some(0))).await);
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    let context = context.named("garbage-collector-controller");
    let collector = Arc::new(Collector {
        graph: Mutex::default(),
        kinds: RwLock::default(),
        queue: Queue::new(),
        unlisted: watch::Sender::new(None),
        rediscover: Notify::new(),
    });
    let controller = Controller::<Error, Work>::new("garbage-collector", {
        let (context, collector) = (context.clone(), collector.clone());
        move |work| apply::reconcile(context.clone(), collector.clone(), work)
    });
    let controller = controller.fed_by(&collector.queue).concurrency(CONCURRENT).waits_until({
        let collector = collector.clone();
        async move { collector.listed().await }
    });
    tokio::join!(controller.run(shutdown.clone()), follow::run(context.client, collector, shutdown));
}
