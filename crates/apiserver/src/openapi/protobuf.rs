//! The document of version 2 as protobuf, in the form that gnostic defines
//! (`openapiv2/OpenAPIv2.proto`): what kubectl and Helm ask for. A table of
//! messages; no document is built here.

use serde_json::{Map, Value};

/// How a JSON value stands on the wire.
enum Form {
    Text,
    Texts,
    Bool,
    Int,
    Double,
    /// Any value, as YAML in field 2 of a message.
    Any,
    Anys,
    Message(&'static Message),
    Messages(&'static Message),
    /// A map: a message that has, at this number, name (1) and value (2).
    Named(u32, &'static Form),
    /// Several such maps.
    ManyNamed(u32, &'static Form),
    /// A message with only this field.
    Within(u32, &'static Form),
    /// One text or several, as field 1 of a message.
    List,
    /// One schema or several, as field 1 of a message.
    Items,
    /// A schema (1) or a boolean (2).
    Additional,
    Parameters,
}

/// Fields in order of their numbers, and the number of `x-` extensions.
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

use Form::{
    Additional, Any, Anys, Bool, Double, Int, Items, List, ManyNamed, Messages, Named, Parameters, Text, Texts, Within,
};

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
        ("additionalProperties", 21, Additional),
        ("type", 22, List),
        ("items", 23, Items),
        ("allOf", 24, Messages(&SCHEMA)),
        ("properties", 25, Named(1, &Form::Message(&SCHEMA))),
        ("discriminator", 26, Text),
        ("readOnly", 27, Bool),
        ("example", 30, Any),
    ],
    extensions: 31,
};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Form::Message(&INFO)),
        ("schemes", 5, Texts),
        ("consumes", 6, Texts),
        ("produces", 7, Texts),
        ("paths", 8, Named(2, &Form::Message(&PATH))),
        ("definitions", 9, Named(1, &Form::Message(&SCHEMA))),
        ("security", 12, ManyNamed(1, &List)),
        ("securityDefinitions", 13, Named(1, &Within(2, &Form::Message(&API_KEY)))),
    ],
    extensions: 16,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)], extensions: 7 };

static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};

static PATH: Message = Message {
    fields: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("options", 6, Form::Message(&OPERATION)),
        ("head", 7, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Named(1, &Within(1, &Form::Message(&RESPONSE)))),
        ("schemes", 10, Texts),
        ("deprecated", 11, Bool),
        ("security", 12, ManyNamed(1, &List)),
    ],
    extensions: 13,
};

static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Within(1, &Form::Message(&SCHEMA)))], extensions: 5 };

static BODY: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Bool),
        ("schema", 5, Form::Message(&SCHEMA)),
    ],
    extensions: 6,
};

/// In a header or the path.
static PLAIN: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("pattern", 16, Text),
        ("uniqueItems", 19, Bool),
    ],
    extensions: 22,
};

/// In the query or a form.
static QUERY: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("allowEmptyValue", 5, Bool),
        ("type", 6, Text),
        ("format", 7, Text),
        ("pattern", 17, Text),
        ("uniqueItems", 20, Bool),
    ],
    extensions: 23,
};

static REFERENCE: Message = Message { fields: &[("$ref", 1, Text), ("description", 2, Text)], extensions: 0 };

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// The whole document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(document, &DOCUMENT, &mut out);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(field: u32, value: u64, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | VARINT), out);
    varint(value, out);
}

fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | BYTES), out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// A field that is a message, written by `content`.
fn nested(field: u32, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    content(&mut inner);
    bytes(field, &inner, out);
}

fn message(value: &Value, known: &Message, out: &mut Vec<u8>) {
    for (name, field, form) in known.fields {
        if let Some(value) = value.get(name) {
            put(*field, value, form, out);
        }
    }
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        nested(known.extensions, out, |out| {
            bytes(1, name.as_bytes(), out);
            put(2, value, &Any, out);
        });
    }
}

fn put(field: u32, value: &Value, form: &Form, out: &mut Vec<u8>) {
    let list = || value.as_array().into_iter().flatten();
    match form {
        Text => bytes(field, value.as_str().unwrap_or_default().as_bytes(), out),
        Texts => list().filter_map(Value::as_str).for_each(|text| bytes(field, text.as_bytes(), out)),
        Bool => number(field, u64::from(value == true), out),
        // JSON is YAML.
        Any => nested(field, out, |out| bytes(2, format!("{value}\n").as_bytes(), out)),
        Anys => list().for_each(|value| put(field, value, &Any, out)),
        Int => number(field, value.as_i64().unwrap_or_default().cast_unsigned(), out),
        Double => {
            varint(u64::from(field << 3 | FIXED64), out);
            out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Form::Message(known) => nested(field, out, |out| message(value, known, out)),
        Messages(known) => list().for_each(|value| nested(field, out, |out| message(value, known, out))),
        Named(inner, form) => nested(field, out, |out| named(*inner, value.as_object(), form, out)),
        ManyNamed(inner, form) => {
            list().for_each(|value| nested(field, out, |out| named(*inner, value.as_object(), form, out)));
        }
        Within(inner, form) => nested(field, out, |out| put(*inner, value, form, out)),
        List => nested(field, out, |out| match value {
            Value::String(text) => bytes(1, text.as_bytes(), out),
            several => put(1, several, &Texts, out),
        }),
        Items => nested(field, out, |out| match value {
            Value::Array(_) => put(1, value, &Messages(&SCHEMA), out),
            one => put(1, one, &Form::Message(&SCHEMA), out),
        }),
        Additional => nested(field, out, |out| match value {
            Value::Bool(_) => put(2, value, &Bool, out),
            schema => put(1, schema, &Form::Message(&SCHEMA), out),
        }),
        Parameters => list().for_each(|value| nested(field, out, |out| parameter(value, out))),
    }
}

fn named(field: u32, map: Option<&Map<String, Value>>, form: &Form, out: &mut Vec<u8>) {
    for (name, value) in map.into_iter().flatten() {
        nested(field, out, |out| {
            bytes(1, name.as_bytes(), out);
            put(2, value, form, out);
        });
    }
}

fn parameter(value: &Value, out: &mut Vec<u8>) {
    let place = value.get("in").and_then(Value::as_str).unwrap_or_default();
    let (number, known) = match place {
        _ if value.get("$ref").is_some() => return put(2, value, &Form::Message(&REFERENCE), out),
        "body" => return nested(1, out, |out| put(1, value, &Form::Message(&BODY), out)),
        "header" => (1, &PLAIN),
        "formData" => (2, &QUERY),
        "query" => (3, &QUERY),
        _ => (4, &PLAIN),
    };
    nested(1, out, |out| nested(2, out, |out| put(number, value, &Form::Message(known), out)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::encode;

    #[test]
    fn a_document_is_written_field_by_field() {
        let document = json!({
            "swagger": "2.0",
            "definitions": {"a": {"type": "object", "x-b": [1], "properties": {"c": {"$ref": "d"}}}},
        });
        let schema = b"\xb2\x01\x08\x0a\x06object\xca\x01\x0a\x0a\x08\x0a\x01c\x12\x03\x0a\x01d\xfa\x01\x0d\x0a\x03x-b\x12\x06\x12\x04[1]\n";
        let mut entry = b"\x0a\x01a\x12".to_vec();
        entry.push(u8::try_from(schema.len()).unwrap());
        entry.extend(schema);
        let mut expected = b"\x0a\x032.0\x4a".to_vec();
        expected.extend([u8::try_from(entry.len() + 2).unwrap(), 0x0a, u8::try_from(entry.len()).unwrap()]);
        expected.extend(entry);
        assert_eq!(encode(&document), expected);
    }

    #[test]
    fn parameters_stand_in_the_message_of_their_place() {
        let document = json!({"paths": {"/a": {"parameters": [{"in": "query", "name": "n", "type": "string"}]}}});
        // Document.paths.path{name, value.parameters.parameter.non_body.query}
        let query = b"\x12\x05query\x22\x01n\x32\x06string";
        let encoded = encode(&document);
        assert!(encoded.ends_with(query), "{encoded:?}");
        assert_eq!(&encoded[encoded.len() - query.len() - 2..][..2], [0x1a, u8::try_from(query.len()).unwrap()]);
    }
}
