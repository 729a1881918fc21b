//! The list in `metadata.managedFields`: who owns which paths, since when.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Tracking;
use super::set::{self, Tree};

/// The name under which the oldest updates are merged.
const ANCIENT: &str = "ancient-changes";

/// Whose entry it is. Order is that of upstream's identifier.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ManagerId {
    manager: String,
    applied: bool,
    /// Empty for apply: an applier has one entry over all versions.
    api_version: String,
    subresource: String,
}

impl ManagerId {
    pub(super) fn update(manager: &str, tracking: &Tracking<'_>) -> Self {
        Self {
            manager: named(manager),
            applied: false,
            api_version: tracking.api_version.to_owned(),
            subresource: tracking.subresource.to_owned(),
        }
    }

    pub(super) fn apply(tracking: &Tracking<'_>) -> Self {
        Self {
            manager: named(tracking.manager),
            applied: true,
            api_version: String::new(),
            subresource: tracking.subresource.to_owned(),
        }
    }
}

fn named(manager: &str) -> String {
    if manager.is_empty() { "unknown".to_owned() } else { manager.to_owned() }
}

impl fmt::Display for ManagerId {
    /// As conflicts name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if !self.applied {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// One manager's paths.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Entry {
    pub(super) id: ManagerId,
    pub(super) api_version: String,
    pub(super) fields: Tree,
    pub(super) time: Option<Timestamp>,
}

/// All managers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Managed {
    entries: Vec<Entry>,
}

/// Takes `metadata.managedFields` out of an object; null if there is none.
pub(super) fn take(object: &mut Value) -> Value {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.and_then(|metadata| metadata.remove("managedFields")).unwrap_or_default()
}

/// True for `[]` and `[{}]`: the client wants tracking to start anew.
pub(super) fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(only)]) => only.is_empty(),
        _ => false,
    }
}

impl Managed {
    /// Reads the list; none if an entry is not one that upstream would write.
    pub(super) fn decode(list: &Value) -> Option<Self> {
        let mut managed = Self::default();
        for entry in list.as_array().into_iter().flatten() {
            managed.put(decode_entry(entry)?);
        }
        Some(managed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if every entry is of this version.
    pub(super) fn all_in(&self, api_version: &str) -> bool {
        self.entries.iter().all(|entry| entry.api_version == api_version)
    }

    pub(super) fn get(&self, id: &ManagerId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == *id)
    }

    pub(super) fn remove(&mut self, id: &ManagerId) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.id == *id)?;
        Some(self.entries.swap_remove(index))
    }

    pub(super) fn put(&mut self, entry: Entry) {
        match self.entries.iter_mut().find(|known| known.id == entry.id) {
            Some(known) => *known = entry,
            None => self.entries.push(entry),
        }
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&mut Entry) -> bool) {
        self.entries.sort_by(|a, b| a.id.cmp(&b.id));
        self.entries.retain_mut(keep);
    }

    /// What all managers together own in a version.
    pub(super) fn fields_in(&self, api_version: &str) -> Tree {
        let mut all = Tree::new();
        for entry in self.entries.iter().filter(|entry| entry.api_version == api_version) {
            all = set::union(&all, &entry.fields);
        }
        all
    }

    /// Merges the oldest update entries of a version until no more than
    /// `limit` are left.
    pub(super) fn cap(&mut self, limit: usize) {
        let mut updates: Vec<Entry> = self.entries.iter().filter(|entry| !entry.id.applied).cloned().collect();
        let mut count = updates.len();
        if count <= limit {
            return;
        }
        let seconds = |entry: &Entry| entry.time.map_or(0, Timestamp::as_second);
        updates.sort_by(|a, b| seconds(a).cmp(&seconds(b)).then_with(|| a.id.cmp(&b.id)));
        let mut first_of: Vec<(String, ManagerId)> = Vec::new();
        for entry in updates {
            if count <= limit {
                break;
            }
            let Some((_, first)) = first_of.iter().find(|(version, _)| *version == entry.api_version) else {
                first_of.push((entry.api_version.clone(), entry.id.clone()));
                continue;
            };
            let bucket = ManagerId {
                manager: ANCIENT.to_owned(),
                applied: false,
                api_version: entry.api_version.clone(),
                subresource: String::new(),
            };
            let merged = self.remove(&bucket).or_else(|| self.remove(first));
            let fields = merged.map_or_else(Tree::new, |merged| merged.fields);
            self.remove(&entry.id);
            let fields = set::union(&entry.fields, &fields);
            self.put(Entry { id: bucket, fields, ..entry });
            count -= 1;
        }
    }

    /// Writes the list, sorted as upstream sorts it; no entries, no list.
    pub(super) fn encode_into(mut self, object: &mut Value) {
        let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return };
        metadata.remove("managedFields");
        if self.entries.is_empty() {
            return;
        }
        let seconds = |entry: &Entry| entry.time.map_or(0, Timestamp::as_second);
        self.entries.sort_by(|a, b| {
            let operation = |entry: &Entry| !entry.id.applied;
            (operation(a), seconds(a), &a.id.manager, &a.api_version, &a.id.subresource).cmp(&(
                operation(b),
                seconds(b),
                &b.id.manager,
                &b.api_version,
                &b.id.subresource,
            ))
        });
        let entries = self.entries.into_iter().map(encode_entry).collect();
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}

fn decode_entry(entry: &Value) -> Option<Entry> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let applied = match text("operation") {
        "Apply" => true,
        "Update" => false,
        _ => return None,
    };
    let api_version = text("apiVersion");
    if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
        return None;
    }
    let id = ManagerId {
        manager: text("manager").to_owned(),
        applied,
        api_version: if applied { String::new() } else { api_version.to_owned() },
        subresource: text("subresource").to_owned(),
    };
    let fields = match entry.get("fieldsV1") {
        None | Some(Value::Null) => Tree::new(),
        Some(Value::Object(fields)) => fields.clone(),
        Some(_) => return None,
    };
    let time = entry.get("time").and_then(Value::as_str).and_then(|time| api::time::parse(time).ok());
    Some(Entry { id, api_version: api_version.to_owned(), fields, time })
}

fn encode_entry(entry: Entry) -> Value {
    let mut out = Map::new();
    let operation = if entry.id.applied { "Apply" } else { "Update" };
    out.insert("apiVersion".to_owned(), entry.api_version.into());
    out.insert("fieldsType".to_owned(), "FieldsV1".into());
    out.insert("fieldsV1".to_owned(), Value::Object(entry.fields));
    out.insert("manager".to_owned(), entry.id.manager.into());
    out.insert("operation".to_owned(), operation.into());
    if !entry.id.subresource.is_empty() {
        out.insert("subresource".to_owned(), entry.id.subresource.into());
    }
    if let Some(time) = entry.time {
        out.insert("time".to_owned(), api::time::format(time).into());
    }
    Value::Object(out)
}
