//! Kubernetes' protobuf: the `k8s\0` envelope around a message whose fields
//! the schema numbers. No generated code, no message types.

mod decode;
mod encode;

use api::schema::Schema;
use bytes::Bytes;
use serde_json::Value;

use super::{DecodeError, Decoded, TypeMeta};

/// First bytes of every protobuf body.
const MAGIC: &[u8] = b"k8s\0";
/// Levels of nesting that a message may have.
const DEPTH_LIMIT: usize = 200;

/// Wire types.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Why an object cannot be encoded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// Custom kinds have no field numbers.
    #[error("object of kind {kind:?} has no protobuf form")]
    NoForm {
        /// `kind` of the object.
        kind: String,
    },
    /// A value is not of its field's type.
    #[error("field {field:?} is not {expected}")]
    Value {
        /// JSON name.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// `runtime.Unknown` with its message not yet read.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) type_meta: TypeMeta,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads the envelope.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        if body.is_empty() {
            return Err(DecodeError::Protobuf("empty data".to_owned()));
        }
        let unknown = body.strip_prefix(MAGIC).ok_or_else(|| {
            let message = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
            DecodeError::Protobuf(message.to_owned())
        })?;
        let mut envelope = Self { type_meta: TypeMeta::default(), raw: &[] };
        let mut reader = decode::Reader::new(unknown);
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, decode::Wire::Bytes(type_meta)) => {
                    let mut reader = decode::Reader::new(type_meta);
                    while let Some((number, value)) = reader.field()? {
                        match (number, value) {
                            (1, decode::Wire::Bytes(text)) => envelope.type_meta.api_version = decode::text(text),
                            (2, decode::Wire::Bytes(text)) => envelope.type_meta.kind = decode::text(text),
                            _ => {}
                        }
                    }
                }
                (2, decode::Wire::Bytes(raw)) => envelope.raw = raw,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// Reads the message.
    pub(super) fn decode(&self, schema: &Schema) -> Result<Decoded, DecodeError> {
        let mut object = decode::message(self.raw, schema, 0)?;
        if let Value::Object(map) = &mut object {
            for (key, text) in [("apiVersion", &self.type_meta.api_version), ("kind", &self.type_meta.kind)] {
                if !text.is_empty() {
                    map.insert(key.to_owned(), text.as_str().into());
                }
            }
        }
        Ok(Decoded { object, strict: Vec::new() })
    }
}

/// Encodes an object with its envelope; `apiVersion` and `kind` are the object's.
pub(super) fn encode(object: &Value, schema: &Schema) -> Result<Bytes, EncodeError> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let raw = message(object, schema)?;
    Ok(envelope(text("apiVersion"), text("kind"), &raw))
}

/// The message of an object without its envelope, as lists hold it.
pub fn message(object: &Value, schema: &Schema) -> Result<Vec<u8>, EncodeError> {
    let mut raw = Vec::new();
    encode::message(object, schema, &mut raw)?;
    Ok(raw)
}

/// Wraps a message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    let mut type_meta = Vec::new();
    encode::bytes(1, api_version.as_bytes(), &mut type_meta);
    encode::bytes(2, kind.as_bytes(), &mut type_meta);
    encode::bytes(1, &type_meta, &mut out);
    encode::bytes(2, raw, &mut out);
    encode::bytes(3, b"", &mut out);
    encode::bytes(4, b"", &mut out);
    Bytes::from(out)
}

/// A list of messages with its envelope. `metadata` is the list's, `list_meta`
/// its schema; every list kind has these two fields.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    list_meta: &Schema,
    items: impl Iterator<Item = &'a [u8]>,
) -> Result<Bytes, EncodeError> {
    let mut raw = Vec::new();
    encode::bytes(1, &message(metadata, list_meta)?, &mut raw);
    for item in items {
        encode::bytes(2, item, &mut raw);
    }
    Ok(envelope(api_version, kind, &raw))
}

/// An event of a watch in the stream's framing: its length in four bytes, big
/// end first, then the event. `object` is an encoded object with its envelope.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(object.len() + 32);
    encode::bytes(1, event_type.as_bytes(), &mut event);
    let mut raw = Vec::with_capacity(object.len() + 8);
    encode::bytes(1, object, &mut raw);
    encode::bytes(2, &raw, &mut event);
    let length = u32::try_from(event.len()).expect("objects are bounded far below 4 GiB");
    let mut out = Vec::with_capacity(event.len() + 4);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&event);
    Bytes::from(out)
}
