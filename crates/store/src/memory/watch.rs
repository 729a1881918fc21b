//! A watcher: a cursor into the rings of an image. It owns no queue, so an idle
//! or slow watcher costs what its cursor costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_core::future::BoxFuture;

use super::Image;
use super::partition::{Found, Partition};
use crate::{Event, Revision, Watch, WatchItem};

/// A watch of one prefix of an image.
pub struct ImageWatch {
    image: Arc<Image>,
    /// The one partition that holds the prefix; `None` if it spans several.
    single: Option<Arc<Partition>>,
    prefix: Box<str>,
    /// Everything under the prefix up to here has been yielded.
    cursor: AtomicU64,
    lagged: bool,
}

impl ImageWatch {
    pub(super) fn new(image: Arc<Image>, single: Option<Arc<Partition>>, prefix: &str, from: Revision) -> Self {
        Self { image, single, prefix: Box::from(prefix), cursor: AtomicU64::new(from.0), lagged: false }
    }

    fn cursor(&self) -> Revision {
        Revision(self.cursor.load(Ordering::Relaxed))
    }

    fn find(&self) -> Found {
        // The revision first: whatever it covers is already in the partitions.
        let until = self.image.current();
        let after = self.cursor();
        match &self.single {
            Some(partition) => partition.find(&self.prefix, after, until),
            None => self.find_among(after, until),
        }
    }

    /// The earliest commit over all partitions, its parts put together.
    fn find_among(&self, after: Revision, until: Revision) -> Found {
        let mut earliest: Option<(Revision, Vec<Event>)> = None;
        for partition in self.image.selected(&self.prefix) {
            let bound = earliest.as_ref().map_or(until, |(revision, _)| *revision);
            match partition.find(&self.prefix, after, bound) {
                Found::Lagged => return Found::Lagged,
                Found::Nothing(_) => {}
                Found::Commit(revision, events) => match &mut earliest {
                    Some((known, all)) if *known == revision => all.extend(events.iter().cloned()),
                    _ => earliest = Some((revision, events.to_vec())),
                },
            }
        }
        match earliest {
            Some((revision, events)) => Found::Commit(revision, events.into()),
            None => Found::Nothing(until),
        }
    }
}

impl Watch for ImageWatch {
    fn next(&mut self) -> BoxFuture<'_, WatchItem> {
        Box::pin(async move {
            loop {
                if self.lagged {
                    return std::future::pending().await;
                }
                let changed = match &self.single {
                    Some(partition) => partition.changed.notified(),
                    None => self.image.changed.notified(),
                };
                tokio::pin!(changed);
                // Registered before looking, so no change falls in between.
                changed.as_mut().enable();
                match self.find() {
                    Found::Commit(revision, events) => {
                        self.cursor.store(revision.0, Ordering::Relaxed);
                        return WatchItem::Events(events);
                    }
                    Found::Nothing(until) => self.cursor.store(until.0, Ordering::Relaxed),
                    Found::Lagged => {
                        self.lagged = true;
                        return WatchItem::Lagged;
                    }
                }
                changed.await;
            }
        })
    }

    fn progress(&self) -> Revision {
        if self.lagged {
            return self.cursor();
        }
        match self.find() {
            Found::Nothing(until) => {
                self.cursor.fetch_max(until.0, Ordering::Relaxed);
                until
            }
            Found::Commit(revision, _) => self.cursor().max(Revision(revision.0 - 1)),
            Found::Lagged => self.cursor(),
        }
    }
}
