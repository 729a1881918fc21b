//! The OpenAPI documents.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::gvk::{GroupVersion, GroupVersionKind};
use api::schema::Schema;

use super::*;
use crate::kinds_table::{SchemaRef, Subresource};

fn none(_: &Kind) -> Option<Value> {
    None
}

fn parse(document: &Document) -> Value {
    serde_json::from_slice(&document.body).unwrap()
}

/// Where the recordings of the release are.
fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    [root.join("../shared/upstream-1.36/openapi"), root.join("../../shared/upstream-1.36/openapi")]
        .into_iter()
        .find(|folder| folder.is_dir())
}

fn differences(ours: &Value, theirs: &Value, path: &str, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let below = format!("{path}/{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => differences(a, b, &below, out),
                    (Some(_), None) => out.push(format!("{below}: only here")),
                    _ => out.push(format!("{below}: missing")),
                }
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{path}: {a} instead of {b}")),
    }
}

#[test]
fn documents_equal_the_recorded_ones() {
    let Some(folder) = folder() else {
        eprintln!("no recordings: the documents are not compared");
        return;
    };
    let served = Served::builtin();
    let mut wrong = Vec::new();
    for name in document_names(&served) {
        let file = format!("v3/{}_openapi.json", name.replace('/', "__"));
        let recorded = folder.join(&file);
        let recorded = if recorded.exists() { recorded } else { continue };
        let theirs: Value = serde_json::from_slice(&std::fs::read(recorded).unwrap()).unwrap();
        differences(&parse(&v3(&served, &name, &none).unwrap()), &theirs, &name, &mut wrong);
    }
    let all: Value = serde_json::from_slice(&std::fs::read(folder.join("v2.json")).unwrap()).unwrap();
    let ours = parse(&v2(&served, &none));
    let options = ["DeleteOptions", "WatchEvent"];
    for (name, definition) in ours["definitions"].as_object().unwrap() {
        // These have a kind in every group, of which the recording has more.
        if options.iter().any(|kind| name.ends_with(&format!("meta.v1.{kind}"))) {
            continue;
        }
        differences(definition, &all["definitions"][name], name, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

fn widget() -> Arc<Kind> {
    let version = GroupVersion::new("example.com", "v1");
    let gvk = GroupVersionKind { group_version: version.clone(), kind: "Widget".into() };
    let status = Subresource { name: "status".into(), gvk: gvk.clone(), foreign: false, verbs: vec!["get".into()] };
    Arc::new(Kind {
        gvk,
        resource: "widgets".into(),
        singular: "widget".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: vec![Cow::Borrowed("get")],
        subresources: vec![status],
        list_kind: "WidgetList".into(),
        storage_version: version,
        storage_prefix: "example.com/widgets".into(),
        storage_hash: "".into(),
        schema: SchemaRef::Custom(Arc::new(Schema::default())),
        definition: "".into(),
    })
}

#[test]
fn custom_kinds_join_the_documents() {
    let served = Served::new(std::iter::once(widget()));
    let schemas = |_: &Kind| Some(json!({"type": "object", "properties": {"spec": {"type": "object"}}}));
    let index = parse(&v3_index(&served, &schemas));
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = v3(&served, "apis/example.com/v1", &schemas).unwrap();
    assert!(url.ends_with(&document.etag));
    let document = parse(&document);
    let item = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"];
    assert_eq!(item["patch"]["operationId"], "patchExampleComV1NamespacedWidget");
    assert_eq!(
        item["patch"]["x-kubernetes-group-version-kind"],
        json!({"group": "example.com", "version": "v1", "kind": "Widget"})
    );
    assert!(document["paths"].get("/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale").is_none());
    let definition = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(definition["properties"]["spec"]["type"], "object");
    assert!(document["components"]["schemas"].get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
    let other = v3(&served, "apis/example.com/v1", &none).unwrap();
    assert!(!url.ends_with(&other.etag));
    assert!(v3(&served, "apis/example.com/v2", &schemas).is_none());
    assert!(parse(&v2(&served, &schemas))["definitions"].get("com.example.v1.WidgetList").is_some());
}
