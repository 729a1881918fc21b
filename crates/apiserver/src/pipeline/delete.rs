//! Deletion: preconditions, grace, finalizers, and the end. Upstream's rules of
//! `registry/rest/delete.go` and `generic/registry/store.go` (1.36).

use std::collections::BTreeSet;

use api::gvk::GroupResource;
use api::status::{Status, StatusDetails};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Precondition, Revision};

use super::call::{Call, stamp};
use super::options::{DeleteOptions, Propagation};
use super::write::{self, Current, Refused, Stored};
use crate::admission::{Operation, Request};
use crate::object::{self, Meta};
use crate::state::Core;
use crate::strategy::Dependents;

/// Attempts against concurrent writers.
const ATTEMPTS: usize = 64;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How a deletion ended.
pub(crate) enum Deleted {
    /// The object is gone and the answer is a `Status`.
    Gone(Status),
    /// The object as it is now (going, or gone and returned), and whether it
    /// is gone.
    Object(Stored, bool),
}

/// Deletes one object.
pub(crate) async fn delete(core: &Core, call: &Call, name: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
    let collection = &*call.resource.collection;
    let namespace = if collection.namespaced { call.info.namespace.as_str() } else { "" };
    delete_at(core, call, namespace, name, options).await
}

/// Deletes one object of a namespace.
pub(crate) async fn delete_at(
    core: &Core,
    call: &Call,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let collection = &*call.resource.collection;
    let key = collection.key(namespace, name);
    for _ in 0..ATTEMPTS {
        let Some(current) = write::current(core, &key).await? else {
            return Err(call.not_found(name));
        };
        check_preconditions(call, &current.object, options)?;
        admit(core, call, (namespace, name), &current.object, options).await?;
        if let Some(warning) = deletion_warning(call, options) {
            call.warn([warning]);
        }
        let plan = plan(call, &current.object, options);
        if let Some(done) = carry_out(core, call, current, plan, options).await? {
            return Ok(done);
        }
    }
    Err(Status::modified(&collection.group_resource, name))
}

async fn admit(
    core: &Core,
    call: &Call,
    (namespace, name): (&str, &str),
    object: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let mut request = Request {
        core,
        user: &call.user,
        resource: &call.resource,
        subresource: "",
        operation: Operation::Delete,
        namespace,
        name,
        old: Some(object),
        dry_run: options.dry_run,
        warnings: Vec::new(),
    };
    core.admission.validate(&mut request, &Value::Null).await?;
    call.warn(request.warnings);
    Ok(())
}

fn check_preconditions(call: &Call, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let collection = &*call.resource.collection;
    // Upstream names the kind here, not the resource.
    let named = GroupResource { group: collection.group_resource.group.clone(), resource: collection.kind.clone() };
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object.uid()) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            object.uid()
        );
        return Err(Status::conflict(&named, object.name(), &why));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|one| *one != object.resource_version()) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            object.resource_version()
        );
        return Err(Status::conflict(&named, object.name(), &why));
    }
    Ok(())
}

/// What a deletion does to the object as it is.
enum Plan {
    /// Nothing: it is already on its way.
    Pending,
    /// Mark it and wait.
    Mark(Value),
    /// Remove it; the answer shows this.
    Remove(Value),
}

fn plan(call: &Call, object: &Value, options: &DeleteOptions) -> Plan {
    let strategy = &*call.resource.collection.strategy;
    let asked = options.grace.map(|grace| if grace < 0 { 1 } else { grace });
    let mut next = object.clone();
    let mut graceful = None;
    let namespace_kept = call.resource.collection.kind == "Namespace"
        && call.resource.group().is_empty()
        && !object::items(object, "spec.finalizers").is_empty();
    if namespace_kept {
        mark(&mut next, call.now);
        object::map_mut(&mut next, "status").insert("phase".to_owned(), "Terminating".into());
    }
    if let Some(default) = strategy.grace(object, asked) {
        if object.deleting() {
            let held = object.meta("deletionGracePeriodSeconds").as_i64().unwrap_or(0);
            if held != 0 {
                match asked {
                    Some(period) if period < held => {
                        shorten(&mut next, object, held, period, call.now);
                        graceful = next.meta("deletionGracePeriodSeconds").as_i64();
                    }
                    _ => return Plan::Pending,
                }
            }
        } else {
            let at = call.now + SignedDuration::from_secs(default);
            object::set_meta(&mut next, "deletionTimestamp", stamp(at));
            object::set_meta(&mut next, "deletionGracePeriodSeconds", default);
            if object.generation() > 0 {
                object::set_meta(&mut next, "generation", object.generation() + 1);
            }
            graceful = Some(default);
        }
    }
    if let Some(finalizers) = collector_finalizers(strategy.dependents(), object, options) {
        let value = if finalizers.is_empty() { Value::Null } else { Value::from(finalizers) };
        object::set_meta(&mut next, "finalizers", value);
    }
    let pending = !next.finalizers().is_empty();
    match graceful {
        Some(grace) if grace > 0 || pending => Plan::Mark(next),
        Some(_) => Plan::Remove(next),
        None if pending || namespace_kept => {
            mark(&mut next, call.now);
            Plan::Mark(next)
        }
        None => Plan::Remove(object.clone()),
    }
}

/// What a client should know that left the fate of dependents open.
fn deletion_warning(call: &Call, options: &DeleteOptions) -> Option<String> {
    let open = options.propagation.is_none() && options.orphan.is_none();
    let orphans = call.resource.collection.strategy.dependents() == Dependents::Orphan;
    (open && orphans && call.resource.group() == "batch").then(|| {
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning.".to_owned()
    })
}

/// Deletion without grace that waits for finalizers.
fn mark(object: &mut Value, now: Timestamp) {
    if !object.deleting() {
        object::set_meta(object, "deletionTimestamp", stamp(now));
        if object.generation() > 0 {
            let generation = object.generation() + 1;
            object::set_meta(object, "generation", generation);
        }
    }
    object::set_meta(object, "deletionGracePeriodSeconds", 0);
}

fn shorten(next: &mut Value, object: &Value, held: i64, period: i64, now: Timestamp) {
    let was: Timestamp = object.meta_text("deletionTimestamp").parse().unwrap_or(now);
    let moved = was - SignedDuration::from_secs(held) + SignedDuration::from_secs(period);
    let (at, period) = if moved < now { (now, if period == 0 { 0 } else { 1 }) } else { (moved, period) };
    object::set_meta(next, "deletionTimestamp", stamp(at));
    object::set_meta(next, "deletionGracePeriodSeconds", period);
}

/// The finalizers that make the garbage collector do its part; `None` if they
/// stay as they are.
fn collector_finalizers(default: Dependents, object: &Value, options: &DeleteOptions) -> Option<Vec<String>> {
    let held = object.finalizers();
    let (orphan, foreground) = match (default, options.orphan, options.propagation) {
        (Dependents::Unsupported, _, _) => (false, false),
        (_, Some(orphan), _) => (orphan, false),
        (_, None, Some(policy)) => (policy == Propagation::Orphan, policy == Propagation::Foreground),
        (default, None, None) => {
            let foreground = held.contains(&FOREGROUND) && !held.contains(&ORPHAN);
            (held.contains(&ORPHAN) || (default == Dependents::Orphan && !foreground), foreground)
        }
    };
    let mut finalizers: Vec<String> =
        held.iter().filter(|one| **one != ORPHAN && **one != FOREGROUND).map(|one| (*one).to_owned()).collect();
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    let before: BTreeSet<&str> = held.into_iter().collect();
    let after: BTreeSet<&str> = finalizers.iter().map(String::as_str).collect();
    (before != after).then_some(finalizers)
}

/// `None` if somebody else was faster.
async fn carry_out(
    core: &Core,
    call: &Call,
    current: Current,
    plan: Plan,
    options: &DeleteOptions,
) -> Result<Option<Deleted>, Status> {
    let collection = &*call.resource.collection;
    let when = Precondition::ModifiedAt(current.entry.modified);
    let key = std::sync::Arc::clone(&current.entry.key);
    match plan {
        Plan::Pending => {
            Ok(Some(Deleted::Object(Stored { object: current.object, entry: Some(current.entry) }, false)))
        }
        Plan::Mark(mut next) => {
            if options.dry_run {
                return Ok(Some(Deleted::Object(Stored { object: next, entry: None }, false)));
            }
            if next == current.object {
                return Ok(Some(Deleted::Object(Stored { object: next, entry: Some(current.entry) }, false)));
            }
            match write::put(core, collection, key, &mut next, when).await {
                Ok(entry) => {
                    core.hooks.updated(core, collection, &next, &current.object);
                    Ok(Some(Deleted::Object(Stored { object: next, entry: Some(entry) }, false)))
                }
                Err(Refused::Conflict) => Ok(None),
                Err(Refused::Failed(status)) => Err(status),
            }
        }
        Plan::Remove(mut last) => {
            let mut revision = current.entry.modified;
            let mut when = when;
            let marked = last != current.object;
            if !options.dry_run && marked {
                // Watchers see that the object is going before they see it gone.
                match write::put(core, collection, std::sync::Arc::clone(&key), &mut last, when).await {
                    Ok(entry) => when = Precondition::ModifiedAt(entry.modified),
                    Err(Refused::Conflict) => return Ok(None),
                    Err(Refused::Failed(status)) => return Err(status),
                }
            }
            if !options.dry_run {
                match write::remove(core, std::sync::Arc::clone(&key), when).await {
                    Ok(removed) => {
                        if crate::custom::is_definition(collection) {
                            crate::custom::delete_instances(core, &current.object).await?;
                        }
                        revision = removed.map_or(revision, |(_, revision)| revision);
                        core.hooks.deleted(core, collection, &current.object);
                        if crate::custom::is_definition(collection) {
                            crate::custom::reconsider(core, &current.object).await?;
                        }
                    }
                    Err(Refused::Conflict) => {
                        // Whoever saw the mark first, such as the pod's node, may
                        // have carried the deletion out already: that is success.
                        let now = write::current(core, &key).await?;
                        if !marked || now.is_some_and(|now| now.object.uid() == last.uid()) {
                            return Ok(None);
                        }
                    }
                    Err(Refused::Failed(status)) => return Err(status),
                }
            }
            Ok(Some(gone(call, last, revision)))
        }
    }
}

fn gone(call: &Call, mut object: Value, revision: Revision) -> Deleted {
    let collection = &*call.resource.collection;
    if collection.strategy.returns_deleted() {
        object::set_meta(&mut object, "resourceVersion", revision.to_string());
        return Deleted::Object(Stored { object, entry: None }, true);
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut status = Status::success();
    status.details = Some(StatusDetails {
        name: some(object.name()),
        group: some(&collection.group_resource.group),
        kind: some(&collection.group_resource.resource),
        uid: some(object.uid()),
        ..StatusDetails::default()
    });
    Deleted::Gone(status)
}
