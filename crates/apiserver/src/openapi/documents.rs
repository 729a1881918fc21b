//! Documents that were made lately. A document is made when somebody asks for
//! it and remembered until the kinds it is made from change. Decides nothing
//! about content.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::discovery::{Document, Served};

/// Documents of groups that are remembered: a client looks at a few groups.
const REMEMBERED: usize = 16;

/// Documents by name and fingerprint, the latest last.
#[derive(Default)]
pub(crate) struct Documents {
    groups: Mutex<Vec<(String, Document)>>,
    whole: Mutex<Option<(String, Bytes)>>,
    whole_protobuf: Mutex<Option<(String, Bytes)>>,
}

impl Documents {
    /// `/openapi/v3/NAME`.
    pub(crate) fn v3(&self, served: &Served, name: &str) -> Option<Document> {
        let fingerprint = super::fingerprint_of(served, name)?;
        let mut known = lock(&self.groups);
        if let Some((_, document)) = known.iter().find(|(of, one)| of == name && one.etag == fingerprint) {
            return Some(document.clone());
        }
        known.retain(|(of, _)| of != name);
        let document = super::v3(served, name)?;
        if known.len() >= REMEMBERED {
            known.remove(0);
        }
        known.push((name.to_owned(), document.clone()));
        Some(document)
    }

    /// `/openapi/v2` as JSON.
    pub(crate) fn v2(&self, served: &Served) -> Document {
        let etag = super::fingerprint_of_all(served, "json");
        let body = remembered(&self.whole, &etag, || Bytes::from(super::v2(served).to_string()));
        Document { body, etag }
    }

    /// `/openapi/v2` as protobuf.
    pub(crate) fn v2_protobuf(&self, served: &Served) -> Document {
        let etag = super::fingerprint_of_all(served, "protobuf");
        let body =
            remembered(&self.whole_protobuf, &etag, || Bytes::from(super::protobuf::document(&super::v2(served))));
        Document { body, etag }
    }
}

fn remembered(place: &Mutex<Option<(String, Bytes)>>, etag: &str, make: impl FnOnce() -> Bytes) -> Bytes {
    // Held while the document is made: others want the same one.
    let mut place = lock(place);
    match &*place {
        Some((known, body)) if known == etag => body.clone(),
        _ => {
            let body = make();
            *place = Some((etag.to_owned(), body.clone()));
            body
        }
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}
