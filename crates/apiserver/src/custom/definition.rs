//! CustomResourceDefinitions as objects: defaults and the rules that make them
//! usable (`apiextensions/validation/validation.go`, upstream 1.36).

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::object::{self, Meta, as_map, default, default_text, map_mut};
use crate::strategy::{Column, Generation, Part, Strategy, Write};
use crate::table;

/// The strategy of definitions.
pub(crate) struct Definition;

impl Strategy for Definition {
    fn default(&self, object: &mut Value) {
        let spec = map_mut(object, "spec");
        let names = as_map(spec.entry("names").or_insert(Value::Null));
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !kind.is_empty() {
            default_text(names, "singular", &kind.to_lowercase());
            default_text(names, "listKind", &format!("{kind}List"));
        }
        let conversion = as_map(spec.entry("conversion").or_insert(Value::Null));
        default_text(conversion, "strategy", "None");
        if let Some(service) = conversion
            .get_mut("webhook")
            .and_then(|webhook| webhook.get_mut("clientConfig"))
            .and_then(|config| config.get_mut("service"))
            .filter(|service| service.is_object())
        {
            default(as_map(service), "port", 443);
        }
        if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
            spec.remove("preserveUnknownFields");
        }
    }

    fn prepare_create(&self, object: &mut Value, _write: &mut Write<'_>) {
        let storage = object::items(object, "spec.versions").iter().find(|one| one["storage"] == true);
        let stored: Vec<Value> = storage.and_then(|one| one.get("name")).cloned().into_iter().collect();
        let status = json!({
            "conditions": null,
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": stored,
        });
        as_map(object).insert("status".to_owned(), status);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, write: &mut Write<'_>) {
        if write.part != Part::Main {
            return;
        }
        let storage = object::items(new, "spec.versions").iter().find(|one| one["storage"] == true);
        let Some(storage) = storage.and_then(|one| one.get("name")).cloned() else { return };
        let stored = map_mut(new, "status").entry("storedVersions").or_insert_with(|| json!([]));
        if let Some(stored) = stored.as_array_mut().filter(|stored| !stored.contains(&storage)) {
            stored.push(storage);
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Errors) {
        validate(object, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part, errors: &mut Errors) {
        if part == Part::Status {
            return;
        }
        let spec = Path::new("spec");
        let established = object::items(old, "status.conditions")
            .iter()
            .any(|one| one["type"] == "Established" && one["status"] == "True");
        if established {
            let names = spec.child("names");
            for (path, field) in [
                ("spec.group", spec.child("group")),
                ("spec.scope", spec.child("scope")),
                ("spec.names.kind", names.child("kind")),
                ("spec.names.plural", names.child("plural")),
            ] {
                if object::at(new, path) != object::at(old, path) {
                    errors.invalid(&field, object::at(new, path), "field is immutable");
                }
            }
        }
        validate(new, errors);
    }

    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        table::name_and_age()
    }
}

fn validate(definition: &Value, errors: &mut Errors) {
    let spec = Path::new("spec");
    let names_path = spec.child("names");
    let text = |path: &str| object::text(definition, path);
    let (group, plural) = (text("spec.group"), text("spec.names.plural"));
    let required_name = format!("{plural}.{group}");
    if definition.name() != required_name {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid_text(&Path::new("metadata").child("name"), definition.name(), detail);
    }
    if group.is_empty() {
        errors.required(&spec.child("group"), "");
    } else if let Some(message) = api::names::dns1123_subdomain(group).first() {
        errors.invalid_text(&spec.child("group"), group, message);
    } else if !group.contains('.') {
        errors.invalid_text(&spec.child("group"), group, "should be a domain with at least one dot");
    }
    match text("spec.scope") {
        "" => errors.required(&spec.child("scope"), ""),
        "Cluster" | "Namespaced" => {}
        other => errors.not_supported(&spec.child("scope"), &other.into(), &["Cluster", "Namespaced"]),
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = object::at(definition, "spec.names")[field].as_str().unwrap_or_default().to_owned();
        if value.is_empty() {
            errors.required(&names_path.child(field), "");
            continue;
        }
        for message in api::names::dns1035_label(&value.to_lowercase()) {
            errors.invalid_text(&names_path.child(field), &value, &message);
        }
    }
    versions(definition, &spec, errors);
}

fn versions(definition: &Value, spec: &Path<'_>, errors: &mut Errors) {
    let path = spec.child("versions");
    let versions = object::items(definition, "spec.versions");
    let storage = versions.iter().filter(|one| one["storage"] == true).count();
    if storage != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(&path, object::at(definition, "spec.versions"), detail);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = version["name"].as_str().unwrap_or_default();
        for message in api::names::dns1035_label(name) {
            errors.invalid_text(&path.child("name"), name, &message);
        }
        if seen.contains(&name) {
            errors.invalid(&path, object::at(definition, "spec.versions"), "must contain unique version names");
        }
        seen.push(name);
        let schema_path = path.child("schema");
        if !object::at(version, "schema.openAPIV3Schema").is_object() {
            errors.required(&schema_path.child("openAPIV3Schema"), "schemas are required");
        } else {
            let kind = object::at(version, "schema.openAPIV3Schema.type");
            let open_api = schema_path.child("openAPIV3Schema");
            match kind.as_str() {
                Some("object") => super::rules::check(object::at(version, "schema.openAPIV3Schema"), &open_api, errors),
                None | Some("") => errors.required(&open_api.child("type"), "must not be empty at the root"),
                Some(_) => errors.invalid(&open_api.child("type"), kind, "must be object at the root"),
            }
        }
    }
}
