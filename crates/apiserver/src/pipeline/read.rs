//! GET of one object and of a collection, from memory and at one revision.

use std::sync::Arc;

use api::selector::{FieldSelector, Selector};
use api::status::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use store::{Entry, Range, ReadError, Revision};

use super::call::Call;
use super::options::{self, ListOptions, Match};
use super::write;
use crate::facet::Facet;
use crate::resource::Collection;
use crate::state::Core;

/// Entries read from the store at a time while a filter looks for a full page.
const PAGE: usize = 1000;

/// An object with what readers know of it.
pub(crate) struct Item {
    pub(crate) entry: Arc<Entry>,
    pub(crate) facet: Arc<Facet>,
}

/// Which objects of a collection are meant.
pub(crate) struct Filter {
    labels: Selector,
    fields: FieldSelector,
}

impl Filter {
    /// Reads the selectors of a query. Unknown fields are refused.
    pub(crate) fn parse(call: &Call) -> Result<Self, Status> {
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        let labels = call.query.get("labelSelector").unwrap_or_default();
        let labels = Selector::parse(labels).map_err(|error| bad(&error))?;
        let fields = call.query.get("fieldSelector").unwrap_or_default();
        let fields = FieldSelector::parse(fields).map_err(|error| bad(&error))?;
        let strategy = &*call.resource.collection.strategy;
        for requirement in fields.requirements() {
            let known = matches!(requirement.field.as_str(), "metadata.name" | "metadata.namespace")
                || strategy.selectable().contains(&requirement.field.as_str());
            if !known {
                return Err(unknown_field(call, &requirement.field));
            }
        }
        Ok(Self { labels, fields })
    }

    /// True if nothing is filtered out.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that can match, if the fields say so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// True if the object is meant.
    pub(crate) fn matches(&self, facet: &Facet) -> bool {
        self.labels.matches(&facet.labels)
            && self.fields.matches(|field| facet.field(field).unwrap_or_default().to_owned())
    }
}

fn unknown_field(call: &Call, field: &str) -> Status {
    let resource = &call.resource;
    if resource.custom {
        return Status::bad_request(format!("field label not supported: {field}"));
    }
    Status::bad_request(resource.collection.strategy.unknown_field(&resource.api_version, resource.kind(), field))
}

/// One object; 404 if it is not there.
pub(crate) async fn get(core: &Core, call: &Call, name: &str) -> Result<Item, Status> {
    let collection = &*call.resource.collection;
    let namespace = if collection.namespaced { call.info.namespace.as_str() } else { "" };
    let asked = call.query.get("resourceVersion").unwrap_or_default();
    if !asked.is_empty() && asked != "0" {
        let asked = options::revision(asked).map_err(|cause| Status::untyped(cause.line()))?;
        let current = core.store.current().await.map_err(|error| write::read_failed(&error))?;
        if asked > current.0 {
            return Err(write::future(asked, current));
        }
    }
    let key = collection.key(namespace, name);
    match core.store.get(&key).await.map_err(|error| write::read_failed(&error))? {
        Some(entry) => Ok(Item { facet: Facet::of(collection, &entry), entry }),
        None => Err(call.not_found(name)),
    }
}

/// A page of a collection.
pub(crate) struct Listed {
    /// In key order.
    pub(crate) items: Vec<Item>,
    /// The revision at which the page is true.
    pub(crate) revision: Revision,
    /// Where the next page starts; empty on the last one.
    pub(crate) next: String,
    /// How many objects follow, if that is known.
    pub(crate) remaining: Option<usize>,
}

/// What a continue token says.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// The consistent-list refusal that also hands out a token for going on.
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Lists a collection as the options ask.
pub(crate) async fn list(core: &Core, call: &Call, filter: &Filter, options: &ListOptions) -> Result<Listed, Status> {
    let collection = &*call.resource.collection;
    let prefix = collection.range(&call.info.namespace);
    let mut after = None;
    let mut at = None;
    if options.continue_token.is_empty() {
        let asked = options::revision(&options.resource_version)
            .map_err(|cause| Status::bad_request(format!("invalid resource version: {}", cause.line())))?;
        if asked > 0 {
            let current = core.store.current().await.map_err(|error| write::read_failed(&error))?;
            if asked > current.0 {
                return Err(write::future(asked, current));
            }
            // A limit without a match means this very revision (upstream's legacy rule).
            let exact = match options.version_match {
                Some(version_match) => version_match == Match::Exact,
                None => options.limit > 0,
            };
            at = exact.then_some(Revision(asked));
        }
    } else {
        let token = decode_token(&options.continue_token)?;
        if !options.resource_version.is_empty() && options.resource_version != "0" {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        after = Some(format!("{prefix}{}", token.start));
        at = u64::try_from(token.rv).ok().filter(|revision| *revision > 0).map(Revision);
    }
    if let (Some(name), None) = (filter.name(), at) {
        return one(core, collection, call, filter, name).await;
    }
    read_pages(core, collection, prefix, filter, options, (after, at)).await
}

async fn one(core: &Core, collection: &Collection, call: &Call, filter: &Filter, name: &str) -> Result<Listed, Status> {
    if collection.namespaced && call.info.namespace.is_empty() {
        let options = ListOptions { limit: 0, ..empty_options() };
        return read_pages(core, collection, collection.range(""), filter, &options, (None, None)).await;
    }
    let key = collection.key(&call.info.namespace, name);
    let revision = core.store.current().await.map_err(|error| write::read_failed(&error))?;
    let entry = core.store.get(&key).await.map_err(|error| write::read_failed(&error))?;
    let items = entry
        .map(|entry| Item { facet: Facet::of(collection, &entry), entry })
        .into_iter()
        .filter(|item| filter.matches(&item.facet))
        .collect::<Vec<_>>();
    let revision = items.iter().map(|item| item.entry.modified).fold(revision, Revision::max);
    Ok(Listed { items, revision, next: String::new(), remaining: None })
}

fn empty_options() -> ListOptions {
    ListOptions {
        resource_version: String::new(),
        version_match: None,
        limit: 0,
        continue_token: String::new(),
        timeout_seconds: None,
        bookmarks: false,
        send_initial_events: None,
    }
}

async fn read_pages(
    core: &Core,
    collection: &Collection,
    prefix: String,
    filter: &Filter,
    options: &ListOptions,
    (mut after, mut at): (Option<String>, Option<Revision>),
) -> Result<Listed, Status> {
    let everything = filter.is_everything();
    let mut items = Vec::new();
    loop {
        let limit = match (options.limit, everything) {
            (0, _) => 0,
            (limit, true) => limit,
            (_, false) => PAGE,
        };
        let range = Range { prefix: prefix.clone(), after: after.clone(), limit, at };
        let page = match core.store.range(range).await {
            Ok(page) => page,
            Err(ReadError::Compacted { .. }) if !options.continue_token.is_empty() => {
                return Err(inconsistent(&prefix, after.as_deref().unwrap_or_default()));
            }
            Err(error @ ReadError::Compacted { requested, .. }) => {
                let _ = error;
                return Err(Status::expired(format!(
                    "The resourceVersion for the provided list is too old: {requested}"
                )));
            }
            Err(error) => return Err(write::read_failed(&error)),
        };
        at = Some(page.revision);
        let mut left = page.remaining;
        let total = page.entries.len();
        for (index, entry) in page.entries.into_iter().enumerate() {
            let facet = Facet::of(collection, &entry);
            after = Some(entry.key.to_string());
            if everything || filter.matches(&facet) {
                items.push(Item { entry, facet });
            }
            if options.limit > 0 && items.len() == options.limit {
                left += total - index - 1;
                break;
            }
        }
        let full = options.limit > 0 && items.len() == options.limit;
        if left == 0 || full || limit == 0 {
            let more = full && left > 0;
            let next = if more {
                encode_token(&prefix, after.as_deref().unwrap_or_default(), page.revision)
            } else {
                String::new()
            };
            let remaining = (more && everything).then_some(left);
            return Ok(Listed { items, revision: page.revision, next, remaining });
        }
    }
}

fn encode_token(prefix: &str, last: &str, revision: Revision) -> String {
    let start = last.strip_prefix(prefix).unwrap_or(last).to_owned();
    let rv = i64::try_from(revision.0).unwrap_or(i64::MAX);
    // The trailing NUL makes `start` the first key not yet returned, as upstream has it.
    let token = Token { v: "meta.k8s.io/v1".to_owned(), rv, start: start + "\u{0}" };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_token(text: &str) -> Result<Token, Status> {
    let invalid = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(&error.to_string()))?;
    let mut token: Token = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(invalid(&format!(
            "server does not recognize this encoded version {}",
            crate::field::Quoted(&token.v)
        )));
    }
    if token.start.is_empty() {
        return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
    }
    if let Some(start) = token.start.strip_suffix('\u{0}') {
        token.start = start.to_owned();
    }
    Ok(token)
}

fn inconsistent(prefix: &str, after: &str) -> Status {
    let mut status = Status::expired(INCONSISTENT);
    let start = after.strip_prefix(prefix).unwrap_or(after).to_owned();
    let token = Token { v: "meta.k8s.io/v1".to_owned(), rv: -1, start: start + "\u{0}" };
    let text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default());
    status.metadata.insert("continue".to_owned(), text.into());
    status
}

impl Filter {
    /// The same, for one name only.
    pub(crate) fn named(mut self, name: &str) -> Self {
        if let Ok(fields) = FieldSelector::parse(&format!("metadata.name={name},{}", self.fields)) {
            self.fields = fields;
        }
        self
    }
}
