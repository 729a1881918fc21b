//! A store without durability: the same image and the same decisions as the
//! embedded store, nothing on disk. For tests and throw-away clusters.

use std::sync::{Arc, Mutex, PoisonError};

use futures_core::future::BoxFuture;

use crate::memory::{Image, ImageOptions};
use crate::stage::{self, Stage};
use crate::{CommitError, Committed, Entry, Page, Range, ReadError, Revision, Store, Watch, Write};

/// See the module. Everything is gone when it is dropped.
pub struct EphemeralStore {
    image: Arc<Image>,
    committing: Mutex<()>,
}

impl EphemeralStore {
    /// An empty store with the default history budget.
    pub fn new() -> Self {
        Self::with_options(ImageOptions::default())
    }

    /// An empty store.
    pub fn with_options(options: ImageOptions) -> Self {
        Self { image: Arc::new(Image::new(options)), committing: Mutex::default() }
    }

    fn commit_now(&self, writes: &[Write]) -> Result<Committed, CommitError> {
        stage::check_bounds(writes)?;
        let _guard = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stage = Stage::new(&self.image);
        let committed = stage.decide(writes)?;
        self.image.publish(stage.finish());
        Ok(committed)
    }
}

impl Default for EphemeralStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for EphemeralStore {
    fn current(&self) -> BoxFuture<'_, Result<Revision, ReadError>> {
        Box::pin(async { Ok(self.image.current()) })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Arc<Entry>>, ReadError>> {
        Box::pin(async { Ok(self.image.get(key)) })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>> {
        Box::pin(async move { self.image.range(&range) })
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move { self.commit_now(&writes) })
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> BoxFuture<'_, Result<Box<dyn Watch>, ReadError>> {
        let watch = self.image.watch(prefix, from);
        Box::pin(async { Ok(Box::new(watch?) as Box<dyn Watch>) })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move { self.image.compact(revision) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_ephemeral_store_keeps_the_contract() {
        crate::contract::run_all(async || Arc::new(EphemeralStore::new()) as Arc<dyn Store>).await;
    }
}
