//! Trees to messages, byte for byte as upstream's generated code writes them:
//! fields in order of their numbers, and what is no pointer always.

use std::borrow::Cow;
use std::collections::BTreeMap;

use api::schema::{Field, Schema, Shape, Struct};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::conform;
use super::{BYTES, EncodeError, FIXED64, VARINT};

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(number: u32, wire: u8, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | u64::from(wire), out);
}

/// A field of bytes, text or a message.
pub(super) fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(number, BYTES, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn number(number: u32, value: u64, out: &mut Vec<u8>) {
    tag(number, VARINT, out);
    varint(value, out);
}

/// Encodes a value that is a message.
pub(super) fn message(value: &Value, schema: &Schema, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match schema.shape() {
        Shape::Struct(known) => fields(value, known, out),
        shape => special(value, shape, out),
    }
}

fn fields(value: &Value, known: &Struct, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if known.fields.iter().all(|field| field.proto.is_none()) && !known.fields.is_empty() {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or(&known.name).to_owned();
        return Err(EncodeError::NoForm { kind });
    }
    let on_wire: Vec<&Field> = known.fields.iter().filter(|field| field.proto.is_some()).collect();
    level(value, &on_wire, 0, out)
}

/// Fields of one message, in order of their numbers; a message that JSON
/// inlines stands at its own number.
fn level(value: &Value, fields: &[&Field], depth: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut order: BTreeMap<u32, Vec<&Field>> = BTreeMap::new();
    for field in fields {
        if let Some(number) = field.proto.as_ref().and_then(|proto| proto.path().get(depth)) {
            order.entry(*number).or_default().push(field);
        }
    }
    for (at, fields) in order {
        match fields.as_slice() {
            [field] if field.proto.as_ref().is_some_and(|proto| proto.path().len() == depth + 1) => {
                one(at, field, value.get(field.name.as_ref()), out)?;
            }
            inner => {
                let mut nested = Vec::new();
                level(value, inner, depth + 1, &mut nested)?;
                bytes(at, &nested, out);
            }
        }
    }
    Ok(())
}

fn one(at: u32, field: &Field, value: Option<&Value>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let schema = &field.schema;
    let value = value.filter(|value| !value.is_null());
    let name = field.name.as_ref();
    match (schema.shape(), value) {
        (Shape::List(items), Some(Value::Array(list))) if !schema.wrapped => {
            list.iter().try_for_each(|item| put(at, name, item, items, out))
        }
        (Shape::Map(values), Some(Value::Object(map))) => {
            // Keys in the order of their bytes, which is how the map sorts them.
            for (key, value) in map {
                let mut entry = Vec::new();
                bytes(1, key.as_bytes(), &mut entry);
                put(2, name, value, values, &mut entry)?;
                bytes(at, &entry, out);
            }
            Ok(())
        }
        (_, Some(value)) => put(at, name, value, schema, out),
        (_, None) if schema.pointer => Ok(()),
        (Shape::List(_) | Shape::Map(_) | Shape::Bytes, None) => Ok(()),
        (Shape::Time | Shape::MicroTime | Shape::Raw | Shape::Json | Shape::Fields, None) => {
            bytes(at, &[], out);
            Ok(())
        }
        (_, None) => put(at, name, &conform::zero(schema), schema, out),
    }
}

fn put(at: u32, name: &str, value: &Value, schema: &Schema, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let expected = |expected: &'static str| EncodeError::Value { field: name.to_owned(), expected };
    match schema.shape() {
        Shape::Bool => number(at, u64::from(value.as_bool().ok_or_else(|| expected("a boolean"))?), out),
        Shape::Int32 | Shape::Int64 => {
            number(at, value.as_i64().ok_or_else(|| expected("a whole number"))? as u64, out)
        }
        Shape::Float => {
            tag(at, FIXED64, out);
            let value = value.as_f64().ok_or_else(|| expected("a number"))?;
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        Shape::String | Shape::Duration => bytes(at, value.as_str().ok_or_else(|| expected("text"))?.as_bytes(), out),
        Shape::Bytes => {
            let text = value.as_str().unwrap_or_default();
            bytes(at, &STANDARD.decode(text).map_err(|_| expected("base64"))?, out);
        }
        Shape::List(items) => {
            let mut inner = Vec::new();
            for item in value.as_array().into_iter().flatten() {
                put(1, name, item, items, &mut inner)?;
            }
            bytes(at, &inner, out);
        }
        _ => {
            let mut inner = Vec::new();
            message(value, schema, &mut inner)?;
            bytes(at, &inner, out);
        }
    }
    Ok(())
}

/// The types whose JSON form is code.
fn special(value: &Value, shape: &Shape, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let text = || -> Cow<'_, str> {
        match value {
            Value::String(text) => text.as_str().into(),
            Value::Null => "".into(),
            other => other.to_string().into(),
        }
    };
    match shape {
        Shape::Quantity => bytes(1, text().as_bytes(), out),
        Shape::IntOrString => {
            let kind = u64::from(value.is_string());
            number(1, kind, out);
            number(2, value.as_i64().unwrap_or_default() as u64, out);
            bytes(3, value.as_str().unwrap_or_default().as_bytes(), out);
        }
        Shape::Time | Shape::MicroTime => {
            if let Some(time) = value.as_str().and_then(|text| api::time::parse(text).ok()) {
                number(1, time.as_second() as u64, out);
                let nanoseconds = if matches!(shape, Shape::Time) { 0 } else { time.subsec_nanosecond() };
                number(2, nanoseconds as u64, out);
            }
        }
        Shape::Fields | Shape::Raw | Shape::Json | Shape::Any => {
            if !(value.is_null() && matches!(shape, Shape::Raw | Shape::Fields)) {
                bytes(1, value.to_string().as_bytes(), out);
            }
        }
        Shape::SchemaOrArray(props) => match value {
            Value::Array(items) => {
                for item in items {
                    let mut inner = Vec::new();
                    message(item, props.schema(), &mut inner)?;
                    bytes(2, &inner, out);
                }
            }
            _ => nested(1, value, props.schema(), out)?,
        },
        Shape::SchemaOrBool(props) => match value {
            Value::Bool(allows) => number(1, u64::from(*allows), out),
            _ => {
                number(1, 1, out);
                nested(2, value, props.schema(), out)?;
            }
        },
        Shape::SchemaOrStrings(props) => match value {
            Value::Array(items) => {
                items.iter().for_each(|item| bytes(2, item.as_str().unwrap_or_default().as_bytes(), out));
            }
            _ => nested(1, value, props.schema(), out)?,
        },
        _ => return Err(EncodeError::Value { field: String::new(), expected: "a message" }),
    }
    Ok(())
}

fn nested(at: u32, value: &Value, schema: &Schema, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut inner = Vec::new();
    message(value, schema, &mut inner)?;
    bytes(at, &inner, out);
    Ok(())
}
