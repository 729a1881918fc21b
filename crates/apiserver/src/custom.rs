//! Custom kinds: what a CustomResourceDefinition adds to the catalogue. From
//! there on they are rows like all others.

use std::borrow::Cow;
use std::sync::Arc;

use api::gvk::{GroupResource, GroupVersion, GroupVersionKind};
use api::schema::Schema;
use api::status::Status;
use serde_json::{Value, json};
use store::{Precondition, Range, Write};

use crate::discovery::{KindRef, version_order};
use crate::kinds_table::{Kind, SchemaRef, Subresource};
use crate::object::{self, Meta, map_mut};
use crate::openapi::published::Published;
use crate::pipeline::write::{self, Refused};
use crate::resource::{Collection, Resource};
use crate::state::Core;

mod column;
pub(crate) mod definition;
mod rules;
mod schema;
mod strategy;
mod validate;

/// Verbs of every custom resource, in discovery's order.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];
/// Attempts to write the status of a definition against concurrent writers.
const ATTEMPTS: usize = 16;
/// Instances deleted in one commit.
const BATCH: usize = 100;

/// True for the collection of definitions.
pub(crate) fn is_definition(collection: &Collection) -> bool {
    let name = &collection.group_resource;
    name.group == "apiextensions.k8s.io" && name.resource == "customresourcedefinitions"
}

/// Puts the rows of a definition into the catalogue, or takes them out if it is
/// not established (any more).
pub(crate) fn defined(core: &Core, definition: &Value) {
    let (group, plural) = (object::text(definition, "spec.group"), object::text(definition, "spec.names.plural"));
    let established = object::items(definition, "status.conditions")
        .iter()
        .any(|one| one["type"] == "Established" && one["status"] == "True");
    let rows = if established { rows(definition) } else { Vec::new() };
    core.catalog.replace_custom(group, plural, rows);
}

/// Takes the rows of a definition out of the catalogue.
pub(crate) fn undefined(core: &Core, definition: &Value) {
    let (group, plural) = (object::text(definition, "spec.group"), object::text(definition, "spec.names.plural"));
    core.catalog.replace_custom(group, plural, Vec::new());
}

/// Puts all stored definitions into the catalogue: at start.
pub(crate) async fn restore(core: &Core) -> Result<(), Status> {
    let definitions = core.collection("apiextensions.k8s.io", "customresourcedefinitions")?;
    for definition in write::all(core, &definitions, "").await? {
        defined(core, &definition.object);
    }
    Ok(())
}

/// Accepts the names of a new definition and establishes it, or says why not.
pub(crate) async fn establish(core: &Core, definition: &Value, stamp: &str) -> Result<(), Status> {
    let definitions = core.collection("apiextensions.k8s.io", "customresourcedefinitions")?;
    let key = definitions.key("", definition.name());
    let (names, conflict) = names(core, definition);
    for _ in 0..ATTEMPTS {
        let Some(current) = write::current(core, &key).await? else { return Ok(()) };
        let mut next = current.object;
        let condition = |kind: &str, status: bool, reason: &str, message: &str| {
            json!({
                "type": kind,
                "status": if status { "True" } else { "False" },
                "lastTransitionTime": stamp,
                "reason": reason,
                "message": message,
            })
        };
        let accepted = match &conflict {
            None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
            Some((reason, message)) => condition("NamesAccepted", false, reason, message),
        };
        let established = match &conflict {
            None => condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted"),
            Some(_) => condition("Established", false, "NotAccepted", "not all names are accepted"),
        };
        let status = map_mut(&mut next, "status");
        status.insert("conditions".to_owned(), json!([accepted, established]));
        status.insert("acceptedNames".to_owned(), names.clone());
        let when = Precondition::ModifiedAt(current.entry.modified);
        match write::put(core, &definitions, Arc::clone(&key), &mut next, when).await {
            Ok(_) => {
                defined(core, &next);
                return Ok(());
            }
            Err(Refused::Conflict) => {}
            Err(Refused::Failed(status)) => return Err(status),
        }
    }
    Err(Status::modified(&definitions.group_resource, definition.name()))
}

/// The names that a definition may have: all it asks for but those that
/// another kind of the group has. With the reason and message of the last
/// refusal.
fn names(core: &Core, definition: &Value) -> (Value, Option<(&'static str, String)>) {
    let group = object::text(definition, "spec.group");
    let wanted = object::at(definition, "spec.names");
    let plural = wanted["plural"].as_str().unwrap_or_default();
    let snapshot = core.catalog.snapshot();
    let others: Vec<&Arc<Resource>> = snapshot
        .values()
        .filter(|one| one.group() == group && one.collection.group_resource.resource != plural)
        .collect();
    let resource_taken = |name: &str| {
        others.iter().any(|other| {
            other.collection.singular == name
                || other.collection.group_resource.resource == name
                || other.row.short_names.iter().any(|short| short == name)
        })
    };
    let kind_taken = |name: &str| others.iter().any(|other| other.kind() == name || other.list_kind == name);
    let mut accepted = json!({"plural": "", "kind": ""});
    let mut refusal = None;
    let refused = |name: &str| format!("\"{name}\" is already in use");
    for (field, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        match wanted[field].as_str() {
            Some(name) if resource_taken(name) => refusal = Some((reason, refused(name))),
            Some(name) => accepted[field] = name.into(),
            None => {}
        }
    }
    let short: Vec<&str> = wanted["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let taken: Vec<String> = short.iter().filter(|name| resource_taken(name)).map(|name| refused(name)).collect();
    match taken.as_slice() {
        [] if short.is_empty() => {}
        [] => accepted["shortNames"] = json!(short),
        [one] => refusal = Some(("ShortNamesConflict", one.clone())),
        many => refusal = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    for (field, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        match wanted[field].as_str() {
            Some(name) if kind_taken(name) => refusal = Some((reason, refused(name))),
            Some(name) => accepted[field] = name.into(),
            None => {}
        }
    }
    if !wanted["categories"].is_null() {
        accepted["categories"] = wanted["categories"].clone();
    }
    (accepted, refusal)
}

/// A definition is gone: others of its group may have its names now.
pub(crate) async fn reconsider(core: &Core, gone: &Value) -> Result<(), Status> {
    let definitions = core.collection("apiextensions.k8s.io", "customresourcedefinitions")?;
    let stamp = api::time::format(api::time::now());
    for other in write::all(core, &definitions, "").await? {
        let refused = object::items(&other.object, "status.conditions")
            .iter()
            .any(|one| one["type"] == "NamesAccepted" && one["status"] == "False");
        if refused && object::at(&other.object, "spec.group") == object::at(gone, "spec.group") {
            establish(core, &other.object, &stamp).await?;
        }
    }
    Ok(())
}

/// Deletes all objects of a definition, without asking their finalizers: the
/// kind is gone.
pub(crate) async fn delete_instances(core: &Core, definition: &Value) -> Result<(), Status> {
    let prefix = prefix(definition);
    loop {
        let range = Range { prefix: prefix.clone(), after: None, limit: BATCH, at: None };
        let page = core.store.range(range).await.map_err(|error| write::read_failed(&error))?;
        if page.entries.is_empty() {
            return Ok(());
        }
        let deletes =
            page.entries.iter().map(|entry| Write::Delete { key: Arc::clone(&entry.key), when: Precondition::Any });
        let committed = core.store.commit(deletes.collect()).await;
        committed.map_err(|error| Status::internal(api::error::Chain(&error)))?;
    }
}

fn prefix(definition: &Value) -> String {
    format!("/registry/{}/{}/", object::text(definition, "spec.group"), object::text(definition, "spec.names.plural"))
}

fn versions(definition: &Value) -> &[Value] {
    object::items(definition, "spec.versions")
}

fn object_meta() -> Option<&'static Schema> {
    crate::kinds_table::builtin().definition("meta.v1.ObjectMeta")
}

/// The rows of a definition, one per served version.
fn rows(definition: &Value) -> Vec<Resource> {
    let names = object::at(definition, "spec.names");
    let text = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
    let list = |field: &str| -> Vec<String> {
        names[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let group = object::text(definition, "spec.group").to_owned();
    let storage = versions(definition).iter().find(|one| one["storage"] == true);
    let Some(storage) = storage.and_then(|one| one["name"].as_str()) else { return Vec::new() };
    let namespaced = object::text(definition, "spec.scope") == "Namespaced";
    let strategy = match strategy::Custom::new(definition) {
        Ok(strategy) => strategy,
        Err(error) => {
            tracing::warn!(err = %error, name = definition.name(), "a definition's schema cannot be used");
            return Vec::new();
        }
    };
    let collection = Arc::new(Collection {
        group_resource: GroupResource { group: group.clone(), resource: text("plural") },
        singular: text("singular"),
        kind: text("kind"),
        hub: format!("{group}/{storage}"),
        prefix: prefix(definition),
        namespaced,
        strategy: Arc::new(strategy),
    });
    let mut rows = Vec::new();
    for version in versions(definition).iter().filter(|one| one["served"] == true) {
        let Some(name) = version["name"].as_str() else { continue };
        let Some(schema) = schema_of(version) else { continue };
        let group_version = GroupVersion::new(group.clone(), name);
        let mut subresources = Vec::new();
        let parts = version.get("subresources");
        let gvk = |group_version: GroupVersion, kind: &str| GroupVersionKind { group_version, kind: kind.to_owned() };
        if parts.is_some_and(|parts| parts.get("status").is_some_and(Value::is_object)) {
            subresources.push(Subresource {
                name: "status".into(),
                gvk: gvk(group_version.clone(), &text("kind")),
                foreign: false,
                verbs: PART_VERBS.map(Cow::Borrowed).to_vec(),
            });
        }
        if parts.is_some_and(|parts| parts.get("scale").is_some_and(Value::is_object)) {
            subresources.push(Subresource {
                name: "scale".into(),
                gvk: gvk(GroupVersion::new("autoscaling", "v1"), "Scale"),
                foreign: true,
                verbs: PART_VERBS.map(Cow::Borrowed).to_vec(),
            });
        }
        let cows = |list: Vec<String>| list.into_iter().map(Cow::Owned).collect::<Vec<_>>();
        let kind = Kind {
            gvk: gvk(group_version.clone(), &text("kind")),
            resource: text("plural").into(),
            singular: text("singular").into(),
            short_names: cows(list("shortNames")),
            categories: cows(list("categories")),
            namespaced,
            verbs: VERBS.map(Cow::Borrowed).to_vec(),
            subresources,
            list_kind: text("listKind").into(),
            storage_version: GroupVersion::new(group.clone(), storage),
            storage_prefix: format!("{group}/{}", text("plural")).into(),
            storage_hash: "".into(),
            schema: SchemaRef::Custom(Arc::new(schema)),
            definition: "".into(),
            published: Some(Arc::new(published(version))),
        };
        rows.push(Resource {
            collection: Arc::clone(&collection),
            version: name.to_owned(),
            api_version: group_version.to_string(),
            list_kind: text("listKind"),
            verbs: VERBS.map(str::to_owned).to_vec(),
            subresources: kind
                .subresources
                .iter()
                .map(|one| (one.name.to_string(), one.verbs.iter().map(|verb| verb.to_string()).collect()))
                .collect(),
            deprecation: deprecation(definition, version),
            convert: None,
            custom: true,
            row: KindRef::Custom(Arc::new(kind)),
        });
    }
    rows
}

/// The warning of a deprecated version: its own, or one that names the best
/// version that is not deprecated.
fn deprecation(definition: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(own) = version["deprecationWarning"].as_str() {
        return Some(own.to_owned());
    }
    let (group, kind) = (object::text(definition, "spec.group"), object::text(definition, "spec.names.kind"));
    let name = version["name"].as_str().unwrap_or_default();
    let better = versions(definition)
        .iter()
        .filter(|one| one["served"] == true && one["deprecated"] != true)
        .filter_map(|one| one["name"].as_str())
        .filter(|one| version_order(one) > version_order(name))
        .max_by_key(|one| version_order(one));
    let advice = better.map(|one| format!("; use {group}/{one} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{advice}"))
}

/// What a version shows in OpenAPI.
fn published(version: &Value) -> Published {
    let fields = object::items(version, "selectableFields").iter().filter_map(|one| one["jsonPath"].as_str());
    let fields = fields.map(|path| path.trim_start_matches('.').to_owned()).collect();
    Published::new(object::at(version, "schema.openAPIV3Schema").clone(), fields)
}

/// The schema of a version; anything goes where there is none.
fn schema_of(version: &Value) -> Option<Schema> {
    let open_api = object::at(version, "schema.openAPIV3Schema");
    Schema::from_crd(open_api, object_meta()?).ok()
}
