//! The one thread that commits: it gathers what waits, decides it, makes it
//! durable with one sync, publishes it and answers. Serves no reads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::directory::Directory;
use super::frame::{self, HEADER_BYTES};
use super::log::{self, Log};
use super::snapshot;
use crate::memory::Image;
use crate::stage::Stage;
use crate::{CommitError, Committed, Revision, Write};

/// Most commits made durable by one sync.
const BATCH_COMMITS: usize = 1024;
/// A batch takes no further commit once it has so many bytes.
const BATCH_BYTES: u64 = 4 << 20;
/// The encoding buffer is given back after a batch that made it larger, bytes.
const KEPT_BUFFER_BYTES: usize = 1 << 20;
/// After the disk was full it is looked whether a snapshot would give room once
/// as many deletions have gone by as there were objects, divided by this.
const OBJECTS_PER_DELETION: usize = 64;
/// Free bytes that the new log and a snapshot's frames need besides entries.
const NEW_LOG_BYTES: u64 = 3 << 20;
/// Bytes that a commit's encoding takes at most besides keys and values, each
/// write included: four of the commit, eight a write, and the frame's header.
const COMMIT_OVERHEAD_BYTES: u64 = 64;

/// The answer to one commit.
pub(super) type Answer = Result<Committed, CommitError>;

/// What the thread is asked for.
pub(super) enum Request {
    /// Commit these writes.
    Commit(Vec<Write>, oneshot::Sender<Answer>),
    /// The snapshot that was begun is done.
    Snapshot(io::Result<Option<u64>>),
}

/// The state of the thread.
pub(super) struct Committer {
    pub(super) directory: Arc<Directory>,
    pub(super) image: Arc<Image>,
    pub(super) log: Log,
    pub(super) requests: mpsc::Receiver<Request>,
    /// For the snapshot's message only; weak, so that it keeps nothing open.
    pub(super) sender: mpsc::WeakSender<Request>,
    pub(super) stop: Arc<AtomicBool>,
    /// A new log begins when this one has so many bytes, or as many as the
    /// state itself.
    pub(super) log_bytes: u64,
    /// Size of the last snapshot, bytes.
    pub(super) snapshot_bytes: u64,
    pub(super) snapshot: Option<(Revision, JoinHandle<()>)>,
    pub(super) failed: Option<Arc<dyn std::error::Error + Send + Sync>>,
    pub(super) full: bool,
    /// The disk was full since the last snapshot was done.
    pub(super) starved: bool,
    /// Deletions and refusals to come, while starved, before it is looked
    /// whether a snapshot would give room.
    pub(super) until_look: usize,
    pub(super) buffer: Vec<u8>,
}

type Waiting = (Vec<Write>, oneshot::Sender<Answer>);

impl Committer {
    /// Runs until every sender is gone.
    pub(super) fn run(mut self) {
        while let Some(request) = self.requests.blocking_recv() {
            let batch = self.gather(request);
            if !batch.is_empty() {
                self.commit(batch);
            }
        }
        self.stop.store(true, Ordering::Relaxed);
        self.requests.close();
        if let Some((_, thread)) = self.snapshot.take()
            && thread.join().is_err()
        {
            tracing::error!("the snapshot thread panicked");
        }
    }

    fn gather(&mut self, first: Request) -> Vec<Waiting> {
        let mut batch = Vec::new();
        let (mut bytes, mut next) = (0, Some(first));
        while let Some(request) = next {
            match request {
                Request::Snapshot(outcome) => self.snapshot_done(outcome),
                Request::Commit(writes, answer) => {
                    bytes += encoded_bytes(&writes);
                    batch.push((writes, answer));
                }
            }
            if batch.len() >= BATCH_COMMITS || bytes >= BATCH_BYTES {
                break;
            }
            next = self.requests.try_recv().ok();
        }
        batch
    }

    fn commit(&mut self, batch: Vec<Waiting>) {
        if let Some(cause) = &self.failed {
            for (_, answer) in batch {
                reply(answer, Err(CommitError::Unavailable(Arc::clone(cause))));
            }
            return;
        }
        let refusal = self.make_room(&batch);
        let image = Arc::clone(&self.image);
        let mut stage = Stage::new(&image);
        let mut decided = Vec::with_capacity(batch.len());
        let mut deletions = HEADER_BYTES as u64;
        for (writes, answer) in batch {
            if let Some(refusal) = refusal {
                deletions += encoded_bytes(&writes);
                let puts = writes.iter().any(|write| matches!(write, Write::Put { .. }));
                if puts || !self.log.fits(deletions) {
                    reply(answer, Err(CommitError::Full(refusal.into())));
                    continue;
                }
            }
            decided.push((stage.decide(&writes), answer));
        }
        let changes = stage.finish();
        if self.starved {
            // A refused write asks too: the last deletion may have come while a
            // snapshot was under way.
            self.until_look = self.until_look.saturating_sub(changes.len().max(1));
        }
        if let (Some(first), Some(count)) = (changes.first(), u32::try_from(changes.len()).ok().filter(|n| *n > 0)) {
            let mut buffer = std::mem::take(&mut self.buffer);
            frame::begin(&mut buffer);
            for change in &changes {
                frame::put_change(&mut buffer, change);
            }
            self.log.seal.close(&mut buffer, first.revision.0, count);
            let durable = self.log.append(&buffer).map_err(|error| (log::is_full(&error), error));
            let durable = durable.and_then(|()| self.log.sync(buffer.len() as u64).map_err(|error| (false, error)));
            buffer.shrink_to(KEPT_BUFFER_BYTES);
            self.buffer = buffer;
            if let Err((full, error)) = durable {
                self.refuse(decided, full, error);
                return;
            }
            image.publish(changes);
        }
        for (outcome, answer) in decided {
            reply(answer, outcome);
        }
        self.begin_log();
    }

    /// Allocates room for the batch; the error number if the disk has none.
    fn make_room(&mut self, batch: &[Waiting]) -> Option<rustix::io::Errno> {
        let bytes = batch.iter().map(|(writes, _)| encoded_bytes(writes)).sum();
        match self.log.reserve(bytes) {
            Ok(()) => {
                if std::mem::take(&mut self.full) {
                    tracing::info!(file = %self.log.path.display(), "the disk has room again: all writes are taken");
                }
                None
            }
            // Whatever kept it from being allocated, nothing is lost yet, and
            // deletions fit into what is allocated already.
            Err(error) => {
                self.starved = true;
                if !std::mem::replace(&mut self.full, true) {
                    tracing::error!(
                        file = %self.log.path.display(),
                        err = &error as &dyn std::error::Error,
                        "no room for the log: only deletions are taken until there is"
                    );
                }
                Some(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::NOSPC))
            }
        }
    }

    fn refuse(&mut self, decided: Vec<(Answer, oneshot::Sender<Answer>)>, full: bool, error: io::Error) {
        let code = error.raw_os_error();
        let cause: Arc<dyn std::error::Error + Send + Sync> = Arc::new(error);
        if !full {
            tracing::error!(
                file = %self.log.path.display(),
                err = &*cause as &dyn std::error::Error,
                "a write could not be made durable: no further ones are taken"
            );
            self.failed = Some(Arc::clone(&cause));
        }
        for (_, answer) in decided {
            reply(
                answer,
                Err(match code {
                    Some(code) if full => CommitError::Full(io::Error::from_raw_os_error(code)),
                    _ => CommitError::Unavailable(Arc::clone(&cause)),
                }),
            );
        }
    }

    /// After the disk was full: whether the files are mostly of what has been
    /// deleted, so that a snapshot in their place gives room, and finds enough
    /// itself.
    fn would_give_room(&mut self) -> bool {
        if !self.starved || self.until_look > 0 {
            return false;
        }
        let entries = self.image.all();
        self.until_look = 1 + entries.len() / OBJECTS_PER_DELETION;
        let bytes = entries.iter().map(|entry| (entry.key.len() + entry.value.len()) as u64 + COMMIT_OVERHEAD_BYTES);
        let bytes: u64 = bytes.sum();
        let has = |found: io::Result<u64>, least: u64| found.is_ok_and(|found| found >= least);
        has(self.directory.used_bytes(), 2 * bytes) && has(self.directory.free_bytes(), bytes + NEW_LOG_BYTES)
    }

    /// Begins a new log and a snapshot for its start, if it is time.
    fn begin_log(&mut self) {
        let bytes = self.log.bytes();
        if self.snapshot.is_some() {
            return;
        }
        let due = !self.full && bytes >= self.log_bytes.max(self.snapshot_bytes);
        if !due && !self.would_give_room() {
            return;
        }
        let at = self.image.current();
        match Log::create(&self.directory, at) {
            Ok(log) => self.log = log,
            Err(error) => {
                tracing::warn!(err = &error as &dyn std::error::Error, "no new log could begin, the old one goes on");
                // Tried again after as much again has been written.
                self.snapshot_bytes = bytes.saturating_mul(2);
                return;
            }
        }
        let entries = self.image.all();
        let (directory, stop, sender) = (Arc::clone(&self.directory), Arc::clone(&self.stop), self.sender.clone());
        let write = move || {
            let outcome = snapshot::write(&directory, at, entries, &stop);
            // Without a receiver the store is closing and its files stay.
            if let Some(sender) = sender.upgrade()
                && sender.blocking_send(Request::Snapshot(outcome)).is_err()
            {
                tracing::debug!("the store closed before its snapshot was done");
            }
        };
        match std::thread::Builder::new().name("store-snapshot".into()).spawn(write) {
            Ok(thread) => self.snapshot = Some((at, thread)),
            Err(error) => {
                tracing::warn!(err = &error as &dyn std::error::Error, "no snapshot: its thread did not start");
            }
        }
    }

    fn snapshot_done(&mut self, outcome: io::Result<Option<u64>>) {
        let Some((at, thread)) = self.snapshot.take() else {
            return;
        };
        if thread.join().is_err() {
            tracing::error!("the snapshot thread panicked");
        }
        match outcome {
            Ok(Some(bytes)) => {
                self.snapshot_bytes = bytes;
                self.starved = self.full;
                if let Err(error) = self.directory.remove_before(at) {
                    tracing::warn!(err = &error as &dyn std::error::Error, "old files stay until the next start");
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.starved |= log::is_full(&error);
                tracing::warn!(err = &error as &dyn std::error::Error, "no snapshot: the logs before it stay");
            }
        }
    }
}

fn encoded_bytes(writes: &[Write]) -> u64 {
    let write = |write: &Write| match write {
        Write::Put { key, value, .. } => 8 + key.len() + value.len(),
        Write::Delete { key, .. } => 8 + key.len(),
    };
    COMMIT_OVERHEAD_BYTES + writes.iter().map(|one| write(one) as u64).sum::<u64>()
}

fn reply(answer: oneshot::Sender<Answer>, outcome: Answer) {
    if answer.send(outcome).is_err() {
        tracing::trace!("nobody waits for this commit any more");
    }
}
