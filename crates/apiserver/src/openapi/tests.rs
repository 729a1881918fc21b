//! The OpenAPI documents.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::gvk::{GroupVersion, GroupVersionKind};
use api::schema::Schema;

use super::published::Published;
use super::*;
use crate::kinds_table::{SchemaRef, Subresource};

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
        differences(&parse(&v3(&served, &name).unwrap()), &theirs, &name, &mut wrong);
    }
    let all: Value = serde_json::from_slice(&std::fs::read(folder.join("v2.json")).unwrap()).unwrap();
    let ours = v2(&served);
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

fn widget(schema: Value) -> Arc<Kind> {
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
        published: Some(Arc::new(Published::new(schema, vec!["spec.color".into()]))),
    })
}

#[test]
fn custom_kinds_join_the_documents() {
    let served =
        Served::new(std::iter::once(widget(json!({"type": "object", "properties": {"spec": {"type": "object"}}}))));
    let index = parse(&v3_index(&served));
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = v3(&served, "apis/example.com/v1").unwrap();
    assert!(url.ends_with(&document.etag));
    let document = parse(&document);
    let item = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"];
    assert_eq!(item["patch"]["operationId"], "patchExampleComV1NamespacedWidget");
    assert_eq!(
        item["patch"]["x-kubernetes-group-version-kind"],
        json!({"group": "example.com", "version": "v1", "kind": "Widget"})
    );
    assert!(document["paths"].get("/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale").is_none());
    let media = |of: &Value| of["content"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let plain = ["application/json", "application/yaml"];
    assert_eq!(media(&item["get"]["responses"]["200"]), plain);
    assert_eq!(media(&item["put"]["requestBody"]), plain);
    assert!(item["patch"]["responses"].get("201").is_none());
    let list = &document["paths"]["/apis/example.com/v1/widgets"]["get"];
    assert_eq!(list["description"], "list objects of kind Widget");
    let definition = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(definition["properties"]["spec"]["type"], "object");
    assert_eq!(definition["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}]));
    assert!(document["components"]["schemas"].get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
    let other = v3(&Served::new(std::iter::once(widget(json!({"type": "object"})))), "apis/example.com/v1").unwrap();
    assert!(!url.ends_with(&other.etag));
    assert!(v3(&served, "apis/example.com/v2").is_none());
    assert!(v2(&served)["definitions"].get("com.example.v1.WidgetList").is_some());
}

/// Both forms of a schema that stands at `spec.a`.
fn published(schema: Value) -> (Value, Value) {
    let root = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": schema}}}});
    let served = Served::new(std::iter::once(widget(root)));
    let first = parse(&v3(&served, "apis/example.com/v1").unwrap());
    let at =
        |definitions: &Value| definitions["com.example.v1.Widget"]["properties"]["spec"]["properties"]["a"].clone();
    (at(&v2(&served)["definitions"]), at(&first["components"]["schemas"]))
}

#[test]
fn schemas_of_definitions_are_published_as_upstream_words_them() {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let unknown = "x-kubernetes-preserve-unknown-fields";
    let cases = [
        (
            json!({"type": "string", "nullable": true, "default": "red", "enum": ["red"], "pattern": ""}),
            json!({"enum": ["red"]}),
            json!({"type": "string", "nullable": true, "default": "red", "enum": ["red"]}),
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "description": "How big"}),
            json!({"x-kubernetes-int-or-string": true, "description": "How big"}),
            json!({"x-kubernetes-int-or-string": true, "description": "How big", "anyOf": either}),
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"minLength": 3}]}),
            json!({"x-kubernetes-int-or-string": true}),
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"minLength": 3}], "allOf": [{"anyOf": either}]}),
        ),
        (
            json!({"type": "object", unknown: true, "properties": {"b": {"type": "string"}}}),
            json!({unknown: true}),
            json!({"type": "object", unknown: true, "properties": {"b": {"type": "string"}}}),
        ),
        (
            json!({"type": "array", unknown: true, "items": {"type": "string"}}),
            json!({unknown: true}),
            json!({"type": "array", unknown: true, "items": {"type": "string"}}),
        ),
        (
            json!({"type": "object", "required": ["b", "c"], "uniqueItems": false, "properties":
                {"b": {"type": "string", "nullable": true}, "c": {"type": "boolean", "default": false}}}),
            json!({"type": "object", "required": ["c"], "properties": {"b": {}, "c": {"type": "boolean"}}}),
            json!({"type": "object", "required": ["b", "c"], "properties":
                {"b": {"type": "string", "nullable": true}, "c": {"type": "boolean", "default": false}}}),
        ),
        (
            json!({"type": "object", "not": {"required": ["b"]}, "oneOf": [{"required": ["b"]}]}),
            json!({"type": "object"}),
            json!({"type": "object", "not": {"required": ["b"]}, "oneOf": [{"required": ["b"]}]}),
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "fieldPath": "", "message": "m"}]}),
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "message": "m"}]}),
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "message": "m"}]}),
        ),
    ];
    for (schema, second, third) in cases {
        let (ours2, ours3) = published(schema.clone());
        assert_eq!(ours2, second, "version 2 of {schema}");
        assert_eq!(ours3, third, "version 3 of {schema}");
    }
}

#[test]
fn objects_within_objects_are_published_with_kind_and_metadata() {
    let (second, third) = published(json!({"type": "object", "x-kubernetes-embedded-resource": true}));
    for (schema, prefix) in [(second, "#/definitions/"), (third, "#/components/schemas/")] {
        assert_eq!(schema["required"], json!(["kind", "apiVersion"]));
        let meta = schema["properties"]["metadata"].to_string();
        assert!(meta.contains(&format!("{prefix}io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")), "{meta}");
    }
}

/// Reads protobuf by field numbers alone, apart from the table that wrote it.
struct Wire<'a>(Vec<(u64, &'a [u8], u64)>);

impl<'a> Wire<'a> {
    fn read(mut bytes: &'a [u8]) -> Self {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let (value, number): (&[u8], u64) = match tag & 7 {
                0 => (&[], varint(&mut bytes)),
                1 => {
                    let (value, rest) = bytes.split_at(8);
                    bytes = rest;
                    (value, 0)
                }
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    (value, 0)
                }
                other => panic!("wire type {other}"),
            };
            fields.push((tag >> 3, value, number));
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |field| field.0 == number).map(|field| field.1)
    }

    fn one(&self, number: u64) -> Option<Wire<'a>> {
        self.all(number).next().map(Wire::read)
    }

    fn texts(&self, number: u64) -> Vec<String> {
        self.all(number).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }

    fn text(&self, number: u64) -> Option<String> {
        self.texts(number).into_iter().next()
    }

    fn named(&self, number: u64) -> BTreeMap<String, Wire<'a>> {
        let entries = self.all(number).map(Wire::read);
        entries.map(|entry| (entry.text(1).unwrap(), entry.one(2).unwrap())).collect()
    }
}

fn any(wire: &Wire<'_>) -> Value {
    serde_json::from_str(&wire.text(2).unwrap()).unwrap()
}

/// A schema as JSON; only what the document has.
fn schema(wire: &Wire<'_>) -> Value {
    let mut out = Map::new();
    for (number, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        out.extend(wire.text(number).map(|text| (name.to_owned(), text.into())));
    }
    let numbers = [(11, "maxLength"), (12, "minLength"), (14, "maxItems"), (15, "minItems"), (17, "maxProperties")];
    for field in &wire.0 {
        if let Some((_, name)) = numbers.iter().find(|one| one.0 == field.0) {
            out.insert((*name).to_owned(), field.2.into());
        }
        if let Some(name) = [(7, "maximum"), (9, "minimum")].iter().find(|one| one.0 == field.0).map(|one| one.1) {
            let number = f64::from_le_bytes(field.1.try_into().unwrap());
            out.insert(name.to_owned(), (number as i64).into());
        }
    }
    let required = wire.texts(19);
    if !required.is_empty() {
        out.insert("required".into(), required.into());
    }
    let choices: Vec<Value> = wire.all(20).map(|bytes| any(&Wire::read(bytes))).collect();
    if !choices.is_empty() {
        out.insert("enum".into(), choices.into());
    }
    if let Some(other) = wire.one(21) {
        let value = other.one(1).map_or_else(|| Value::Bool(other.0[0].2 == 1), |inner| schema(&inner));
        out.insert("additionalProperties".into(), value);
    }
    out.extend(wire.one(22).map(|kind| ("type".to_owned(), kind.text(1).unwrap().into())));
    out.extend(wire.one(23).map(|items| ("items".to_owned(), schema(&items.one(1).unwrap()))));
    if let Some(properties) = wire.one(25) {
        let all: Map<String, Value> =
            properties.named(1).into_iter().map(|(name, property)| (name, schema(&property))).collect();
        out.insert("properties".into(), all.into());
    }
    out.extend(wire.named(31).into_iter().map(|(name, value)| (name, any(&value))));
    Value::Object(out)
}

#[test]
fn the_protobuf_form_says_what_the_json_form_says() {
    let custom = json!({"type": "object", "properties": {"spec": {"type": "object", "maxProperties": 3, "properties": {
        "n": {"type": "integer", "minimum": 2, "maximum": 9, "enum": [3, 4]},
        "s": {"type": "string", "maxLength": 300, "minLength": 1, "pattern": "^a", "title": "T"},
        "m": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
        "o": {"type": "object", "additionalProperties": true},
    }}}});
    let document = v2(&Served::new(std::iter::once(widget(custom))));
    let bytes = protobuf::document(&document);
    let wire = Wire::read(&bytes);
    assert_eq!(wire.text(1).as_deref(), Some("2.0"));
    assert_eq!(wire.one(2).unwrap().text(1).as_deref(), Some("Kubernetes"));
    let definitions = wire.one(9).unwrap().named(1);
    assert_eq!(definitions.len(), document["definitions"].as_object().unwrap().len());
    for (name, definition) in &definitions {
        assert_eq!(schema(definition), document["definitions"][name], "{name}");
    }
    let paths = wire.one(8).unwrap().named(2);
    assert_eq!(paths.len(), document["paths"].as_object().unwrap().len());
    let verbs = [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (path, item) in &paths {
        for (number, verb) in verbs {
            let theirs = &document["paths"][path][verb];
            let Some(operation) = item.one(number) else {
                assert!(theirs.is_null(), "{path} {verb}");
                continue;
            };
            assert_eq!(operation.text(5).as_deref(), theirs["operationId"].as_str());
            assert_eq!(json!(operation.texts(6)), theirs["produces"]);
            assert_eq!(json!(operation.texts(7)), theirs["consumes"]);
            let parameters = theirs["parameters"].as_array().map(Vec::len).unwrap_or_default();
            assert_eq!(operation.all(8).count(), parameters, "{path} {verb}");
            let responses = operation.one(9).unwrap().named(1);
            assert_eq!(responses.len(), theirs["responses"].as_object().unwrap().len());
            for (code, response) in responses {
                let said = response.one(1).and_then(|response| response.text(1));
                assert_eq!(said.as_deref(), theirs["responses"][&code]["description"].as_str());
            }
            let kind = operation.named(13).get("x-kubernetes-group-version-kind").map(any);
            assert_eq!(kind.unwrap_or_default(), theirs["x-kubernetes-group-version-kind"]);
        }
    }
    let security = wire.one(13).unwrap().named(1);
    assert_eq!(security["BearerToken"].one(2).unwrap().text(3).as_deref(), Some("header"));
}
