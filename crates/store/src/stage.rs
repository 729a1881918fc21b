//! Decides commits: checks preconditions against the published state and the
//! commits decided since, and turns writes into events. Makes nothing durable
//! and publishes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::memory::{Change, Image};
use crate::{
    CommitError, Committed, Entry, Event, MAX_KEY_BYTES, MAX_VALUE_BYTES, MAX_WRITES, Precondition, Revision, Write,
};

/// Commits that are decided but not published yet, in order. There is at most
/// one stage on an image at a time.
pub(crate) struct Stage<'a> {
    image: &'a Image,
    revision: Revision,
    staged: HashMap<Arc<str>, Option<Arc<Entry>>>,
    changes: Vec<Change>,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(image: &'a Image) -> Self {
        Self { image, revision: image.current(), staged: HashMap::new(), changes: Vec::new() }
    }

    /// Decides one commit. What it returns is not true before the change is
    /// published, a conflict included: it may rest on an unpublished commit.
    pub(crate) fn decide(&mut self, writes: &[Write]) -> Result<Committed, CommitError> {
        let mut before = Vec::with_capacity(writes.len());
        for write in writes {
            let current = self.current(write.key());
            check(write, current.as_ref())?;
            before.push(current);
        }
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::with_capacity(writes.len());
        let mut entries = Vec::with_capacity(writes.len());
        for (write, previous) in writes.iter().zip(before) {
            match (write, previous) {
                (Write::Put { key, value, .. }, previous) => {
                    let created = previous.as_ref().map_or(revision, |entry| entry.created);
                    let key = previous.as_ref().map_or(key, |entry| &entry.key);
                    let entry = Arc::new(Entry::new(Arc::clone(key), value.clone(), created, revision));
                    self.staged.insert(Arc::clone(key), Some(Arc::clone(&entry)));
                    entries.push(Some(Arc::clone(&entry)));
                    events.push(Event { entry, previous, deleted: false });
                }
                (Write::Delete { key, .. }, Some(previous)) => {
                    let last =
                        Entry::new(Arc::clone(&previous.key), previous.value.clone(), previous.created, revision);
                    self.staged.insert(Arc::clone(key), None);
                    entries.push(Some(Arc::clone(&previous)));
                    events.push(Event { entry: Arc::new(last), previous: Some(previous), deleted: true });
                }
                (Write::Delete { .. }, None) => entries.push(None),
            }
        }
        if events.is_empty() {
            return Ok(Committed { revision: self.revision, entries });
        }
        self.revision = revision;
        self.changes.push(Change { revision, events });
        Ok(Committed { revision, entries })
    }

    /// The changes decided since the stage was made.
    pub(crate) fn finish(self) -> Vec<Change> {
        self.changes
    }

    fn current(&self, key: &str) -> Option<Arc<Entry>> {
        match self.staged.get(key) {
            Some(staged) => staged.clone(),
            None => self.image.latest(key),
        }
    }
}

/// Checks the bounds of a commit.
///
/// # Panics
/// If it has too many writes or names a key twice: mistakes of the caller, not
/// of its input.
pub(crate) fn check_bounds(writes: &[Write]) -> Result<(), CommitError> {
    assert!(writes.len() <= MAX_WRITES, "a commit of {} writes, at most {MAX_WRITES} are possible", writes.len());
    for (at, write) in writes.iter().enumerate() {
        let key = write.key();
        assert!(writes[..at].iter().all(|other| other.key() != key), "a commit names {key} twice");
        if key.len() > MAX_KEY_BYTES {
            return Err(CommitError::TooLarge { key: Arc::clone(key), bytes: key.len(), limit: MAX_KEY_BYTES });
        }
        if let Write::Put { value, .. } = write
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(CommitError::TooLarge { key: Arc::clone(key), bytes: value.len(), limit: MAX_VALUE_BYTES });
        }
    }
    Ok(())
}

/// Refuses a commit whose preconditions fail in the published state: it need
/// not wait its turn to hear so.
pub(crate) fn check_early(image: &Image, writes: &[Write]) -> Result<(), CommitError> {
    for write in writes {
        if write.when() != Precondition::Any {
            check(write, image.get(write.key()).as_ref())?;
        }
    }
    Ok(())
}

fn check(write: &Write, current: Option<&Arc<Entry>>) -> Result<(), CommitError> {
    let holds = match write.when() {
        Precondition::Any => true,
        Precondition::Absent => current.is_none(),
        Precondition::Present => current.is_some(),
        Precondition::ModifiedAt(revision) => current.is_some_and(|entry| entry.modified == revision),
    };
    if holds {
        return Ok(());
    }
    Err(CommitError::Conflict { key: Arc::clone(write.key()), current: current.cloned() })
}
