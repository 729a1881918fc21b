//! What creations, updates and deletions have in common: reading the current
//! object, committing the next one, and keeping status and main part apart.

use std::sync::Arc;

use api::error::Chain;
use api::status::Status;
use bytes::Bytes;
use serde_json::Value;
use store::{CommitError, Entry, Precondition, Range, ReadError, Revision, Write};

use crate::facet::Facet;
use crate::object::{self, Meta};
use crate::resource::Collection;
use crate::state::Core;

/// An object as it is in the store now.
pub(crate) struct Current {
    /// The version of the key.
    pub(crate) entry: Arc<Entry>,
    /// The hub object, with its resourceVersion.
    pub(crate) object: Value,
}

/// The outcome of a write.
pub(crate) struct Stored {
    /// The hub object, with its resourceVersion.
    pub(crate) object: Value,
    /// Its entry; `None` after a dry run.
    pub(crate) entry: Option<Arc<Entry>>,
}

/// Decodes an entry into its hub object with the resourceVersion set.
pub(crate) fn decode(entry: &Entry) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(&entry.value)
        .map_err(|error| Status::internal(format!("stored object {}: {error}", entry.key)))?;
    object::set_meta(&mut object, "resourceVersion", entry.modified.to_string());
    Ok(object)
}

/// The current object under a key.
pub(crate) async fn current(core: &Core, key: &str) -> Result<Option<Current>, Status> {
    let entry = core.store.get(key).await.map_err(|error| read_failed(&error))?;
    match entry {
        None => Ok(None),
        Some(entry) => Ok(Some(Current { object: decode(&entry)?, entry })),
    }
}

/// All objects of a collection now; of one namespace if it is named.
pub(crate) async fn all(core: &Core, collection: &Collection, namespace: &str) -> Result<Vec<Current>, Status> {
    let range = Range { prefix: collection.range(namespace), after: None, limit: 0, at: None };
    let page = core.store.range(range).await.map_err(|error| read_failed(&error))?;
    page.entries.into_iter().map(|entry| Ok(Current { object: decode(&entry)?, entry })).collect()
}

/// Why a read failed, as a `Status`.
pub(crate) fn read_failed(error: &ReadError) -> Status {
    match error {
        ReadError::Compacted { .. } => Status::expired(EXPIRED),
        ReadError::Future { requested, current } => future(requested.0, *current),
        ReadError::Unavailable(_) => Status::internal(Chain(error)),
    }
}

/// Upstream's text for a revision that is gone.
pub(crate) const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";

/// 504 for a revision that does not exist yet.
pub(crate) fn future(requested: u64, current: Revision) -> Status {
    let text = format!("Timeout: Too large resource version: {requested}, current: {current}");
    let mut status = Status::timeout(text);
    let cause = api::status::StatusCause {
        reason: Some("ResourceVersionTooLarge".to_owned()),
        message: Some("Too large resource version".to_owned()),
        field: None,
    };
    status.details =
        Some(api::status::StatusDetails { causes: vec![cause], retry_after_seconds: Some(1), ..Default::default() });
    status
}

/// How a commit of one object ended without success.
pub(crate) enum Refused {
    /// The precondition did not hold.
    Conflict,
    /// Anything else.
    Failed(Status),
}

/// Encodes a hub object without its resourceVersion.
pub(crate) fn encode(object: &mut Value) -> Bytes {
    object::metadata(object).remove("resourceVersion");
    object::encode(object)
}

/// Puts an object; on success the object carries its new resourceVersion.
pub(crate) async fn put(
    core: &Core,
    collection: &Collection,
    key: Arc<str>,
    object: &mut Value,
    when: Precondition,
) -> Result<Arc<Entry>, Refused> {
    let bytes = encode(object);
    let facet = Facet::new(collection, object, &bytes);
    let write = Write::Put { key, value: bytes, when };
    let committed = core.store.commit(vec![write]).await.map_err(refused)?;
    let entry = committed.entries.into_iter().next().flatten();
    let entry = entry.ok_or_else(|| Refused::Failed(Status::internal("the store returned no entry for a put")))?;
    // A watcher may have been faster; then its facet, which is equal, stays.
    drop(entry.facet(|_| facet));
    object::set_meta(object, "resourceVersion", entry.modified.to_string());
    Ok(entry)
}

/// Deletes a key at a revision; returns the last entry.
pub(crate) async fn remove(
    core: &Core,
    key: Arc<str>,
    when: Precondition,
) -> Result<Option<(Arc<Entry>, Revision)>, Refused> {
    let committed = core.store.commit(vec![Write::Delete { key, when }]).await.map_err(refused)?;
    let revision = committed.revision;
    Ok(committed.entries.into_iter().next().flatten().map(|entry| (entry, revision)))
}

fn refused(error: CommitError) -> Refused {
    match error {
        CommitError::Conflict { .. } => Refused::Conflict,
        CommitError::TooLarge { limit, bytes, .. } => {
            let message = format!("Request is too large: the object has {bytes} bytes, the limit is {limit}");
            Refused::Failed(Status::too_large(message))
        }
        CommitError::Full(_) => {
            let message = format!("{}", Chain(&error));
            let mut status = Status::failure(507, "InsufficientStorage", message);
            status.code = Some(507);
            Refused::Failed(status)
        }
        CommitError::Unavailable(_) => Refused::Failed(Status::internal(Chain(&error))),
    }
}

/// Copies the fields that only the server sets from the old object.
pub(crate) fn keep_system_fields(new: &mut Value, old: &Value) {
    if new.uid().is_empty() {
        object::set_meta(new, "uid", old.meta("uid").clone());
    }
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if !old.meta(field).is_null() {
            object::set_meta(new, field, old.meta(field).clone());
        }
    }
    if new.meta("deletionGracePeriodSeconds").is_null() && !old.meta("deletionGracePeriodSeconds").is_null() {
        object::set_meta(new, "deletionGracePeriodSeconds", old.meta("deletionGracePeriodSeconds").clone());
    }
    object::metadata(new).remove("selfLink");
}

/// Takes everything but these top-level fields from the old object.
pub(crate) fn keep_all_but(new: &mut Value, old: &Value, fields: &[&str]) {
    let mut kept = old.clone();
    let map = object::as_map(&mut kept);
    for field in fields {
        match new.get(*field) {
            Some(value) => {
                map.insert((*field).to_owned(), value.clone());
            }
            None => {
                map.remove(*field);
            }
        }
    }
    for field in ["managedFields", "resourceVersion", "uid"] {
        object::set_meta(&mut kept, field, new.meta(field).clone());
    }
    *new = kept;
}

/// Takes these top-level fields from the old object.
pub(crate) fn keep(new: &mut Value, old: &Value, fields: &[&str]) {
    let map = object::as_map(new);
    for field in fields {
        match old.get(*field) {
            Some(value) => {
                map.insert((*field).to_owned(), value.clone());
            }
            None => {
                map.remove(*field);
            }
        }
    }
}

/// True if the two differ in anything but metadata and these fields.
pub(crate) fn spec_differs(new: &Value, old: &Value, status_fields: &[&str]) -> bool {
    let skip = |key: &str| matches!(key, "metadata" | "apiVersion" | "kind") || status_fields.contains(&key);
    let left = new.as_object().into_iter().flatten().filter(|(key, _)| !skip(key));
    let right = old.as_object().into_iter().flatten().filter(|(key, _)| !skip(key));
    !left.eq(right)
}
