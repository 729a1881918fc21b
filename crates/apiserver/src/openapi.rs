//! The OpenAPI documents, version 2 and 3, as functions of the kinds in effect.
//! They are made when asked for: clients that ask are few, and the text is large.

mod custom;
mod definitions;
mod operations;
mod protobuf;

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::discovery::{Document, KindRef, Served, Version};
use crate::kinds_table::Kind;

use definitions::{Definitions, Style};
use operations::Operations;

/// Where the `openAPIV3Schema` of custom kinds is found.
pub type CustomSchemas<'a> = &'a dyn Fn(&Kind) -> Option<Value>;

/// `/openapi/v3`: every document with a hash of its content.
pub fn v3_index(served: &Served, schemas: CustomSchemas<'_>) -> Document {
    let mut paths = Map::new();
    for name in document_names(served) {
        let hash = fingerprint(served, &name, schemas);
        paths.insert(name.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={hash}")}));
    }
    Document::new(Bytes::from(json!({ "paths": paths }).to_string()))
}

/// `/openapi/v3/NAME`: the document of a group and version, such as
/// `apis/apps/v1`; its validator is the hash that the index names.
pub fn v3(served: &Served, name: &str, schemas: CustomSchemas<'_>) -> Option<Document> {
    if !document_names(served).contains(name) {
        return None;
    }
    let mut paths = Operations::builtin().paths(|document| document == name);
    let own = name.strip_prefix("apis/").and_then(|name| name.split_once('/'));
    let own = own.map(|(group, version)| (group.to_owned(), version.to_owned()));
    let mut definitions = Definitions::new(Style::V3, own.into_iter().collect());
    if let Some(version) = custom_version(served, name) {
        for kind in customs(version) {
            let schema = schemas(kind);
            paths.extend(custom::paths(kind));
            definitions.add_custom(kind, schema.as_ref());
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
    Some(Document { body: Bytes::from(document.to_string()), etag: fingerprint(served, name, schemas) })
}

/// `/openapi/v2`: everything in one document, as JSON.
pub fn v2(served: &Served, schemas: CustomSchemas<'_>) -> Document {
    Document::new(Bytes::from(v2_value(served, schemas).to_string()))
}

/// `/openapi/v2` in the protobuf form of gnostic.
pub fn v2_protobuf(served: &Served, schemas: CustomSchemas<'_>) -> Document {
    Document::new(Bytes::from(protobuf::encode(&v2_value(served, schemas))))
}

fn v2_value(served: &Served, schemas: CustomSchemas<'_>) -> Value {
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
            let schema = schemas(kind);
            paths.extend(custom::paths(kind));
            definitions.add_custom(kind, schema.as_ref());
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
fn fingerprint(served: &Served, name: &str, schemas: CustomSchemas<'_>) -> String {
    let mut text = format!("{} {name}", env!("CARGO_PKG_VERSION"));
    if let Some(version) = custom_version(served, name) {
        for kind in customs(version) {
            text.push_str(&format!("{:?}{}{:?}", kind.gvk, kind.resource, kind.subresources));
            text.push_str(&schemas(kind).unwrap_or_default().to_string());
        }
    }
    Document::new(Bytes::from(text)).etag
}

#[cfg(test)]
mod tests;
