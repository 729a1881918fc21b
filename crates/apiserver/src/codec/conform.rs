//! Holds a parsed body against a schema: type errors, unknown and duplicate
//! fields, pruning, and the normal form that upstream's Go types give a tree
//! (zero values left out or filled in, quantities canonical, times in UTC).

use std::borrow::Cow;

use api::quantity;
use api::schema::{Definition, Dialect, Field, Omit, Schema, Shape, Struct};
use serde_json::{Map, Value};

use super::node::{float, number};
use super::{DecodeError, Decoded, Node, TypeMeta};

/// Findings of strict decoding that are kept, as upstream does.
const STRICT_LIMIT: usize = 100;

/// Decodes a tree.
pub(super) fn conform(node: &Node<'_>, schema: &Schema) -> Result<Decoded, DecodeError> {
    let mut walk = Walk { path: Vec::new(), owner: "", strict: Vec::new() };
    let object = match (node, schema.as_struct()) {
        (Node::Null, Some(known)) => zero_struct(known),
        _ => walk.value(node, schema, Dialect::Go)?,
    };
    Ok(Decoded { object, strict: walk.strict })
}

/// A tree without a schema; the last of several equal members wins.
pub(super) fn free<'a>(node: &'a Node<'a>, strict: &mut Vec<String>) -> Value {
    let mut walk = Walk { path: Vec::new(), owner: "", strict: std::mem::take(strict) };
    let value = walk.any(node);
    *strict = walk.strict;
    value
}

/// `apiVersion` and `kind` of a body.
pub(super) fn type_meta(node: &Node<'_>) -> Result<TypeMeta, DecodeError> {
    const GO: &str =
        r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let members = match node {
        Node::Null => return Ok(TypeMeta::default()),
        Node::Object(members) => members,
        other => {
            let value = other.go_kind().to_owned();
            let error = DecodeError::Type { value, place: "value ".to_owned(), go_type: GO.to_owned() };
            return Err(DecodeError::TypeMeta(Box::new(error)));
        }
    };
    let mut found = TypeMeta::default();
    for (key, value) in members {
        let place = match key.as_ref() {
            "apiVersion" => &mut found.api_version,
            "kind" => &mut found.kind,
            _ => continue,
        };
        match value {
            Node::String(text) => *place = text.clone().into_owned(),
            Node::Null => {}
            other => {
                let value = other.go_kind().to_owned();
                let place = format!("struct field .{key} ");
                let error = DecodeError::Type { value, place, go_type: "string".to_owned() };
                return Err(DecodeError::TypeMeta(Box::new(error)));
            }
        }
    }
    Ok(found)
}

/// A step from the root to the value at hand.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

struct Walk<'a> {
    path: Vec<Step<'a>>,
    /// Go's name of the innermost struct.
    owner: &'a str,
    strict: Vec<String>,
}

impl<'a> Walk<'a> {
    fn object_to(&mut self, what: &str, last: &str) {
        if self.strict.len() >= STRICT_LIMIT {
            return;
        }
        let message = format!("{what} field {:?}", dotted(&self.path, last));
        if !self.strict.contains(&message) {
            self.strict.push(message);
        }
    }

    fn mismatch<T>(&self, value: impl Into<String>, go_type: impl Into<String>) -> Result<T, DecodeError> {
        let mut place = "value ".to_owned();
        if !self.owner.is_empty() {
            let mut fields = String::new();
            for step in &self.path {
                if let Step::Field(name) = step {
                    fields.push('.');
                    fields.push_str(name);
                }
            }
            place = format!("struct field {}{fields} ", self.owner);
        }
        Err(DecodeError::Type { value: value.into(), place, go_type: go_type.into() })
    }

    /// A value that is not null, or a null in a place that must have a value.
    fn value(&mut self, node: &'a Node<'a>, schema: &'a Schema, dialect: Dialect) -> Result<Value, DecodeError> {
        let custom = dialect == Dialect::Custom;
        match (schema.shape(), node) {
            (Shape::Struct(known), Node::Object(members)) => self.members(members, known),
            (Shape::Map(values), Node::Object(members)) => self.map(members, values, dialect),
            (Shape::List(items), Node::Array(nodes)) => self.list(nodes, items, dialect),
            (Shape::Any | Shape::Raw | Shape::Json | Shape::Fields, _) => Ok(self.raw(node)),
            _ if custom => Ok(self.any(node)),
            (Shape::SchemaOrArray(props), _) => self.schema_or(node, props, "JSONSchemaPropsOrArray"),
            (Shape::SchemaOrBool(props), _) => self.schema_or(node, props, "JSONSchemaPropsOrBool"),
            (Shape::SchemaOrStrings(props), _) => self.schema_or(node, props, "JSONSchemaPropsOrStringArray"),
            (_, Node::Null) => Ok(zero(schema)),
            (Shape::String, Node::String(text)) => Ok(Value::String(text.clone().into_owned())),
            (Shape::Bool, Node::Bool(value)) => Ok(Value::Bool(*value)),
            (Shape::Int32, Node::Number(text)) => self.integer(text, schema, i64::from(i32::MIN), i64::from(i32::MAX)),
            (Shape::Int64, Node::Number(text)) => self.integer(text, schema, i64::MIN, i64::MAX),
            (Shape::Float, Node::Number(text)) => match float(text) {
                Some(number) => Ok(Value::Number(number)),
                None => self.mismatch(format!("number {text}"), "float64"),
            },
            (Shape::Bytes, Node::String(text)) => bytes(text),
            (Shape::Quantity, _) => quantity_of(node),
            (Shape::IntOrString, _) => int_or_string(node),
            (Shape::Time, _) => time(node, false),
            (Shape::MicroTime, _) => time(node, true),
            (Shape::Duration, Node::String(text)) => Ok(Value::String(text.clone().into_owned())),
            (_, other) => self.mismatch(other.go_kind(), schema.go_name().into_owned()),
        }
    }

    fn integer(&self, text: &str, schema: &Schema, low: i64, high: i64) -> Result<Value, DecodeError> {
        match text.parse::<i64>() {
            Ok(value) if (low..=high).contains(&value) => Ok(value.into()),
            _ => self.mismatch(format!("number {text}"), schema.go_name().into_owned()),
        }
    }

    fn list(&mut self, nodes: &'a [Node<'a>], items: &'a Schema, dialect: Dialect) -> Result<Value, DecodeError> {
        let mut out = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            self.path.push(Step::Index(index));
            out.push(match (node, dialect) {
                (Node::Null, Dialect::Go) => zero(items),
                _ => self.value(node, items, dialect)?,
            });
            self.path.pop();
        }
        Ok(Value::Array(out))
    }

    fn map(
        &mut self,
        members: &'a [(Cow<'a, str>, Node<'a>)],
        values: &'a Schema,
        dialect: Dialect,
    ) -> Result<Value, DecodeError> {
        let mut out = Map::new();
        for (key, node) in members {
            if out.contains_key(key.as_ref()) {
                self.object_to("duplicate", key);
            }
            self.path.push(Step::Key(key));
            let value = match (node, dialect) {
                (Node::Null, Dialect::Go) => zero(values),
                _ => self.value(node, values, dialect)?,
            };
            self.path.pop();
            out.insert(key.clone().into_owned(), value);
        }
        Ok(Value::Object(out))
    }

    fn members(&mut self, members: &'a [(Cow<'a, str>, Node<'a>)], known: &'a Struct) -> Result<Value, DecodeError> {
        let mut out = Map::new();
        let mut seen = Seen::default();
        let owner = std::mem::replace(&mut self.owner, known.name.as_ref());
        for (key, node) in members {
            let Ok(index) = known.fields.binary_search_by(|field| field.name.as_ref().cmp(key)) else {
                if known.preserve_unknown {
                    self.path.push(Step::Key(key));
                    let value = self.any(node);
                    self.path.pop();
                    out.insert(key.clone().into_owned(), value);
                } else {
                    self.object_to("unknown", key);
                }
                continue;
            };
            let field = &known.fields[index];
            if seen.again(index) {
                self.object_to("duplicate", key);
            }
            self.path.push(Step::Field(&field.name));
            // Types of Go inside a custom kind (its metadata) keep Go's rules.
            let dialect = match field.schema.declared {
                Shape::Named(_) => Dialect::Go,
                _ => known.dialect,
            };
            let value = match (node, dialect) {
                (Node::Null, Dialect::Go) => None,
                _ => Some(self.value(node, &field.schema, dialect)?),
            };
            self.path.pop();
            self.owner = known.name.as_ref();
            if let Some(mut value) = value {
                // A list of items is an answer, not something that is stored.
                let stored = dialect == Dialect::Go && !known.keeps_empty && field.name != "items";
                if stored && field.omit == Omit::Never && !field.schema.pointer && is_empty_collection(&field.schema, &value) {
                    value = Value::Null;
                }
                place(&mut out, field, value, dialect);
            }
        }
        self.owner = owner;
        if known.dialect == Dialect::Go {
            settle(&mut out, known);
        }
        Ok(Value::Object(out))
    }

    /// A tree that no schema describes.
    fn any(&mut self, node: &'a Node<'a>) -> Value {
        self.any_within(node, true)
    }

    /// As [`Walk::any`], but what upstream keeps as raw bytes: nothing in it
    /// is looked at.
    fn raw(&mut self, node: &'a Node<'a>) -> Value {
        self.any_within(node, false)
    }

    fn any_within(&mut self, node: &'a Node<'a>, report: bool) -> Value {
        match node {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Number(text) => number(text).map_or(Value::Null, Value::Number),
            Node::String(text) => Value::String(text.clone().into_owned()),
            Node::Array(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    out.push(self.any_within(item, report));
                    self.path.pop();
                }
                Value::Array(out)
            }
            Node::Object(members) => {
                let mut out = Map::new();
                for (key, node) in members {
                    if report && out.contains_key(key.as_ref()) {
                        self.object_to("duplicate", key);
                    }
                    self.path.push(Step::Key(key));
                    let value = self.any_within(node, report);
                    self.path.pop();
                    out.insert(key.clone().into_owned(), value);
                }
                Value::Object(out)
            }
        }
    }

    /// The three types of `apiextensions` that hold a schema or something else.
    fn schema_or(&mut self, node: &'a Node<'a>, props: &'static Definition, what: &str) -> Result<Value, DecodeError> {
        match (node, what) {
            (Node::Object(_), _) => {
                let mut inner = Walk { path: Vec::new(), owner: "", strict: Vec::new() };
                inner.value(node, props.schema(), Dialect::Go)
            }
            (Node::Array(nodes), "JSONSchemaPropsOrArray") => {
                let mut inner = Walk { path: Vec::new(), owner: "", strict: Vec::new() };
                inner.list(nodes, props.schema(), Dialect::Go)
            }
            (Node::Array(_), "JSONSchemaPropsOrStringArray") | (Node::Bool(_), "JSONSchemaPropsOrBool") => {
                Ok(self.any(node))
            }
            (_, "JSONSchemaPropsOrBool") => Err(DecodeError::Value("boolean or JSON schema expected".to_owned())),
            _ => Ok(Value::Null),
        }
    }
}

/// Which fields of a struct were met.
#[derive(Default)]
struct Seen {
    low: u64,
    high: Vec<usize>,
}

impl Seen {
    /// Marks a field; true if it was marked before.
    fn again(&mut self, index: usize) -> bool {
        if index < 64 {
            let bit = 1 << index;
            let again = self.low & bit != 0;
            self.low |= bit;
            return again;
        }
        let again = self.high.contains(&index);
        self.high.push(index);
        again
    }
}

/// Puts a value in its field; a second object is decoded into the first.
fn place(out: &mut Map<String, Value>, field: &Field, value: Value, dialect: Dialect) {
    if dialect == Dialect::Go && is_left_out(field, &value) {
        out.remove(field.name.as_ref());
        return;
    }
    match (out.get_mut(field.name.as_ref()), value) {
        (Some(Value::Object(first)), Value::Object(second)) => first.extend(second),
        (_, value) => {
            out.insert(field.name.clone().into_owned(), value);
        }
    }
}

/// `omitempty` and `omitzero`.
pub(super) fn is_left_out(field: &Field, value: &Value) -> bool {
    if field.omit == Omit::Never || field.schema.pointer {
        return false;
    }
    // An empty list here asks for tracking to start anew; whoever tracks takes it out.
    if field.name == "managedFields" && value.is_array() {
        return false;
    }
    match field.schema.shape() {
        Shape::Struct(known) => field.omit == Omit::Zero && *value == zero_struct(known),
        Shape::Time | Shape::MicroTime => field.omit == Omit::Zero && value.is_null(),
        Shape::Quantity | Shape::IntOrString | Shape::Raw => false,
        _ => is_zero(value),
    }
}

/// An empty list or map, where the type is no struct.
fn is_empty_collection(schema: &Schema, value: &Value) -> bool {
    match (schema.shape(), value) {
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Fills in the fields that Go always writes.
pub(super) fn settle(out: &mut Map<String, Value>, known: &Struct) {
    for field in &known.fields {
        if let Some(zero) = absent(field)
            && !out.contains_key(field.name.as_ref())
        {
            out.insert(field.name.clone().into_owned(), zero);
        }
    }
}

/// What Go writes for a field that is not set.
fn absent(field: &Field) -> Option<Value> {
    let schema = &field.schema;
    match (field.omit, schema.pointer) {
        (Omit::Zero, _) | (Omit::Empty, true) => None,
        (Omit::Never, true) => Some(Value::Null),
        (Omit::Never, false) => Some(zero(schema)),
        (Omit::Empty, false) => match schema.shape() {
            Shape::Struct(_) | Shape::Time | Shape::MicroTime | Shape::Quantity | Shape::IntOrString | Shape::Raw => {
                Some(zero(schema))
            }
            _ => None,
        },
    }
}

/// The JSON of Go's zero value.
pub(super) fn zero(schema: &Schema) -> Value {
    match schema.shape() {
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float | Shape::IntOrString => 0.into(),
        Shape::String => Value::String(String::new()),
        Shape::Quantity => Value::String("0".to_owned()),
        Shape::Duration => Value::String("0s".to_owned()),
        Shape::Struct(known) => zero_struct(known),
        _ => Value::Null,
    }
}

fn zero_struct(known: &Struct) -> Value {
    let mut out = Map::new();
    settle(&mut out, known);
    Value::Object(out)
}

/// Base64 as Go reads it; line breaks inside are ignored.
fn bytes(text: &str) -> Result<Value, DecodeError> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let clean: Cow<'_, str> = match text.contains(['\n', '\r']) {
        true => text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect::<String>().into(),
        false => text.into(),
    };
    match STANDARD.decode(clean.as_bytes()) {
        Ok(_) => Ok(Value::String(clean.into_owned())),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(length) => length / 4 * 4,
                base64::DecodeError::InvalidPadding => clean.trim_end_matches('=').len(),
            };
            Err(DecodeError::Value(format!("illegal base64 data at input byte {at}")))
        }
    }
}

fn quantity_of(node: &Node<'_>) -> Result<Value, DecodeError> {
    let text: Cow<'_, str> = match node {
        Node::String(text) | Node::Number(text) => text.as_ref().into(),
        Node::Bool(value) => value.to_string().into(),
        _ => "{}".into(),
    };
    quantity::canonical(text.trim()).map(Value::String).map_err(|error| DecodeError::Value(error.to_string()))
}

fn int_or_string(node: &Node<'_>) -> Result<Value, DecodeError> {
    let mismatch =
        |value: String| Err(DecodeError::Type { value, place: "value ".to_owned(), go_type: "int32".to_owned() });
    match node {
        Node::String(text) => Ok(Value::String(text.clone().into_owned())),
        Node::Number(text) => match text.parse::<i32>() {
            Ok(value) => Ok(value.into()),
            Err(_) => mismatch(format!("number {text}")),
        },
        other => mismatch(other.go_kind().to_owned()),
    }
}

fn time(node: &Node<'_>, micro: bool) -> Result<Value, DecodeError> {
    let Node::String(text) = node else {
        let value = node.go_kind().to_owned();
        return Err(DecodeError::Type { value, place: "value ".to_owned(), go_type: "string".to_owned() });
    };
    let parsed = if micro { api::time::parse_micro(text) } else { api::time::parse(text) };
    let time = parsed.map_err(|error| DecodeError::Value(error.to_string()))?;
    // Go's zero time is null.
    let text = if micro { api::time::format_micro(time) } else { api::time::format(time) };
    Ok(if text.starts_with("0001-01-01T00:00:00") { Value::Null } else { Value::String(text) })
}

fn dotted(path: &[Step<'_>], last: &str) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Index(index) => out.push_str(&format!("[{index}]")),
            Step::Field(name) | Step::Key(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
        }
    }
    if !out.is_empty() {
        out.push('.');
    }
    out.push_str(last);
    out
}
