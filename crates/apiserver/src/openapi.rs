//! The OpenAPI documents, version 2 and 3, as functions of the kinds in effect.
//! They are made when asked for: clients that ask are few, and the text is large.

mod custom;
mod definitions;
mod documents;
mod operations;
mod protobuf;
pub mod published;

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::discovery::{Document, KindRef, Served, Version};
use crate::kinds_table::Kind;

use definitions::{Definitions, Style};
pub(crate) use documents::Documents;
use operations::Operations;

/// `/openapi/v3`: every document with a hash of its content.
pub fn v3_index(served: &Served) -> Document {
    let mut paths = Map::new();
    for name in document_names(served) {
        let hash = fingerprint(served, &name);
        paths.insert(name.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={hash}")}));
    }
    Document::new(Bytes::from(json!({ "paths": paths }).to_string()))
}

/// `/openapi/v3/NAME`: the document of a group and version, such as
/// `apis/apps/v1`; its validator is the hash that the index names.
pub fn v3(served: &Served, name: &str) -> Option<Document> {
    if !document_names(served).contains(name) {
        return None;
    }
    let mut paths = Operations::builtin().paths(|document| document == name);
    let own = name.strip_prefix("apis/").and_then(|name| name.split_once('/'));
    let own = own.map(|(group, version)| (group.to_owned(), version.to_owned()));
    let mut definitions = Definitions::new(Style::V3, own.into_iter().collect());
    if let Some(version) = custom_version(served, name) {
        for kind in customs(version) {
            paths.extend(custom::paths(kind));
            definitions.add_custom(kind);
        }
    }
    let paths = Value::Object(paths);
    definitions.require(&paths);
    let mut components = json!({
        "schemas": definitions.finish(),
        "securitySchemes": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication",
            "name": "authorization", "in": "header"}},
    });
    if components["schemas"].as_object().is_some_and(Map::is_empty) {
        components.as_object_mut().map(|components| components.remove("schemas"));
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": components,
    });
    Some(Document { body: Bytes::from(document.to_string()), etag: fingerprint(served, name) })
}

/// `/openapi/v2`: everything in one document.
pub fn v2(served: &Served) -> Value {
    let names = document_names(served);
    let mut paths = Operations::builtin().paths(|document| names.contains(document));
    let versions = served
        .groups()
        .iter()
        .filter(|group| !group.name.is_empty())
        .flat_map(|group| group.versions.iter().map(|version| (group.name.clone(), version.name.clone())));
    let mut definitions = Definitions::new(Style::V2, versions.collect());
    for name in &names {
        let Some(version) = custom_version(served, name) else { continue };
        for kind in customs(version) {
            paths.extend(custom::paths(kind));
            definitions.add_custom(kind);
        }
    }
    let paths: Map<String, Value> = paths.into_iter().map(|(path, item)| (path, operations::to_v2(item))).collect();
    let paths = Value::Object(paths);
    definitions.require(&paths);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "definitions": definitions.finish(),
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication",
            "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// Names of the documents, built-in ones and those of custom groups.
fn document_names(served: &Served) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = Operations::builtin().documents().map(str::to_owned).collect();
    for group in served.groups() {
        for version in &group.versions {
            if customs(version).next().is_some() {
                names.insert(format!("apis/{}/{}", group.name, version.name));
            }
        }
    }
    names
}

fn custom_version<'a>(served: &'a Served, name: &str) -> Option<&'a Version> {
    let (group, version) = name.strip_prefix("apis/")?.split_once('/')?;
    served.version(group, version)
}

fn customs(version: &Version) -> impl Iterator<Item = &Kind> {
    version.kinds.iter().filter_map(|kind| match kind {
        KindRef::Custom(kind) => Some(kind.as_ref()),
        KindRef::Builtin(_) => None,
    })
}

/// Changes whenever the document does: a hash of what it is made from.
fn fingerprint(served: &Served, name: &str) -> String {
    let mut text = format!("{} {name}", env!("CARGO_PKG_VERSION"));
    if let Some(version) = custom_version(served, name) {
        for kind in customs(version) {
            describe(kind, &mut text);
        }
    }
    Document::new(Bytes::from(text)).etag
}

/// The same, if there is such a document.
fn fingerprint_of(served: &Served, name: &str) -> Option<String> {
    document_names(served).contains(name).then(|| fingerprint(served, name))
}

/// Changes whenever the one document of version 2 does.
fn fingerprint_of_all(served: &Served, form: &str) -> String {
    let mut text = format!("{} {form}", env!("CARGO_PKG_VERSION"));
    for group in served.groups() {
        for version in &group.versions {
            text.push_str(&format!("{}/{}", group.name, version.name));
            customs(version).for_each(|kind| describe(kind, &mut text));
        }
    }
    Document::new(Bytes::from(text)).etag
}

/// All of a custom kind that its documents show.
fn describe(kind: &Kind, text: &mut String) {
    let digest = kind.published.as_ref().map(|published| published.digest()).unwrap_or_default();
    text.push_str(&format!(
        "{:?}{}{}{}{:?}{digest}",
        kind.gvk, kind.resource, kind.list_kind, kind.namespaced, kind.subresources
    ));
}

#[cfg(test)]
mod tests;
