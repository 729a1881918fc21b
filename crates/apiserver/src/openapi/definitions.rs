//! Definitions of types in both styles of OpenAPI, made from the table of
//! types and the table of descriptions.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use api::schema::{Definition, Field, ListType, MapType, Schema, Shape};
use serde_json::{Map, Value, json};

use crate::kinds_table::{self, Kind};

/// Which version of OpenAPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    V2,
    V3,
}

/// Texts by short type name, and by field within it.
type Descriptions = HashMap<&'static str, (&'static str, HashMap<&'static str, &'static str>)>;

static DESCRIPTIONS: LazyLock<Descriptions> = LazyLock::new(|| {
    let mut all = Descriptions::new();
    let mut current = "";
    for line in include_str!("../../generated/descriptions.txt").lines().filter(|line| !line.starts_with('#')) {
        let field = line.starts_with(' ');
        let (name, text) = line.trim_start().split_once(' ').unwrap_or((line.trim(), ""));
        if field {
            all.entry(current).or_default().1.insert(name, text);
        } else {
            current = name;
            all.entry(name).or_default().0 = text;
        }
    }
    all
});

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => out.push(if chars.next() == Some('n') { '\n' } else { '\\' }),
            (c, false) => out.push(c),
        }
    }
    out.into()
}

/// The definitions that a document needs.
pub(super) struct Definitions {
    style: Style,
    /// Groups and versions of the document, in which options have a kind too.
    versions: Vec<(String, String)>,
    found: BTreeMap<String, Value>,
    pending: Vec<&'static Definition>,
}

impl Definitions {
    pub(super) fn new(style: Style, versions: Vec<(String, String)>) -> Self {
        Self { style, versions, found: BTreeMap::new(), pending: Vec::new() }
    }

    fn prefix(&self) -> &'static str {
        match self.style {
            Style::V2 => "#/definitions/",
            Style::V3 => "#/components/schemas/",
        }
    }

    /// Asks for every type that a value refers to.
    pub(super) fn require(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(target)) => self.want(target),
                        _ => self.require(value),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.require(item)),
            _ => {}
        }
    }

    fn want(&mut self, target: &str) {
        let name = target.strip_prefix(self.prefix()).unwrap_or(target);
        if !self.found.contains_key(name)
            && let Some(definition) = kinds_table::builtin().library().get(name)
        {
            self.found.insert(name.to_owned(), Value::Null);
            self.pending.push(definition);
        }
    }

    /// A custom kind and its list.
    pub(super) fn add_custom(&mut self, kind: &Kind) {
        for (name, definition) in super::custom::definitions(kind, self.prefix(), self.style) {
            self.require(&definition);
            self.found.insert(name, definition);
        }
    }

    /// Everything asked for, and everything that refers to, by name.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(definition) = self.pending.pop() {
            let value = self.definition(definition);
            self.require(&value);
            self.found.insert(definition.full_name(), value);
        }
        self.found.into_iter().collect()
    }

    fn definition(&self, definition: &'static Definition) -> Value {
        let (description, fields) =
            DESCRIPTIONS.get(definition.name()).map_or(("", None), |(text, fields)| (*text, Some(fields)));
        let schema = definition.schema();
        let mut out = if definition.is_special() {
            special(definition, schema, self.style)
        } else {
            self.structure(schema, fields, definition.required().collect())
        };
        if !description.is_empty() {
            out.insert("description".to_owned(), unescaped(description).into());
        }
        let gvk = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
        let mut gvks: Vec<Value> = definition.gvks().map(|(group, version, kind)| gvk(group, version, kind)).collect();
        if let "meta.v1.DeleteOptions" | "meta.v1.WatchEvent" = definition.name() {
            let kind = definition.name().trim_start_matches("meta.v1.");
            gvks.extend(self.versions.iter().map(|(group, version)| gvk(group, version, kind)));
        }
        if !gvks.is_empty() {
            out.insert("x-kubernetes-group-version-kind".to_owned(), gvks.into());
        }
        if let Some(map) = schema.map {
            out.insert("x-kubernetes-map-type".to_owned(), map_type(map).into());
        }
        if let Some(unions) = definition.unions() {
            out.insert("x-kubernetes-unions".to_owned(), serde_json::from_str(unions).unwrap_or_default());
        }
        Value::Object(out)
    }

    fn structure(
        &self,
        schema: &Schema,
        texts: Option<&HashMap<&'static str, &'static str>>,
        required: Vec<&str>,
    ) -> Map<String, Value> {
        let mut properties = Map::new();
        for field in schema.fields() {
            let text = texts.and_then(|texts| texts.get(field.name.as_ref())).copied().unwrap_or_default();
            properties.insert(field.name.clone().into_owned(), self.property(field, text));
        }
        let mut out = Map::new();
        out.insert("type".to_owned(), "object".into());
        if !properties.is_empty() {
            out.insert("properties".to_owned(), properties.into());
        }
        if !required.is_empty() {
            out.insert("required".to_owned(), required.into());
        }
        out
    }

    fn property(&self, field: &Field, text: &str) -> Value {
        let mut out = self.of_type(&field.schema);
        if self.style == Style::V3
            && let Some(target) = out.remove("$ref")
        {
            out.insert("allOf".to_owned(), json!([{ "$ref": target }]));
        }
        if !text.is_empty() {
            out.insert("description".to_owned(), unescaped(text).into());
        }
        if self.style == Style::V3
            && let Some(default) = &field.schema.default
        {
            out.insert("default".to_owned(), default.as_ref().clone());
        }
        merge_attributes(&field.schema, &mut out);
        // Version 3 needs no wrapper around a reference that stands alone.
        if out.len() == 1
            && let Some(Value::Array(only)) = out.get("allOf")
            && let Some(target) = only.first()
        {
            return target.clone();
        }
        Value::Object(out)
    }

    fn of_type(&self, schema: &Schema) -> Map<String, Value> {
        let special = |name: &str| self.reference(name);
        match &schema.declared {
            Shape::Named(definition) => self.reference(&definition.full_name()),
            Shape::Quantity => special("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Shape::IntOrString => special("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Shape::Time => special("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
            Shape::MicroTime => special("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
            Shape::Duration => special("io.k8s.apimachinery.pkg.apis.meta.v1.Duration"),
            Shape::Fields => special("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"),
            Shape::Raw => special("io.k8s.apimachinery.pkg.runtime.RawExtension"),
            Shape::Json => special("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON"),
            Shape::SchemaOrArray(props) => special(&format!("{}OrArray", props.full_name())),
            Shape::SchemaOrBool(props) => special(&format!("{}OrBool", props.full_name())),
            Shape::SchemaOrStrings(props) => special(&format!("{}OrStringArray", props.full_name())),
            Shape::Bool => object(json!({"type": "boolean"})),
            Shape::Int32 => object(json!({"type": "integer", "format": "int32"})),
            Shape::Int64 => object(json!({"type": "integer", "format": "int64"})),
            Shape::Float => object(json!({"type": "number", "format": "double"})),
            Shape::String => object(json!({"type": "string"})),
            Shape::Bytes => object(json!({"type": "string", "format": "byte"})),
            Shape::Any => object(json!({"type": "object"})),
            Shape::Map(values) => object(json!({"type": "object", "additionalProperties": self.of_type(values)})),
            Shape::List(items) => object(json!({"type": "array", "items": self.of_type(items)})),
            Shape::Struct(_) => self.structure(schema, None, Vec::new()),
        }
    }

    fn reference(&self, name: &str) -> Map<String, Value> {
        object(json!({"$ref": format!("{}{name}", self.prefix())}))
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn map_type(map: MapType) -> &'static str {
    match map {
        MapType::Atomic => "atomic",
        MapType::Granular => "granular",
    }
}

fn merge_attributes(schema: &Schema, out: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| {
        out.insert(format!("x-kubernetes-{key}"), value);
    };
    if let Some(map) = schema.map {
        set("map-type", map_type(map).into());
    }
    match &schema.list {
        ListType::Atomic if schema.explicit_list => set("list-type", "atomic".into()),
        ListType::Atomic => {}
        ListType::Set => set("list-type", "set".into()),
        ListType::Map(keys) => {
            set("list-type", "map".into());
            set("list-map-keys", json!(keys));
        }
    }
    let patch = &schema.patch;
    let strategies: Vec<&str> = [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
    if !strategies.is_empty() {
        set("patch-strategy", strategies.join(",").into());
    }
    if let Some(key) = &patch.merge_key {
        set("patch-merge-key", key.as_ref().into());
    }
}

/// The types whose JSON form is code.
fn special(definition: &Definition, schema: &Schema, style: Style) -> Map<String, Value> {
    object(match (schema.shape(), style) {
        (Shape::Quantity, Style::V2) => json!({"type": "string"}),
        (Shape::Quantity, Style::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Shape::IntOrString, Style::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Shape::IntOrString, Style::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Shape::Time | Shape::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Shape::Duration, _) => json!({"type": "string"}),
        (Shape::Fields | Shape::Raw, _) => json!({"type": "object"}),
        (Shape::Any, _) if definition.name().ends_with(".Patch") => json!({"type": "object"}),
        _ => json!({}),
    })
}
