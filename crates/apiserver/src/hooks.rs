//! What must happen beside a write for a few kinds: addresses and ports of
//! services, rows of definitions. Between validation and commit, and after.

use api::status::Status;
use serde_json::Value;

use crate::resource::Collection;

/// Something taken for a write that is given back unless the write succeeds.
#[must_use]
pub(crate) struct Reservation {
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Reservation {
    /// Nothing taken.
    pub(crate) fn none() -> Self {
        Self { release: None }
    }

    /// Taken; `release` gives it back.
    pub(crate) fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { release: Some(Box::new(release)) }
    }

    /// The write succeeded.
    pub(crate) fn keep(mut self) {
        self.release = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

/// The hooks of one server.
#[derive(Default)]
pub(crate) struct Hooks {}

impl Hooks {
    /// Before a new object is committed; may complete it.
    pub(crate) fn begin_create(
        &self,
        _collection: &Collection,
        _object: &mut Value,
        _dry_run: bool,
    ) -> Result<Reservation, Status> {
        Ok(Reservation::none())
    }

    /// Before a changed object is committed; may complete it.
    pub(crate) fn begin_update(
        &self,
        _collection: &Collection,
        _new: &mut Value,
        _old: &Value,
        _dry_run: bool,
    ) -> Result<Reservation, Status> {
        Ok(Reservation::none())
    }

    /// After a new object was committed.
    pub(crate) fn created(&self, _collection: &Collection, _object: &Value) {}

    /// After a changed object was committed.
    pub(crate) fn updated(&self, _collection: &Collection, _new: &Value, _old: &Value) {}

    /// After an object is gone.
    pub(crate) fn deleted(&self, _collection: &Collection, _object: &Value) {}
}
