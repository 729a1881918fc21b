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
        let (group, plural) = (object::text(object, "spec.group"), object::text(object, "spec.names.plural"));
        if object.name() != format!("{plural}.{group}") {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.invalid_text(&Path::new("metadata").child("name"), object.name(), detail);
        }
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
    let text = |path: &str| object::text(definition, path);
    let group = text("spec.group");
    if group.is_empty() {
        errors.required(&spec.child("group"), "");
    } else if !api::names::dns1123_subdomain(group).is_empty() {
        one_text(&spec.child("group"), group, &api::names::dns1123_subdomain(group), errors);
    } else if !group.contains('.') {
        errors.invalid_text(&spec.child("group"), group, "should be a domain with at least one dot");
    }
    match text("spec.scope") {
        "" => errors.required(&spec.child("scope"), ""),
        "Cluster" | "Namespaced" => {}
        other => errors.not_supported(&spec.child("scope"), &other.into(), &["Cluster", "Namespaced"]),
    }
    let all = object::items(definition, "spec.versions");
    versions(definition, all, &spec, errors);
    names(object::at(definition, "spec.names"), &spec.child("names"), errors);
    // What is equal in all versions is said once.
    let first = all.first().unwrap_or(&Value::Null);
    if shared(all, "schema") {
        schema(first, &spec.child("validation"), errors);
    }
    if shared(all, "subresources") {
        subresources(first, &spec, errors);
    }
    if shared(all, "additionalPrinterColumns") {
        columns(first, &spec, errors);
    }
    if shared(all, "selectableFields") {
        selectable(first, &spec, errors);
    }
    conversion(object::at(definition, "spec.conversion"), &spec.child("conversion"), errors);
    if object::at(definition, "spec.preserveUnknownFields") == true {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&spec.child("preserveUnknownFields"), &true.into(), detail);
    }
    stored_versions(definition, errors);
    approval(definition, group, errors);
}

/// True if every version says the same of this.
fn shared(versions: &[Value], field: &str) -> bool {
    versions.windows(2).all(|pair| pair[0].get(field) == pair[1].get(field))
}

fn one_text(path: &Path<'_>, value: &str, findings: &[String], errors: &mut Errors) {
    if !findings.is_empty() {
        errors.invalid_text(path, value, &findings.join(","));
    }
}

fn names(names: &Value, path: &Path<'_>, errors: &mut Errors) {
    let text = |field: &str| names[field].as_str().unwrap_or_default();
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    for field in ["plural", "singular"] {
        if !text(field).is_empty() {
            one_text(&path.child(field), text(field), &api::names::dns1035_label(text(field)), errors);
        }
    }
    for field in ["kind", "listKind"] {
        let findings = api::names::dns1035_label(&text(field).to_lowercase());
        if !text(field).is_empty() && !findings.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", findings.join(","));
            errors.invalid_text(&path.child(field), text(field), &detail);
        }
    }
    let list = |field: &str, errors: &mut Errors| {
        for (index, name) in names[field].as_array().into_iter().flatten().filter_map(Value::as_str).enumerate() {
            one_text(&path.child(field).index(index), name, &api::names::dns1035_label(name), errors);
        }
    };
    list("shortNames", errors);
    if !text("kind").is_empty() && text("kind") == text("listKind") {
        errors.invalid_text(&path.child("listKind"), text("listKind"), "kind and listKind may not be the same");
    }
    list("categories", errors);
}

fn versions(definition: &Value, versions: &[Value], spec: &Path<'_>, errors: &mut Errors) {
    let path = spec.child("versions");
    let mut seen: Vec<&str> = Vec::new();
    let mut unique = true;
    for (index, version) in versions.iter().enumerate() {
        if !object::at(version, "schema.openAPIV3Schema").is_object() {
            errors.required(&path.index(index).child("schema").child("openAPIV3Schema"), "");
        }
    }
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = version["name"].as_str().unwrap_or_default();
        one_text(&path.child("name"), name, &api::names::dns1035_label(name), errors);
        unique &= !seen.contains(&name);
        seen.push(name);
        if !shared(versions, "schema") {
            schema(version, &path.child("schema"), errors);
        }
        if !shared(versions, "subresources") {
            subresources(version, &path, errors);
        }
        if !shared(versions, "additionalPrinterColumns") {
            columns(version, &path, errors);
        }
        if !shared(versions, "selectableFields") {
            selectable(version, &path, errors);
        }
    }
    let shown = object::at(definition, "spec.versions");
    if !unique {
        errors.invalid(&path, shown, "must contain unique version names");
    }
    if versions.iter().filter(|one| one["storage"] == true).count() != 1 {
        errors.invalid(&path, shown, "must have exactly one version marked as storage version");
    }
    // Upstream keeps the first version in a field of its own, too.
    if let Some(first) = seen.first() {
        one_text(&spec.child("version"), first, &api::names::dns1035_label(first), errors);
    }
}

fn schema(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let schema = object::at(version, "schema.openAPIV3Schema");
    if schema.is_object() {
        super::schema::check(schema, &path.child("openAPIV3Schema"), errors);
    }
}

fn subresources(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let scale = &version["subresources"]["scale"];
    if !scale.is_object() {
        return;
    }
    let parts = path.child("subresources");
    let path = parts.child("scale");
    let mut check = |field: &str, root: &str, required: bool| {
        let text = scale[field].as_str().unwrap_or_default();
        let path = path.child(field);
        if text.is_empty() {
            if required {
                errors.required(&path, "");
            }
        } else if !simple_path(text) {
            errors.invalid_text(&path, text, "must be a simple json path starting with .");
        } else if !root.split('|').any(|root| text.starts_with(root)) {
            let words: Vec<&str> = root.split('|').collect();
            errors.invalid_text(&path, text, &format!("should be a json path under {}", words.join(" or ")));
        }
    };
    check("specReplicasPath", ".spec.", true);
    check("statusReplicasPath", ".status.", true);
    check("labelSelectorPath", ".spec.|.status.", false);
}

/// A path that begins at the object: `.a.b`.
fn simple_path(text: &str) -> bool {
    text.starts_with('.')
}

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

fn columns(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let all = path.child("additionalPrinterColumns");
    for (index, column) in object::items(version, "additionalPrinterColumns").iter().enumerate() {
        let path = all.index(index);
        let text = |field: &str| column[field].as_str().unwrap_or_default();
        if text("name").is_empty() {
            errors.required(&path.child("name"), "");
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        if text("type").is_empty() {
            errors.required(&path.child("type"), &types);
        } else if !COLUMN_TYPES.contains(&text("type")) {
            errors.invalid_text(&path.child("type"), text("type"), &types);
        }
        if !text("format").is_empty() && !COLUMN_FORMATS.contains(&text("format")) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.invalid_text(&path.child("format"), text("format"), &detail);
        }
        // Upstream's internal name of the field.
        let place = path.child("JSONPath");
        if text("jsonPath").is_empty() {
            errors.required(&place, "");
        } else if !simple_path(text("jsonPath")) {
            errors.invalid_text(&place, text("jsonPath"), "must be a simple json path starting with .");
        }
    }
}

/// Fields that a version may offer to selectors.
const SELECTABLE_FIELDS: usize = 8;

fn selectable(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let all = path.child("selectableFields");
    let root = object::at(version, "schema.openAPIV3Schema");
    let mut seen: Vec<String> = Vec::new();
    for (index, one) in object::items(version, "selectableFields").iter().enumerate() {
        let text = one["jsonPath"].as_str().unwrap_or_default();
        let entry = all.index(index);
        let path = entry.child("jsonPath");
        if text.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if text.contains('[') {
            errors.invalid_text(&path, text, "is an invalid path: array notation is not allowed");
            continue;
        }
        let Some(normal) = super::rules::field_path(text, root) else {
            errors.invalid_text(&path, text, "is an invalid path: does not refer to a valid field");
            continue;
        };
        if normal.split('.').next() == Some("metadata") {
            errors.invalid_text(&path, text, "must not point to fields in metadata");
        }
        let found = normal.split('.').try_fold(root, |schema, name| schema["properties"].get(name));
        if !matches!(found.and_then(|schema| schema["type"].as_str()), Some("string" | "boolean" | "integer")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid_text(&path, text, detail);
        }
        if seen.contains(&normal) {
            errors.duplicate(&path, &text.into());
        } else {
            seen.push(normal);
        }
    }
    if seen.len() > SELECTABLE_FIELDS {
        errors.too_many(&all, seen.len(), SELECTABLE_FIELDS);
    }
}

fn conversion(conversion: &Value, path: &Path<'_>, errors: &mut Errors) {
    let webhook = &conversion["webhook"];
    match conversion["strategy"].as_str().unwrap_or_default() {
        "" => errors.required(&path.child("strategy"), ""),
        "Webhook" => {
            if !webhook["clientConfig"].is_object() {
                let detail = "required when strategy is set to Webhook";
                errors.required(&path.child("webhookClientConfig"), detail);
            }
            let reviews = webhook["conversionReviewVersions"].as_array().map(Vec::as_slice).unwrap_or_default();
            if reviews.is_empty() {
                errors.required(&path.child("conversionReviewVersions"), "");
            } else if !reviews.iter().any(|one| one == "v1" || one == "v1beta1") {
                let detail = "must include at least one of v1, v1beta1";
                errors.invalid(&path.child("conversionReviewVersions"), &reviews.into(), detail);
            }
        }
        "None" => {
            let detail = "should not be set when strategy is not set to Webhook";
            if !webhook["clientConfig"].is_null() {
                errors.forbidden(&path.child("webhookClientConfig"), detail);
            }
            if webhook["conversionReviewVersions"].as_array().is_some_and(|list| !list.is_empty()) {
                errors.forbidden(&path.child("conversionReviewVersions"), detail);
            }
        }
        other => errors.not_supported(&path.child("strategy"), &other.into(), &["None", "Webhook"]),
    }
}

fn stored_versions(definition: &Value, errors: &mut Errors) {
    let stored = object::items(definition, "status.storedVersions");
    let status = Path::new("status");
    let path = status.child("storedVersions");
    if stored.is_empty() {
        errors.invalid(&path, &Value::Null, "must have at least one stored version");
        return;
    }
    let versions = object::items(definition, "spec.versions");
    let named = |name: &Value| versions.iter().any(|version| version["name"] == *name);
    // Of two storage versions upstream means the last.
    let storage = versions.iter().rev().find(|version| version["storage"] == true).map(|version| &version["name"]);
    if let Some(storage) = storage.filter(|storage| !stored.contains(storage)) {
        let detail = format!("must have the storage version {}", storage.as_str().unwrap_or_default());
        errors.invalid(&path, &stored.into(), &detail);
    }
    for (index, name) in stored.iter().enumerate().filter(|(_, name)| !named(name)) {
        let text = name.as_str().unwrap_or_default();
        let detail = format!(
            "missing from spec.versions; {text} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {text} and removes {text} from status.storedVersions"
        );
        errors.invalid(&path.index(index), name, &detail);
    }
}

const APPROVED: &str = "api-approved.kubernetes.io";

/// Groups of the community are not for everybody.
fn approval(definition: &Value, group: &str, errors: &mut Errors) {
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|end| group == *end || group.ends_with(&format!(".{end}")));
    if !protected {
        return;
    }
    let annotation = definition.meta("annotations")[APPROVED].as_str().unwrap_or_default();
    let metadata = Path::new("metadata");
    let annotations = metadata.child("annotations");
    let path = annotations.key(APPROVED);
    if annotation.is_empty() {
        let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        errors.required(&path, detail);
    } else if !(annotation.starts_with("unapproved")
        || annotation.starts_with("https://")
        || annotation.starts_with("http://"))
    {
        let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
        errors.invalid_text(&path, annotation, detail);
    }
}
