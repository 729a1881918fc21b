//! What may change in a pod that exists: few fields by an update, cpu and
//! memory by a resize (`ValidatePodUpdate`, `ValidatePodResize`, 1.36). What a
//! new pod must look like is not said here.

use serde_json::{Map, Value};

use super::{qos, same};
use crate::field::{Errors, Path};
use crate::object::{self, Meta};

const SPEC: Path<'static> = Path::new("spec");
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What an update may change, as the refusal lists it.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// Longest active deadline, seconds.
const MAX_DEADLINE: i64 = i32::MAX as i64;
/// Changed fields that a refusal names at most.
const MAX_NAMED: usize = 10;

/// An update of the pod itself.
pub(super) fn main(new: &Value, old: &Value, errors: &mut Errors) {
    for list in ["containers", "initContainers"] {
        let path = SPEC.child(list);
        let (new, old) = (containers(new, list), containers(old, list));
        if new.len() != old.len() {
            errors.forbidden(&path, "pod updates may not add or remove containers");
            return;
        }
        for (index, container) in new.iter().enumerate() {
            let item = path.index(index);
            let image = object::text(container, "image");
            if image.is_empty() {
                errors.required(&item.child("image"), "");
            } else if image.trim() != image {
                errors.invalid_text(&item.child("image"), image, "must not have leading or trailing whitespace");
            }
        }
    }
    if !deadline(new, old, errors) {
        return;
    }
    tolerations(new, old, errors);
    scheduling_gates(new, old, errors);
    let mut munged = object::at(new, "spec").clone();
    let before = object::at(old, "spec");
    munge(&mut munged, before);
    if !object::items(old, "spec.schedulingGates").is_empty() {
        gated(&mut munged, before, errors);
    }
    if !same::semantically(&munged, before) {
        let mut changed = same::differences(&munged, before);
        changed.truncate(MAX_NAMED);
        let changed: Vec<String> = changed.iter().map(|path| format!("@@ spec{path}")).collect();
        errors.forbidden(
            &SPEC,
            &format!("pod updates may not change fields other than {UPDATABLE}\n{}", changed.join("\n")),
        );
    }
}

fn containers<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    object::at(pod, "spec").get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// False if nothing more is to be said.
fn deadline(new: &Value, old: &Value, errors: &mut Errors) -> bool {
    let path = SPEC.child("activeDeadlineSeconds");
    let (value, before) =
        (object::at(new, "spec.activeDeadlineSeconds"), object::at(old, "spec.activeDeadlineSeconds"));
    match (value.as_i64(), before.as_i64()) {
        (Some(seconds), _) if !(0..=MAX_DEADLINE).contains(&seconds) => {
            errors.invalid(&path, value, &format!("must be between 0 and {MAX_DEADLINE}, inclusive"));
            false
        }
        (Some(seconds), Some(before)) if before < seconds => {
            errors.invalid(&path, value, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(&path, &Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let without_time = |toleration: &Value| {
        let mut fields = toleration.as_object().cloned().unwrap_or_default();
        fields.remove("tolerationSeconds");
        fields
    };
    let have: Vec<Map<String, Value>> = object::items(new, "spec.tolerations").iter().map(without_time).collect();
    if object::items(old, "spec.tolerations").iter().any(|before| !have.contains(&without_time(before))) {
        errors.forbidden(
            &SPEC.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn scheduling_gates(new: &Value, old: &Value, errors: &mut Errors) {
    let path = SPEC.child("schedulingGates");
    let before = object::items(old, "spec.schedulingGates");
    for (index, gate) in object::items(new, "spec.schedulingGates").iter().enumerate() {
        if !before.iter().any(|one| one["name"] == gate["name"]) {
            let name = object::text(gate, "name");
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path.index(index).child("name"), &why);
        }
    }
}

/// Sets back what may change, so that the rest can be compared.
fn munge(spec: &mut Value, before: &Value) {
    for list in ["containers", "initContainers"] {
        let old = before.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let new = object::as_map(spec).get_mut(list).and_then(Value::as_array_mut);
        for (container, old) in new.into_iter().flatten().zip(old) {
            put(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put(spec, before, field);
    }
    let grace = |spec: &Value| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if grace(before).is_some_and(|grace| grace < 0) && grace(spec) == Some(1) {
        put(spec, before, "terminationGracePeriodSeconds");
    }
}

fn put(target: &mut Value, source: &Value, field: &str) {
    match source.get(field) {
        Some(value) => object::as_map(target).insert(field.to_owned(), value.clone()),
        None => object::as_map(target).remove(field),
    };
}

/// A pod that waits at a gate may still be told more narrowly where to go.
fn gated(spec: &mut Value, before: &Value, errors: &mut Errors) {
    let selector = |spec: &Value| spec.get("nodeSelector").cloned().unwrap_or(Value::Null);
    let (new, old) = (selector(spec), selector(before));
    if !same::semantically(&new, &old) {
        if old.as_object().into_iter().flatten().any(|(key, value)| new.get(key) != Some(value)) {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&SPEC.child("nodeSelector"), &new, why);
        }
        put(spec, before, "nodeSelector");
    }
    let affinity = |spec: &Value| object::at(spec, "affinity.nodeAffinity").clone();
    let (new, old) = (affinity(spec), affinity(before));
    if !same::semantically(&new, &old) {
        node_affinity(&new, &old, errors);
        if object::at(before, "affinity").is_null() && object::at(spec, "affinity").get("podAffinity").is_none() {
            object::as_map(spec).remove("affinity");
        } else {
            object::map_mut(spec, "affinity").insert("nodeAffinity".to_owned(), old);
        }
    }
}

fn node_affinity(new: &Value, old: &Value, errors: &mut Errors) {
    const TERMS: &str = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (affinity, of_node) = (SPEC.child("affinity"), "nodeAffinity");
    let path = affinity.child(of_node);
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = path.child("nodeSelectorTerms");
    let (new, old) = (object::items(new, TERMS), object::items(old, TERMS));
    if old.is_empty() {
        return;
    }
    if new.len() != old.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(&path, &Value::from(new.to_vec()), why);
        return;
    }
    for (index, (term, before)) in new.iter().zip(old).enumerate() {
        let lists = ["matchExpressions", "matchFields"];
        let empty = lists.iter().all(|list| object::items(before, list).is_empty());
        let grown = lists.iter().all(|list| object::items(term, list).starts_with(object::items(before, list)));
        let still_empty = lists.iter().all(|list| object::items(term, list).is_empty());
        if !grown || (empty && !still_empty) {
            errors.invalid(&path.index(index), term, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// A resize.
pub(super) fn resize(new: &Value, old: &Value, errors: &mut Errors) {
    if old.meta("annotations").get(MIRROR).is_some() {
        errors.forbidden(&Path::ROOT, "static pods cannot be resized");
        return;
    }
    if object::text(old, "spec.os.name") == "windows" {
        errors.forbidden(&Path::ROOT, "windows pods cannot be resized");
        return;
    }
    let class = object::at(old, "status.qosClass");
    let had = class.as_str().filter(|class| !class.is_empty()).unwrap_or_else(|| qos::class(old));
    if had != qos::class(new) {
        errors.invalid(&SPEC, class, "Pod QOS Class may not change as a result of resizing");
    }
    if !node_resizes(old) {
        errors.forbidden(&SPEC, "Pod running on node without support for resize");
    }
    let mut munged = object::at(new, "spec").clone();
    let before = object::at(old, "spec");
    pod_level(&mut munged, before, errors);
    if !same_containers(new, old, errors) {
        return;
    }
    let mut found = false;
    for list in ["initContainers", "containers"] {
        let path = SPEC.child(list);
        for (index, (container, before)) in containers(new, list).iter().zip(containers(old, list)).enumerate() {
            if list == "containers" || is_sidecar(before) {
                let item = path.index(index);
                found |= removed(container, before, &item.child("resources"), errors);
            }
        }
    }
    found |= container_changes(&mut munged, before, errors);
    if !found && errors.is_empty() && !same::semantically(&munged, before) {
        errors.forbidden(&SPEC, "only cpu and memory resources are mutable");
    }
}

/// The first container that runs tells by its status whether its node can.
fn node_resizes(pod: &Value) -> bool {
    let mut statuses = object::items(pod, "status.containerStatuses").iter();
    let running = statuses.find(|status| object::at(status, "state.running").is_object());
    running.is_none_or(|status| status.get("resources").is_some() || !states_resources(pod, status))
}

/// A status shows no resources where the container has none.
fn states_resources(pod: &Value, status: &Value) -> bool {
    let container = containers(pod, "containers").iter().find(|container| container["name"] == status["name"]);
    container.is_some_and(|container| object::at(container, "resources").as_object().is_some_and(|r| !r.is_empty()))
}

fn is_sidecar(container: &Value) -> bool {
    object::text(container, "restartPolicy") == "Always"
}

fn same_containers(new: &Value, old: &Value, errors: &mut Errors) -> bool {
    let mut same = true;
    for list in ["containers", "initContainers"] {
        let path = SPEC.child(list);
        let (new, old) = (containers(new, list), containers(old, list));
        if new.len() != old.len() {
            errors.forbidden(&path, &format!("{list} may not be added or removed on resize"));
            same = false;
            continue;
        }
        for (index, (container, before)) in new.iter().zip(old).enumerate() {
            if container["name"] != before["name"] {
                let why = format!("{list} may not be renamed or reordered on resize");
                errors.forbidden(&path.index(index).child("name"), &why);
                same = false;
            }
        }
    }
    same
}

/// Requests and limits may be added and changed, not taken away.
fn removed(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) -> bool {
    let mut any = false;
    for list in ["requests", "limits"] {
        if lacks(object::at(new, "resources"), object::at(old, "resources"), list) {
            errors.forbidden(&path.child(list), &format!("resource {list} cannot be removed"));
            any = true;
        }
    }
    any
}

fn lacks(new: &Value, old: &Value, list: &str) -> bool {
    let new = new.get(list).unwrap_or(&Value::Null);
    let old = old.get(list).and_then(Value::as_object);
    old.into_iter().flatten().any(|(name, _)| new.get(name).is_none())
}

fn pod_level(munged: &mut Value, before: &Value, errors: &mut Errors) {
    let path = SPEC.child("resources");
    let old = before.get("resources").cloned().unwrap_or(Value::Null);
    let Some(new) = munged.get("resources").cloned() else {
        if !old.is_null() {
            errors.forbidden(&path, "pod-level resources cannot be removed");
        }
        return;
    };
    for list in ["requests", "limits"] {
        if lacks(&new, &old, list) {
            errors.forbidden(&path.child(list), &format!("pod-level resource {list} cannot be removed"));
        }
    }
    let back = with_old_amounts(&new, &old);
    if !same::semantically(&back, &old) {
        errors.forbidden(&SPEC, "only cpu and memory resources are mutable at pod-level");
    }
    object::as_map(munged).insert("resources".to_owned(), back);
}

/// Sets back what a resize may change; true if something else was changed.
fn container_changes(munged: &mut Value, before: &Value, errors: &mut Errors) -> bool {
    let mut any = false;
    for list in ["containers", "initContainers"] {
        let path = SPEC.child(list);
        let old = before.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let new = object::as_map(munged).get_mut(list).and_then(Value::as_array_mut);
        for (index, (container, old)) in new.into_iter().flatten().zip(old).enumerate() {
            if list == "initContainers" && !is_sidecar(old) {
                if !same::semantically(container, old) {
                    errors.forbidden(&SPEC, "resources for non-sidecar init containers are immutable");
                    any = true;
                }
                continue;
            }
            let back = with_old_amounts(object::at(container, "resources"), object::at(old, "resources"));
            object::as_map(container).insert("resources".to_owned(), back);
            if same::semantically(container, old) {
                continue;
            }
            any = true;
            if list == "containers" {
                errors.forbidden(&SPEC, "only cpu and memory resources are mutable");
            } else {
                let why = "only cpu and memory resources for init or sidecar containers are mutable";
                errors.forbidden(&path.index(index), why);
            }
        }
    }
    any
}

/// The resources with cpu and memory as they were.
fn with_old_amounts(new: &Value, old: &Value) -> Value {
    let mut back = new.as_object().cloned().unwrap_or_default();
    for list in ["requests", "limits"] {
        let mut amounts = back.get(list).and_then(Value::as_object).cloned().unwrap_or_default();
        for name in ["cpu", "memory"] {
            match old.get(list).and_then(|list| list.get(name)) {
                Some(amount) => amounts.insert(name.to_owned(), amount.clone()),
                None => amounts.remove(name),
            };
        }
        back.insert(list.to_owned(), Value::Object(amounts));
    }
    Value::Object(back)
}

#[cfg(test)]
mod tests;
