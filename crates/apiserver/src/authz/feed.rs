//! A feed: the objects under a prefix of the store, followed without a task.
//! Whoever needs them brings them up to date first, so that an answer never
//! rests on a state older than the request.

use std::sync::Arc;

use futures_util::FutureExt;
use store::{Entry, Event, Range, Revision, Store, Watch, WatchItem};

/// What a feed reports.
pub(crate) enum Change<'a> {
    /// Forget everything: what follows is the whole.
    Reset,
    /// An object is new or changed.
    Put(&'a Entry),
    /// An object is gone; its last version.
    Gone(&'a Entry),
}

/// See the module. Starts empty; the first [`Feed::advance`] reads everything.
pub(crate) struct Feed {
    prefix: String,
    watch: Option<Box<dyn Watch>>,
}

impl Feed {
    /// A feed of all keys under the prefix.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), watch: None }
    }

    /// Reports what changed since the last call. Never waits: the store
    /// answers reads and watches from memory. False if it did not, and then
    /// nothing more is known than before.
    pub(crate) fn advance(&mut self, store: &Arc<dyn Store>, mut report: impl FnMut(Change<'_>)) -> bool {
        loop {
            if self.watch.is_none() {
                let Some(revision) = self.read(store, &mut report) else { return false };
                let started = store.watch(&self.prefix, Some(revision)).now_or_never();
                match started {
                    Some(Ok(watch)) => self.watch = Some(watch),
                    _ => return false,
                }
            }
            let Some(watch) = &mut self.watch else { return false };
            match watch.next().now_or_never() {
                None => return true,
                Some(WatchItem::Events(events)) => events.iter().for_each(|event| report(Self::change(event))),
                Some(WatchItem::Lagged) => self.watch = None,
            }
        }
    }

    fn change(event: &Event) -> Change<'_> {
        if event.deleted { Change::Gone(&event.entry) } else { Change::Put(&event.entry) }
    }

    fn read(&self, store: &Arc<dyn Store>, report: &mut impl FnMut(Change<'_>)) -> Option<Revision> {
        let range = Range { prefix: self.prefix.clone(), after: None, limit: 0, at: None };
        let page = store.range(range).now_or_never()?.ok()?;
        report(Change::Reset);
        page.entries.iter().for_each(|entry| report(Change::Put(entry)));
        Some(page.revision)
    }
}
