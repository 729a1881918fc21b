//! The embedded store: the image in memory, made durable by a log of commits
//! and snapshots in one directory. For one process on one machine.
//!
//! A commit is decided, written with others by one sync, published and then
//! answered, in this order; so nothing is ever seen that a crash could undo.
//! Reads and watches come from memory and never wait for the disk. After a
//! restart the watches go on from any revision since the last snapshot, as far
//! as the history budget reaches.

mod checksum;
mod committer;
mod directory;
mod frame;
mod log;
mod snapshot;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use futures_core::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

pub use directory::{FORMAT_VERSION, OpenError};

use crate::memory::{Image, ImageOptions};
use crate::stage::{self, Stage};
use crate::{CommitError, Committed, Entry, Page, Range, ReadError, Revision, Store, Watch, Write};
use committer::{Committer, Request};
use directory::Directory;
use log::Log;

/// Commits that wait for the disk; more wait in their callers.
const QUEUED_COMMITS: usize = 1024;
/// A log makes room for a snapshot once it has so many bytes, unless the
/// options say otherwise.
pub const DEFAULT_LOG_BYTES: u64 = 64 << 20;
/// Commits that are published together while a log is read.
const REPLAY_COMMITS: usize = 1024;

/// How an embedded store is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The image in memory.
    pub image: ImageOptions,
    /// When this much has been logged, and at least as much as the state has,
    /// a snapshot is written and the log begins anew. Bytes.
    pub log_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { image: ImageOptions::default(), log_bytes: DEFAULT_LOG_BYTES }
    }
}

/// The commit thread is gone, which only happens if it panicked.
#[derive(thiserror::Error, Debug)]
#[error("the commit thread is gone")]
struct Gone;

/// See the module. Dropping it makes what is queued durable and closes the
/// directory.
pub struct EmbeddedStore {
    image: Arc<Image>,
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, which is made if it is absent or empty.
    /// Blocks while the state is read.
    ///
    /// # Errors
    /// See [`OpenError`]. A log that ends within a write which was never
    /// acknowledged is no error: the rest is cut.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let directory = Arc::new(Directory::open(directory)?);
        let (image, log, snapshot_bytes) = recover(&directory, options.image)?;
        let image = Arc::new(image);
        let (sender, requests) = mpsc::channel(QUEUED_COMMITS);
        let path = directory.path().to_owned();
        let committer = Committer {
            directory,
            image: Arc::clone(&image),
            log,
            requests,
            sender: sender.downgrade(),
            stop: Arc::new(AtomicBool::new(false)),
            log_bytes: options.log_bytes,
            snapshot_bytes,
            snapshot: None,
            failed: None,
            full: false,
            starved: false,
            until_look: 0,
            buffer: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("store-commit".into()).spawn(move || committer.run());
        let thread = thread.map_err(OpenError::file("start the commit thread for", &path))?;
        Ok(Self { image, requests: Some(sender), thread: Some(thread) })
    }

    async fn commit_queued(&self, writes: Vec<Write>) -> Result<Committed, CommitError> {
        stage::check_bounds(&writes)?;
        stage::check_early(&self.image, &writes)?;
        let gone = || CommitError::Unavailable(Arc::new(Gone));
        let (answer, answered) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(Request::Commit(writes, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the commit thread panicked");
        }
    }
}

impl Store for EmbeddedStore {
    fn current(&self) -> BoxFuture<'_, Result<Revision, ReadError>> {
        Box::pin(async { Ok(self.image.current()) })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Arc<Entry>>, ReadError>> {
        Box::pin(async { Ok(self.image.get(key)) })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>> {
        Box::pin(async move { self.image.range(&range) })
    }

    /// A commit whose future is dropped may still happen.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(self.commit_queued(writes))
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> BoxFuture<'_, Result<Box<dyn Watch>, ReadError>> {
        let watch = self.image.watch(prefix, from);
        Box::pin(async { Ok(Box::new(watch?) as Box<dyn Watch>) })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move { self.image.compact(revision) })
    }
}

/// Reads the latest snapshot and the logs after it.
fn recover(directory: &Directory, options: ImageOptions) -> Result<(Image, Log, u64), OpenError> {
    directory.remove_unfinished()?;
    let (logs, snapshots) = directory.files()?;
    let base = snapshots.last().copied().unwrap_or_default();
    let entries = match snapshots.last() {
        Some(at) => snapshot::load(directory, *at)?,
        None => Vec::new(),
    };
    let snapshot_bytes = match snapshots.last() {
        Some(at) => {
            let path = directory.snapshot(*at);
            std::fs::metadata(&path).map_err(OpenError::file("read", &path))?.len()
        }
        None => 0,
    };
    let image = Image::load(options, base, entries);
    let path = directory.log(base);
    if logs.is_empty() && snapshots.is_empty() {
        let log = Log::create(directory, base).map_err(OpenError::file("make", &path))?;
        return Ok((image, log, 0));
    }
    let mut needed = logs.iter().copied().skip_while(|start| *start < base).peekable();
    if needed.peek() != Some(&base) {
        return Err(OpenError::Missing { path });
    }
    let mut last = None;
    while let Some(start) = needed.next() {
        let replayed = replay_into(directory, &image, start)?;
        if let Some(next) = needed.peek()
            && replayed.revision != *next
        {
            return Err(replayed.damaged("the end of its commits, although the next log begins later"));
        }
        last = Some(replayed);
    }
    let log = last.ok_or(OpenError::Missing { path })?.into_log()?;
    directory.remove_before(base)?;
    Ok((image, log, snapshot_bytes))
}

fn replay_into(directory: &Directory, image: &Image, start: Revision) -> Result<log::Replayed, OpenError> {
    let mut waiting: Vec<Vec<Write>> = Vec::new();
    let replayed = log::replay(directory, start, |_, writes| {
        waiting.push(writes);
        if waiting.len() >= REPLAY_COMMITS {
            publish(image, &mut waiting);
        }
    })?;
    publish(image, &mut waiting);
    if image.current() != replayed.revision {
        return Err(replayed.damaged("a commit that changes nothing in the state before it"));
    }
    Ok(replayed)
}

fn publish(image: &Image, waiting: &mut Vec<Vec<Write>>) {
    let mut stage = Stage::new(image);
    for writes in waiting.drain(..) {
        stage.decide(&writes).expect("a logged commit has no preconditions");
    }
    image.publish(stage.finish());
}

#[cfg(test)]
mod tests;
