//! Messages to trees. What a message does not say is filled in as Go's types
//! would have it, so the tree equals the one that JSON gives.

use api::schema::{Definition, Field, Schema, Shape, Struct};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::super::{DecodeError, conform};
use super::{BYTES, DEPTH_LIMIT, FIXED32, FIXED64, VARINT};

/// A value on the wire.
#[derive(Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Reads the fields of a message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

fn broken<T>(what: &str) -> Result<T, DecodeError> {
    Err(DecodeError::Protobuf(what.to_owned()))
}

const EOF: &str = "unexpected EOF";

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.rest.split_first() else { return broken(EOF) };
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        broken("proto: integer overflow")
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.rest.len() {
            return broken(EOF);
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    /// The next field's number and value.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).unwrap_or(0);
        if number == 0 {
            return broken("proto: illegal tag 0 (wire type 0)");
        }
        let fixed = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let value = match (key & 7) as u8 {
            VARINT => Wire::Varint(self.varint()?),
            FIXED64 => Wire::Fixed(fixed(self.take(8)?)),
            FIXED32 => Wire::Fixed(fixed(self.take(4)?)),
            BYTES => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            other => return broken(&format!("proto: illegal wireType {other}")),
        };
        Ok(Some((number, value)))
    }
}

/// Bytes as text; what is no UTF-8 is replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Decodes a message of this type.
pub(super) fn message(bytes: &[u8], schema: &Schema, depth: usize) -> Result<Value, DecodeError> {
    if depth > DEPTH_LIMIT {
        return broken("proto: exceeded max depth");
    }
    match schema.shape() {
        Shape::Struct(known) => {
            let mut out = Map::new();
            fields(bytes, known, &[], &mut out, depth)?;
            out.retain(|name, value| known.field(name).is_none_or(|field| !conform::is_left_out(field, value)));
            conform::settle(&mut out, known);
            Ok(Value::Object(out))
        }
        shape => special(bytes, shape, depth),
    }
}

fn fields(
    bytes: &[u8],
    known: &Struct,
    outer: &[u32],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        let path: Vec<u32> = outer.iter().copied().chain([number]).collect();
        let here = |field: &&Field| field.proto.as_ref().is_some_and(|proto| proto.path() == path);
        let below = |field: &Field| field.proto.as_ref().is_some_and(|proto| proto.path().starts_with(&path));
        if let Some(field) = known.fields.iter().find(here) {
            put(field, wire, out, depth)?;
        } else if let Wire::Bytes(inner) = wire
            && known.fields.iter().any(below)
        {
            fields(inner, known, &path, out, depth)?;
        }
    }
    Ok(())
}

fn put(field: &Field, wire: Wire<'_>, out: &mut Map<String, Value>, depth: usize) -> Result<(), DecodeError> {
    let schema = &field.schema;
    match schema.shape() {
        Shape::List(items) if !schema.wrapped => {
            let list = out.entry(field.name.as_ref()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(value(wire, items, depth)?);
            }
        }
        Shape::Map(values) => {
            let map = out.entry(field.name.as_ref()).or_insert_with(|| Value::Object(Map::new()));
            if let (Value::Object(map), Wire::Bytes(entry)) = (map, wire) {
                let (key, value) = entry_of(entry, values, depth)?;
                map.insert(key, value);
            }
        }
        _ => {
            let value = value(wire, schema, depth)?;
            // A struct that comes twice is merged; upstream never writes one twice.
            out.insert(field.name.clone().into_owned(), value);
        }
    }
    Ok(())
}

fn entry_of(entry: &[u8], values: &Schema, depth: usize) -> Result<(String, Value), DecodeError> {
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader::new(entry);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => key = text(bytes),
            (2, wire) => found = Some(value(wire, values, depth)?),
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| conform::zero(values))))
}

fn value(wire: Wire<'_>, schema: &Schema, depth: usize) -> Result<Value, DecodeError> {
    Ok(match (schema.shape(), wire) {
        (Shape::Bool, Wire::Varint(value)) => Value::Bool(value != 0),
        (Shape::Int32, Wire::Varint(value)) => (value as i32).into(),
        (Shape::Int64, Wire::Varint(value)) => (value as i64).into(),
        (Shape::Float, Wire::Fixed(bits)) => float(f64::from_bits(bits)),
        (Shape::String | Shape::Duration, Wire::Bytes(bytes)) => Value::String(text(bytes)),
        (Shape::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Shape::List(items), Wire::Bytes(bytes)) => {
            let mut list = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((_, wire)) = reader.field()? {
                list.push(value(wire, items, depth + 1)?);
            }
            Value::Array(list)
        }
        (_, Wire::Bytes(bytes)) => message(bytes, schema, depth + 1)?,
        _ => return broken("proto: wrong wireType"),
    })
}

fn float(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return (value as i64).into();
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// The types whose JSON form is code.
fn special(bytes: &[u8], shape: &Shape, depth: usize) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut numbers = [0u64; 3];
    let mut texts: [Option<&[u8]>; 4] = [None; 4];
    let mut repeated = Vec::new();
    while let Some((number, wire)) = reader.field()? {
        match (number as usize, wire) {
            (at @ 0..3, Wire::Varint(value)) => numbers[at] = value,
            (at @ 0..4, Wire::Bytes(value)) => {
                texts[at] = Some(value);
                if at == 2 {
                    repeated.push(value);
                }
            }
            _ => {}
        }
    }
    let json = |bytes: Option<&[u8]>| bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    Ok(match shape {
        Shape::Quantity => {
            let text = texts[1].map(text).unwrap_or_default();
            api::quantity::canonical(&text).unwrap_or(text).into()
        }
        Shape::IntOrString if numbers[1] == 0 => (numbers[2] as i32).into(),
        Shape::IntOrString => texts[3].map(text).unwrap_or_default().into(),
        Shape::Time | Shape::MicroTime => time(numbers[1] as i64, numbers[2] as i32, matches!(shape, Shape::MicroTime)),
        Shape::Fields | Shape::Raw | Shape::Json | Shape::Any => json(texts[1]),
        Shape::SchemaOrArray(props) if texts[1].is_none() => list_of(&repeated, props, depth)?,
        Shape::SchemaOrBool(_) if texts[2].is_none() => Value::Bool(numbers[1] != 0),
        Shape::SchemaOrBool(props) => message(texts[2].unwrap_or_default(), props.schema(), depth + 1)?,
        Shape::SchemaOrStrings(_) if texts[1].is_none() => repeated.iter().map(|bytes| text(bytes)).collect(),
        Shape::SchemaOrArray(props) | Shape::SchemaOrStrings(props) => {
            message(texts[1].unwrap_or_default(), props.schema(), depth + 1)?
        }
        _ => return broken("proto: a message in the place of a scalar"),
    })
}

fn list_of(items: &[&[u8]], props: &'static Definition, depth: usize) -> Result<Value, DecodeError> {
    items.iter().map(|item| message(item, props.schema(), depth + 1)).collect()
}

fn time(seconds: i64, nanoseconds: i32, micro: bool) -> Value {
    if seconds == 0 && nanoseconds == 0 {
        return Value::Null;
    }
    match jiff::Timestamp::new(seconds, nanoseconds) {
        Ok(time) if micro => api::time::format_micro(time).into(),
        Ok(time) => api::time::format(time).into(),
        Err(_) => Value::Null,
    }
}
