//! Rules of `metadata`, the same for every kind
//! (`apimachinery/pkg/api/validation/objectmeta.go`, 1.36).

use std::collections::BTreeSet;

use api::names;
use serde_json::Value;

use super::names::NameRule;
use crate::field::{Errors, Path};
use crate::object::Meta;

/// All annotations of an object together, keys and values, bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;
/// `managedFields[].manager`, bytes.
const MANAGER_LIMIT: usize = 128;
/// `managedFields[].subresource`, bytes.
const SUBRESOURCE_LIMIT: usize = 256;
const IMMUTABLE: &str = "field is immutable";

/// Rules for the metadata of a new object, after its name was generated.
pub(crate) fn create(object: &Value, namespaced: bool, rule: NameRule, errors: &mut Errors) {
    let path = Path::new("metadata");
    let generate = object.meta_text("generateName");
    if !generate.is_empty() {
        for message in rule.check(generate, true) {
            errors.invalid_text(&path.child("generateName"), generate, &message);
        }
    }
    let name = object.name();
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for message in rule.check(name, false) {
            errors.invalid_text(&path.child("name"), name, &message);
        }
    }
    let namespace = object.namespace();
    if namespaced {
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "");
        } else {
            for message in names::dns1123_label(namespace) {
                errors.invalid_text(&path.child("namespace"), namespace, &message);
            }
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    common(object, &path, errors);
}

/// Rules for the metadata of a changed object.
pub(crate) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    if old.deleting() {
        let held: BTreeSet<&str> = old.finalizers().into_iter().collect();
        let extra: BTreeSet<&str> = new.finalizers().into_iter().filter(|one| !held.contains(one)).collect();
        if !extra.is_empty() {
            let listed: Vec<String> = extra.iter().map(|one| format!("\"{one}\"")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                listed.join(", ")
            );
            errors.forbidden(&path.child("finalizers"), &detail);
        }
    }
    if new.resource_version().is_empty() {
        errors.invalid_text(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    if new.generation() < old.generation() {
        errors.invalid(&path.child("generation"), new.meta("generation"), "must not be decremented");
    }
    for field in ["name", "namespace", "uid"] {
        if new.meta_text(field) != old.meta_text(field) {
            errors.invalid_text(&path.child(field), new.meta_text(field), IMMUTABLE);
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.meta(field) != old.meta(field) {
            errors.invalid(&path.child(field), new.meta(field), IMMUTABLE);
        }
    }
    common(new, &path, errors);
}

fn common(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    if object.generation() < 0 {
        errors.invalid(&path.child("generation"), object.meta("generation"), "must be greater than or equal to 0");
    }
    labels(object.meta("labels"), &path.child("labels"), errors);
    annotations(object.meta("annotations"), &path.child("annotations"), errors);
    owner_references(object.meta("ownerReferences"), &path.child("ownerReferences"), errors);
    finalizers(object, &path.child("finalizers"), errors);
    managed_fields(object.meta("managedFields"), &path.child("managedFields"), errors);
}

/// Keys and values of a label map.
pub(crate) fn labels(labels: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for message in names::qualified_name(key) {
            errors.invalid_text(path, key, &message);
        }
        let value = value.as_str().unwrap_or_default();
        for message in names::label_value(value) {
            errors.invalid_text(&path.key(key), value, &message);
        }
    }
}

/// Keys and total size of annotations.
pub(crate) fn annotations(annotations: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for message in names::qualified_name(&key.to_lowercase()) {
            errors.invalid_text(path, key, &message);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(path, ANNOTATIONS_LIMIT);
    }
}

fn owner_references(references: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for reference in references.as_array().into_iter().flatten() {
        let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
        let api_version = text("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.invalid_text(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.invalid_text(&path.child(field), "", "must not be empty");
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            errors.invalid(path, reference, "/v1, Kind=Event is disallowed from being an owner");
        }
        if reference.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.invalid(path, references, &detail);
                }
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    let finalizers = object.finalizers();
    for finalizer in &finalizers {
        for message in names::qualified_name(finalizer) {
            errors.invalid_text(path, finalizer, &message);
        }
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, object.meta("finalizers"), detail);
    }
}

fn managed_fields(entries: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (index, entry) in entries.as_array().into_iter().flatten().enumerate() {
        let path = path.index(index);
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            errors.invalid_text(&path.child("operation"), text("operation"), "must be `Apply` or `Update`");
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            errors.invalid_text(&path.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`");
        }
        field_manager(text("manager"), &path.child("manager"), errors);
        if text("subresource").len() > SUBRESOURCE_LIMIT {
            errors.too_long(&path.child("subresource"), SUBRESOURCE_LIMIT);
        }
    }
}

/// Length and characters of a field manager's name.
pub(crate) fn field_manager(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.len() > MANAGER_LIMIT {
        errors.too_long(path, MANAGER_LIMIT);
    }
    for (position, c) in name.char_indices() {
        if c.is_control() || (c.is_whitespace() && c != ' ') {
            let detail = format!("invalid character U+{:04X} (at position {position})", c as u32);
            errors.invalid_text(path, name, &detail);
        }
    }
}

/// Finalizers of the core group without a domain must be the system's.
pub(crate) fn standard_finalizers(collection: &crate::resource::Collection, object: &Value, errors: &mut Errors) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    if !collection.group_resource.group.is_empty() {
        return;
    }
    let metadata = Path::new("metadata");
    let path = metadata.child("finalizers");
    for (index, finalizer) in object.finalizers().into_iter().enumerate() {
        let well_formed = names::qualified_name(finalizer).is_empty();
        if well_formed && !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid_text(&path.index(index), finalizer, detail);
        }
    }
}
