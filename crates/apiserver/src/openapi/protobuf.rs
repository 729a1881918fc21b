//! The OpenAPI v2 document in protobuf, as `gnostic-models/openapiv2` defines
//! it: field numbers as a table, written in the order of their numbers. Holds
//! only the messages that the document uses, and reads nothing.

use serde_json::Value;

/// Name of a JSON member, number of the field, form of its value.
type Field = (&'static str, u32, Form);

/// The fields of a message, by number. Members that begin with `x-` go to
/// `extensions`.
struct Message {
    fields: &'static [Field],
    extensions: u32,
}

/// How a JSON value becomes a field.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Bool,
    Int,
    Double,
    /// Free JSON, as text.
    Any,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// A message that is named entries: each is name (1) and value (2).
    Named(Entry),
    /// A list of them.
    Requirements,
    Parameters,
    /// Texts or one text, in a message.
    Type,
    /// Schemas or one schema, in a message.
    Items,
    SchemaOrBool,
    /// A schema where a file could be.
    SchemaItem,
}

/// What the values of named entries are.
#[derive(Clone, Copy)]
enum Entry {
    Schema,
    Path,
    Response,
    Security,
    Parameter,
}

use Form::{Any, Anys, Bool, Double, Int, Items, Many, Named, One, Parameters, Requirements};
use Form::{SchemaItem, SchemaOrBool, Text, Texts, Type};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("host", 3, Text),
        ("basePath", 4, Text),
        ("schemes", 5, Texts),
        ("consumes", 6, Texts),
        ("produces", 7, Texts),
        ("paths", 8, Named(Entry::Path)),
        ("definitions", 9, Named(Entry::Schema)),
        ("parameters", 10, Named(Entry::Parameter)),
        ("responses", 11, Named(Entry::Response)),
        ("security", 12, Requirements),
        ("securityDefinitions", 13, Named(Entry::Security)),
    ],
    extensions: 16,
};

static INFO: Message = Message {
    fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text), ("termsOfService", 4, Text)],
    extensions: 7,
};

static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};

static DOCS: Message = Message { fields: &[("description", 1, Text), ("url", 2, Text)], extensions: 3 };

static REFERENCE: Message = Message { fields: &[("$ref", 1, Text), ("description", 2, Text)], extensions: 0 };

static PATH: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("externalDocs", 4, One(&DOCS)),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Named(Entry::Response)),
        ("schemes", 10, Texts),
        ("deprecated", 11, Bool),
        ("security", 12, Requirements),
    ],
    extensions: 13,
};

static BODY: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Bool),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
};

/// Parameters of headers and paths.
static PLAIN: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("default", 9, Any),
        ("maximum", 10, Double),
        ("minimum", 12, Double),
        ("maxLength", 14, Int),
        ("minLength", 15, Int),
        ("pattern", 16, Text),
        ("uniqueItems", 19, Bool),
        ("enum", 20, Anys),
    ],
    extensions: 22,
};

/// Parameters of queries and forms: those of paths, from the fourth field on
/// one number later, because they may be empty.
static QUERY: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("allowEmptyValue", 5, Bool),
        ("type", 6, Text),
        ("format", 7, Text),
        ("default", 10, Any),
        ("maximum", 11, Double),
        ("minimum", 13, Double),
        ("maxLength", 15, Int),
        ("minLength", 16, Int),
        ("pattern", 17, Text),
        ("uniqueItems", 20, Bool),
        ("enum", 21, Anys),
    ],
    extensions: 23,
};

static RESPONSE: Message = Message { fields: &[("description", 1, Text), ("schema", 2, SchemaItem)], extensions: 5 };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Int),
        ("minLength", 12, Int),
        ("pattern", 13, Text),
        ("maxItems", 14, Int),
        ("minItems", 15, Int),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Int),
        ("minProperties", 18, Int),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, SchemaOrBool),
        ("type", 22, Type),
        ("items", 23, Items),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, Named(Entry::Schema)),
        ("discriminator", 26, Text),
        ("readOnly", 27, Bool),
        ("externalDocs", 29, One(&DOCS)),
        ("example", 30, Any),
    ],
    extensions: 31,
};

/// Encodes a document of version 2.
pub(super) fn document(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

fn message(table: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, form) in table.fields {
        if let Some(value) = value.get(*name) {
            field(*number, *form, value, &mut out);
        }
    }
    extensions(table.extensions, value, &mut out);
    out
}

fn extensions(number: u32, value: &Value, out: &mut Vec<u8>) {
    let members = value.as_object().into_iter().flatten();
    for (name, value) in members.filter(|(name, _)| number != 0 && name.starts_with("x-")) {
        bytes(number, &entry(name, &any(value)), out);
    }
}

fn field(number: u32, form: Form, value: &Value, out: &mut Vec<u8>) {
    let list = || value.as_array().into_iter().flatten();
    match form {
        Text => match value.as_str() {
            Some("") | None => {}
            Some(text) => bytes(number, text.as_bytes(), out),
        },
        Texts => list().filter_map(Value::as_str).for_each(|text| bytes(number, text.as_bytes(), out)),
        Bool if value == true => {
            tag(number, 0, out);
            out.push(1);
        }
        Bool => {}
        Int => match value.as_i64() {
            Some(0) | None => {}
            Some(integer) => {
                tag(number, 0, out);
                varint(integer.cast_unsigned(), out);
            }
        },
        Double => match value.as_f64() {
            Some(double) if double != 0.0 => {
                tag(number, 1, out);
                out.extend(double.to_le_bytes());
            }
            _ => {}
        },
        Any => bytes(number, &any(value), out),
        Anys => list().for_each(|value| bytes(number, &any(value), out)),
        One(table) => bytes(number, &message(table, value), out),
        Many(table) => list().for_each(|value| bytes(number, &message(table, value), out)),
        Named(kind) => bytes(number, &named(kind, value), out),
        Requirements => list().for_each(|value| bytes(number, &requirement(value), out)),
        Parameters => list().for_each(|value| bytes(number, &parameter_item(value), out)),
        Type | Items => {
            let mut inner = Vec::new();
            let one = |value: &Value, inner: &mut Vec<u8>| match form {
                Type => field(1, Text, value, inner),
                _ => bytes(1, &message(&SCHEMA, value), inner),
            };
            match value {
                Value::Array(values) => values.iter().for_each(|value| one(value, &mut inner)),
                value => one(value, &mut inner),
            }
            bytes(number, &inner, out);
        }
        SchemaOrBool => {
            let mut inner = Vec::new();
            match value {
                // Within an alternative a false is written too.
                Value::Bool(on) => {
                    tag(2, 0, &mut inner);
                    inner.push(u8::from(*on));
                }
                schema => bytes(1, &message(&SCHEMA, schema), &mut inner),
            }
            bytes(number, &inner, out);
        }
        SchemaItem => bytes(number, &alternative(1, &message(&SCHEMA, value)), out),
    }
}

fn named(kind: Entry, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let number = match kind {
        Entry::Path => {
            extensions(1, value, &mut out);
            2
        }
        _ => 1,
    };
    let members = value.as_object().into_iter().flatten();
    let extends = matches!(kind, Entry::Path | Entry::Response);
    for (name, value) in members.filter(|(name, _)| !(extends && name.starts_with("x-"))) {
        let value = match kind {
            Entry::Schema => message(&SCHEMA, value),
            Entry::Path => message(&PATH, value),
            Entry::Response if value.get("$ref").is_some() => alternative(2, &message(&REFERENCE, value)),
            Entry::Response => alternative(1, &message(&RESPONSE, value)),
            Entry::Security => alternative(2, &message(&API_KEY, value)),
            Entry::Parameter => parameter(value),
        };
        bytes(number, &entry(name, &value), &mut out);
    }
    if let Entry::Response = kind {
        extensions(2, value, &mut out);
    }
    out
}

fn requirement(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, scopes) in value.as_object().into_iter().flatten() {
        let mut list = Vec::new();
        field(1, Texts, scopes, &mut list);
        bytes(1, &entry(name, &list), &mut out);
    }
    out
}

fn parameter_item(value: &Value) -> Vec<u8> {
    match value.get("$ref") {
        Some(_) => alternative(2, &message(&REFERENCE, value)),
        None => alternative(1, &parameter(value)),
    }
}

fn parameter(value: &Value) -> Vec<u8> {
    let (number, table) = match value["in"].as_str() {
        Some("body") => return alternative(1, &message(&BODY, value)),
        Some("header") => (1, &PLAIN),
        Some("formData") => (2, &QUERY),
        Some("path") => (4, &PLAIN),
        _ => (3, &QUERY),
    };
    alternative(2, &alternative(number, &message(table, value)))
}

fn alternative(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    bytes(number, value, &mut out);
    out
}

fn entry(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 12);
    bytes(1, name.as_bytes(), &mut out);
    bytes(2, value, &mut out);
    out
}

/// JSON is YAML, which is what the field holds.
fn any(value: &Value) -> Vec<u8> {
    alternative(2, format!("{value}\n").as_bytes())
}

fn tag(number: u32, wire: u64, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | wire, out);
}

fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
