//! Field ownership: tracking of every write in `metadata.managedFields`, and
//! server-side apply. Which manager a request speaks for, and what happens to
//! the object next, is the pipeline's.

mod entries;
mod merge;
mod set;
mod typed;

use api::schema::Schema;
use api::status::{Status, StatusCause};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::codec;
use crate::kinds_table::SchemaRef;

use entries::{Entry, Managed, ManagerId};
use set::Tree;
use typed::Comparison;

/// Update entries an object may have before the oldest are merged, as upstream has it.
const UPDATE_MANAGERS: usize = 10;
/// What is owned by nobody before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// `kubectl apply`'s own record.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One write, as far as ownership is concerned.
pub struct Tracking<'a> {
    /// Field manager, or the user agent's first part; empty counts as `unknown`.
    pub manager: &'a str,
    /// The version of the request: `apps/v1`.
    pub api_version: &'a str,
    /// `status`; empty for the object itself.
    pub subresource: &'a str,
    /// The time of the entry.
    pub now: Timestamp,
    /// Dotted paths that the endpoint sets back, so nobody comes to own them there.
    pub reset: &'a [&'a str],
    /// Other versions of the kind.
    pub versions: &'a dyn Versions,
}

/// The versions in which other managers hold their fields.
pub trait Versions {
    /// The object in another version; none if that is not served (any more).
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value>;
    /// The schema of that version.
    fn schema(&self, api_version: &str) -> Option<SchemaRef>;
}

/// For kinds with a single version.
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert(&self, _object: &Value, _api_version: &str) -> Option<Value> {
        None
    }

    fn schema(&self, _api_version: &str) -> Option<SchemaRef> {
        None
    }
}

/// A field that another manager owns with another value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// `"kubectl" using apps/v1`
    pub manager: String,
    /// `.spec.replicas`
    pub path: String,
}

/// Why an apply is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that it changes.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The patch is not one that can be applied.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not fit the schema; upstream answers 500.
    #[error("failed to create typed patch object ({object}): {message}")]
    Typed {
        /// `namespace/name; apps/v1, Kind=Deployment`, with `/v1` for the core group.
        object: String,
        /// What does not fit.
        message: String,
    },
    /// The patch cannot be merged.
    #[error("failed to merge config: {0}")]
    Merge(String),
}

impl ApplyError {
    /// What the client is told.
    pub fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::Conflicts(conflicts) => {
                let mut status = Status::failure(409, "Conflict", message);
                let causes = conflicts.iter().map(|conflict| StatusCause {
                    reason: Some("FieldManagerConflict".to_owned()),
                    message: Some(format!("conflict with {}", conflict.manager)),
                    field: Some(conflict.path.clone()),
                });
                status.details.get_or_insert_default().causes = causes.collect();
                status
            }
            Self::BadRequest(_) => Status::failure(400, "BadRequest", message),
            Self::Typed { .. } | Self::Merge(_) => Status::failure(500, "", message),
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [conflict] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", conflict.manager, conflict.path);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let paths = conflicts.iter().filter(|conflict| conflict.manager == manager);
        lines.extend(paths.map(|conflict| format!("- {}", conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Records a create, update or patch: writes `metadata.managedFields` of `new`
/// and gives it the form that storing it has. `live` is none for a create.
pub fn update(live: Option<&Value>, new: &mut Value, schema: &Schema, tracking: &Tracking<'_>) {
    record(live, new, schema, tracking);
    codec::stored_form(new, schema);
}

fn record(live: Option<&Value>, new: &mut Value, schema: &Schema, tracking: &Tracking<'_>) {
    let sent = entries::take(new);
    let held = live.map(|live| Managed::decode(&live["metadata"]["managedFields"])).unwrap_or_default();
    let managed = match (tracking.subresource.is_empty(), &sent) {
        (false, _) => held,
        (true, sent) if entries::is_reset(sent) => Some(Managed::default()),
        (true, sent) => Managed::decode(sent).filter(|managed| !managed.is_empty()).or(held),
    };
    let mut managed = managed.unwrap_or_default();
    let existing = live.filter(|live| live["metadata"]["uid"].as_str().is_some_and(|uid| !uid.is_empty()));
    if managed.is_empty() && existing.is_some() {
        return;
    }
    let empty;
    let live = match live {
        Some(live) => live,
        None => {
            empty = empty_object(new, schema);
            &empty
        }
    };
    track(live, new, schema, tracking, tracking.manager, &mut managed);
    managed.cap(UPDATE_MANAGERS);
    managed.encode_into(new);
}

/// An object of the kind in which nothing is set.
fn empty_object(like: &Value, schema: &Schema) -> Value {
    let mut empty = codec::conform(&Value::Object(Default::default()), schema)
        .map(|decoded| decoded.object)
        .unwrap_or_else(|_| json!({}));
    for key in ["apiVersion", "kind"] {
        if let (Some(value), Some(map)) = (like.get(key), empty.as_object_mut()) {
            map.insert(key.to_owned(), value.clone());
        }
    }
    empty
}

/// Gives the change from `live` to `new` to a manager, and takes it from all others.
fn track(live: &Value, new: &Value, schema: &Schema, tracking: &Tracking<'_>, manager: &str, managed: &mut Managed) {
    let reset = set::of_paths(tracking.reset);
    let comparison = typed::compare(live, new, schema).without(&reset);
    if comparison.is_same() && managed.all_in(tracking.api_version) {
        return;
    }
    disown(live, new, tracking, &comparison, None, managed);
    let mut own = set::union(&comparison.modified, &comparison.added);
    own = set::difference(&set::recursive_difference(&own, &reset), &stripped());
    if own.is_empty() {
        return;
    }
    let id = ManagerId::update(manager, tracking);
    if let Some(previous) = managed.get(&id) {
        own = set::union(&own, &previous.fields);
    }
    managed.put(Entry { id, api_version: tracking.api_version.to_owned(), fields: own, time: Some(tracking.now) });
}

/// Takes changed and removed paths from all managers but `except`; gives what
/// they owned of the changed ones.
fn disown(
    live: &Value,
    new: &Value,
    tracking: &Tracking<'_>,
    comparison: &Comparison,
    except: Option<&ManagerId>,
    managed: &mut Managed,
) -> Vec<(ManagerId, Tree)> {
    let mut others: Vec<(String, Option<Comparison>)> = Vec::new();
    let mut conflicts = Vec::new();
    managed.retain(|entry| {
        if Some(&entry.id) == except {
            return true;
        }
        let converted;
        let comparison = if entry.api_version == tracking.api_version {
            comparison
        } else {
            if !others.iter().any(|(version, _)| *version == entry.api_version) {
                let compared = compare_in(live, new, &entry.api_version, tracking);
                others.push((entry.api_version.clone(), compared));
            }
            match others.iter().find(|(version, _)| *version == entry.api_version) {
                Some((_, Some(other))) => {
                    converted = other;
                    converted
                }
                // The version is gone, and with it what was owned in it.
                _ => return false,
            }
        };
        let changed = set::union(&comparison.modified, &comparison.added);
        let lost = set::intersection(&entry.fields, &changed);
        if !lost.is_empty() {
            entry.fields = set::difference(&entry.fields, &lost);
            conflicts.push((entry.id.clone(), lost));
        }
        if !comparison.removed.is_empty() {
            entry.fields = set::difference(&entry.fields, &comparison.removed);
        }
        !entry.fields.is_empty()
    });
    conflicts
}

fn compare_in(live: &Value, new: &Value, api_version: &str, tracking: &Tracking<'_>) -> Option<Comparison> {
    let schema = tracking.versions.schema(api_version)?;
    let live = tracking.versions.convert(live, api_version)?;
    let new = tracking.versions.convert(new, api_version)?;
    Some(typed::compare(&live, &new, &schema).without(&set::of_paths(tracking.reset)))
}

/// Paths that nobody owns.
fn stripped() -> Tree {
    let mut paths = set::of_paths(&[
        "apiVersion",
        "kind",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ]);
    if let Some(Value::Object(metadata)) = paths.get_mut("f:metadata") {
        metadata.insert(".".to_owned(), json!({}));
    }
    paths
}

/// Server-side apply: the merged object with its `managedFields`, not yet
/// normalised, defaulted or validated. `live` is none if the object does not exist.
pub fn apply(
    live: Option<&Value>,
    mut applied: Value,
    force: bool,
    schema: &Schema,
    tracking: &Tracking<'_>,
) -> Result<Value, ApplyError> {
    let api_version = applied["apiVersion"].as_str().unwrap_or_default();
    if api_version != tracking.api_version {
        return Err(ApplyError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {api_version}, expected: {}",
            tracking.api_version
        )));
    }
    if !entries::take(&mut applied).is_null() {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    merge::validate(&applied, schema).map_err(|message| ApplyError::Typed { object: described(&applied), message })?;
    let mut live_object = match live {
        Some(live) => live.clone(),
        None => empty_object(&applied, schema),
    };
    let mut managed = Managed::decode(&entries::take(&mut live_object)).unwrap_or_default();
    if managed.is_empty() && live.is_some() {
        let empty = empty_object(&applied, schema);
        track(&empty, &live_object, schema, tracking, BEFORE_FIRST_APPLY, &mut managed);
    }
    let mut outcome = apply_once(&live_object, &applied, force, schema, tracking, managed.clone());
    if let Err(ApplyError::Conflicts(_)) = &outcome
        && tracking.manager == "kubectl"
    {
        outcome = match allowed_by_last_applied(&live_object, schema, tracking) {
            Some(allowed) => retry_as_kubectl(outcome, &live_object, &applied, &allowed, schema, tracking, managed),
            None => outcome,
        };
    }
    let (mut object, managed) = outcome?;
    if tracking.manager == "kubectl" {
        refresh_last_applied(&mut object, &applied);
    }
    managed.encode_into(&mut object);
    Ok(object)
}

fn described(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let api_version = text("/apiVersion");
    // The group stands before the slash, empty for the core group.
    let slash = if api_version.contains('/') { "" } else { "/" };
    let (namespace, name, kind) = (text("/metadata/namespace"), text("/metadata/name"), text("/kind"));
    format!("{namespace}/{name}; {slash}{api_version}, Kind={kind}")
}

fn apply_once(
    live: &Value,
    applied: &Value,
    force: bool,
    schema: &Schema,
    tracking: &Tracking<'_>,
    mut managed: Managed,
) -> Result<(Value, Managed), ApplyError> {
    let reset = set::of_paths(tracking.reset);
    let merged = merge::merge(live, applied, schema).map_err(ApplyError::Merge)?;
    let id = ManagerId::apply(tracking);
    let last = managed.get(&id).cloned();
    let own = set::recursive_difference(&typed::to_set(applied, schema), &reset);
    let entry = Entry {
        id: id.clone(),
        api_version: tracking.api_version.to_owned(),
        fields: own,
        time: last.as_ref().and_then(|last| last.time),
    };
    managed.put(entry);
    let merged = match &last {
        Some(last) => prune(merged, last, &managed, schema, tracking),
        None => merged,
    };
    let comparison = typed::compare(live, &merged, schema).without(&reset);
    let conflicts = disown(live, &merged, tracking, &comparison, Some(&id), &mut managed);
    if !force && !conflicts.is_empty() {
        let conflicts = conflicts.iter().flat_map(|(id, lost)| {
            set::paths(lost).into_iter().map(move |path| Conflict { manager: id.to_string(), path })
        });
        return Err(ApplyError::Conflicts(conflicts.collect()));
    }
    if let Some(mut entry) = managed.remove(&id) {
        entry.fields = set::difference(&entry.fields, &stripped());
        if merged != *live {
            entry.time = Some(tracking.now);
        }
        if !entry.fields.is_empty() {
            managed.put(entry);
        }
    }
    Ok((merged, managed))
}

/// Removes what the manager applied last time, does not apply now, and nobody else owns.
fn prune(merged: Value, last: &Entry, managed: &Managed, schema: &Schema, tracking: &Tracking<'_>) -> Value {
    if last.fields.is_empty() {
        return merged;
    }
    let (in_version, version_schema);
    let (merged_then, schema_then): (&Value, &Schema) = if last.api_version == tracking.api_version {
        (&merged, schema)
    } else {
        match (tracking.versions.convert(&merged, &last.api_version), tracking.versions.schema(&last.api_version)) {
            (Some(converted), Some(found)) => {
                (in_version, version_schema) = (converted, found);
                (&in_version, &version_schema)
            }
            _ => return merged,
        }
    };
    let named = |tree: &Tree| typed::with_fields(tree, schema_then);
    let last_named = named(&last.fields);
    let pruned = merge::remove(merged_then, &last_named, schema_then);
    // Back comes what any manager owns in the same version.
    // TODO-correctness: add back what is owned in other versions too, until
    // every kind with applied fields in two versions converts without moves.
    let owned = managed.fields_in(&last.api_version);
    let merged_set = named(&typed::to_set(merged_then, schema_then));
    let pruned_set = named(&typed::to_set(&pruned, schema_then));
    let gone = set::difference(&merged_set, &set::union(&pruned_set, &named(&owned)));
    let pruned = merge::remove(merged_then, &gone, schema_then);
    let pruned_set = named(&typed::to_set(&pruned, schema_then));
    let gone = set::intersection(&set::difference(&merged_set, &pruned_set), &last_named);
    let pruned = merge::remove(merged_then, &gone, schema_then);
    if last.api_version == tracking.api_version {
        return pruned;
    }
    tracking.versions.convert(&pruned, tracking.api_version).unwrap_or(merged)
}

/// Paths that `kubectl apply` recorded and nobody changed since: server-side
/// apply by kubectl may take them over.
fn allowed_by_last_applied(live: &Value, schema: &Schema, tracking: &Tracking<'_>) -> Option<Tree> {
    let recorded = live["metadata"]["annotations"].get(LAST_APPLIED)?.as_str()?;
    let recorded: Value = serde_json::from_str(recorded).ok()?;
    if recorded["apiVersion"].as_str() != Some(tracking.api_version) {
        return None;
    }
    merge::validate(&recorded, schema).ok()?;
    let comparison = typed::compare(&recorded, live, schema);
    let mut allowed = typed::to_set(&recorded, schema);
    for changed in [&comparison.modified, &comparison.added, &comparison.removed] {
        allowed = set::difference(&allowed, changed);
    }
    Some(allowed)
}

#[expect(clippy::too_many_arguments, reason = "the arguments of the apply that is done again")]
fn retry_as_kubectl(
    outcome: Result<(Value, Managed), ApplyError>,
    live: &Value,
    applied: &Value,
    allowed: &Tree,
    schema: &Schema,
    tracking: &Tracking<'_>,
    managed: Managed,
) -> Result<(Value, Managed), ApplyError> {
    let Err(ApplyError::Conflicts(conflicts)) = outcome else { return outcome };
    let allowed = set::paths(allowed);
    let left: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !allowed.contains(&conflict.path)).collect();
    if left.is_empty() {
        return apply_once(live, applied, true, schema, tracking, managed);
    }
    Err(ApplyError::Conflicts(left))
}

/// Keeps kubectl's own record right while the object still carries it.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(record) = object.pointer_mut("/metadata/annotations").and_then(|found| found.get_mut(LAST_APPLIED)) else {
        return;
    };
    if record.as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(Value::Object(annotations)) = applied.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    *record = Value::String(format!("{applied}\n"));
}

#[cfg(test)]
mod tests;
