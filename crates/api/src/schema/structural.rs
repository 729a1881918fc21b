//! Schemas of custom kinds, from a CustomResourceDefinition's
//! `openAPIV3Schema`. Value validation (patterns, bounds, CEL) is not here.

use serde_json::{Map, Value};

use super::{Dialect, Field, ListType, MapType, Omit, Schema, Shape, Struct};

/// Levels of nesting that a custom schema may have.
const DEPTH_LIMIT: usize = 128;

/// A schema that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("custom schema at {path}: nested deeper than {DEPTH_LIMIT} levels")]
pub struct CrdSchemaError {
    path: String,
}

impl Schema {
    /// Schema of a custom kind. `apiVersion`, `kind` and `metadata` are added
    /// at the root and in embedded resources; an absent schema keeps everything.
    pub fn from_crd(open_api_v3_schema: &Value, object_meta: &'static Schema) -> Result<Self, CrdSchemaError> {
        let mut schema = convert(open_api_v3_schema, object_meta, 0, "$")?;
        if !matches!(schema.declared, Shape::Struct(_)) {
            let known = Struct { preserve_unknown: true, dialect: Dialect::Custom, ..Struct::default() };
            schema.declared = Shape::Struct(Box::new(known));
        }
        add_object_fields(&mut schema, object_meta);
        Ok(schema)
    }
}

fn convert(value: &Value, meta: &'static Schema, depth: usize, path: &str) -> Result<Schema, CrdSchemaError> {
    if depth > DEPTH_LIMIT {
        return Err(CrdSchemaError { path: path.to_owned() });
    }
    let flag = |key: &str| value.get(key) == Some(&Value::Bool(true));
    let child = |value: &Value, name: &str| convert(value, meta, depth + 1, name);
    let preserve = flag("x-kubernetes-preserve-unknown-fields");
    let properties = value.get("properties").and_then(Value::as_object);
    let declared = match value.get("type").and_then(Value::as_str) {
        _ if flag("x-kubernetes-int-or-string") => Shape::IntOrString,
        Some("object") => match (properties, value.get("additionalProperties")) {
            (None, Some(values @ Value::Object(_))) => Shape::Map(Box::new(child(values, path)?)),
            (None, Some(Value::Bool(true))) => Shape::Map(Box::default()),
            (None, _) if preserve && !flag("x-kubernetes-embedded-resource") => Shape::Any,
            (properties, _) => Shape::Struct(Box::new(known(properties, preserve, meta, depth)?)),
        },
        Some("array") => match value.get("items") {
            Some(items) => Shape::List(Box::new(child(items, path)?)),
            None => Shape::List(Box::default()),
        },
        Some("string") => Shape::String,
        Some("integer") => Shape::Int64,
        Some("number") => Shape::Float,
        Some("boolean") => Shape::Bool,
        _ if properties.is_some() => Shape::Struct(Box::new(known(properties, preserve, meta, depth)?)),
        _ => Shape::Any,
    };
    let mut schema = Schema::new(declared);
    schema.default = value.get("default").cloned().map(Box::new);
    schema.nullable = flag("nullable");
    schema.list = list_type(value);
    schema.map = match value.get("x-kubernetes-map-type").and_then(Value::as_str) {
        Some("atomic") => Some(MapType::Atomic),
        Some("granular") => Some(MapType::Granular),
        _ => None,
    };
    if flag("x-kubernetes-embedded-resource") {
        schema.embedded = true;
        add_object_fields(&mut schema, meta);
    }
    Ok(schema)
}

fn known(
    properties: Option<&Map<String, Value>>,
    preserve_unknown: bool,
    meta: &'static Schema,
    depth: usize,
) -> Result<Struct, CrdSchemaError> {
    let mut fields = Vec::new();
    for (name, value) in properties.into_iter().flatten() {
        fields.push(plain_field(name.clone(), convert(value, meta, depth + 1, name)?));
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Struct { fields, preserve_unknown, dialect: Dialect::Custom, ..Struct::default() })
}

fn plain_field(name: String, schema: Schema) -> Field {
    Field { name: name.into(), schema, required: false, omit: Omit::Never, proto: None }
}

fn list_type(value: &Value) -> ListType {
    match value.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListType::Set,
        Some("map") => {
            let keys = value.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.into_iter().flatten().filter_map(Value::as_str);
            ListType::Map(keys.map(|key| key.to_owned().into()).collect())
        }
        _ => ListType::Atomic,
    }
}

fn add_object_fields(schema: &mut Schema, meta: &'static Schema) {
    let Shape::Struct(known) = &mut schema.declared else { return };
    known.fields.retain(|field| !matches!(field.name.as_ref(), "apiVersion" | "kind" | "metadata"));
    known.fields.push(plain_field("apiVersion".to_owned(), Schema::new(Shape::String)));
    known.fields.push(plain_field("kind".to_owned(), Schema::new(Shape::String)));
    known.fields.push(plain_field("metadata".to_owned(), meta.clone()));
    known.fields.sort_by(|a, b| a.name.cmp(&b.name));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta() -> &'static Schema {
        Box::leak(Box::new(Schema::new(Shape::Any)))
    }

    #[test]
    fn a_structural_schema_keeps_its_merge_rules() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer", "default": 3},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true},
        }}}});
        let schema = Schema::from_crd(&schema, meta()).unwrap();
        let spec = &schema.field("spec").unwrap().schema;
        assert_eq!(spec.field("size").unwrap().schema.default.as_deref(), Some(&json!(3)));
        assert_eq!(spec.field("items").unwrap().schema.list, ListType::Map(vec!["name".into()]));
        assert!(matches!(spec.field("free").unwrap().schema.shape(), Shape::Any));
        assert!(matches!(spec.field("port").unwrap().schema.shape(), Shape::IntOrString));
        assert!(schema.field("metadata").is_some() && schema.field("kind").is_some());
    }

    #[test]
    fn a_schema_without_an_end_is_refused() {
        let mut schema = json!({"type": "string"});
        for _ in 0..200 {
            schema = json!({"type": "array", "items": schema});
        }
        assert!(Schema::from_crd(&json!({"type": "object", "properties": {"a": schema}}), meta()).is_err());
    }
}
