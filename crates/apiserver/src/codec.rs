//! Bodies to trees and back: JSON, YAML and protobuf, checked against a schema,
//! pruned and normalised as a round trip through upstream's Go types would.
//! Knows nothing of requests, kinds' own defaults or validation.

pub mod defaults;
pub mod protobuf;

mod conform;
mod json;
mod node;
mod yaml;

use api::gvk::GroupVersion;
use api::schema::Schema;
use bytes::Bytes;
use serde_json::Value;

pub use defaults::defaults;
pub use node::Node;
pub use protobuf::EncodeError;

/// How a body is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Encoding {
    /// The encoding of a media type, parameters aside.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/json" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What a body says it is; either may be empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TypeMeta {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
}

/// An object out of a body.
#[derive(Clone, PartialEq, Debug)]
pub struct Decoded {
    /// Pruned and normalised.
    pub object: Value,
    /// What strict decoding objects to, in order: `unknown field "spec.foo"`.
    pub strict: Vec<String>,
}

/// Why a body cannot be decoded; the text is upstream's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, in the words of Go's scanner.
    #[error("{0}")]
    Syntax(String),
    /// Not YAML.
    #[error("yaml: {0}")]
    Yaml(String),
    /// Not protobuf of this kind.
    #[error("{0}")]
    Protobuf(String),
    /// The body has no readable type.
    #[error("couldn't get version/kind; json parse error: {0}")]
    TypeMeta(Box<DecodeError>),
    /// `apiVersion` is no group and version.
    #[error("unexpected GroupVersion string: {0}")]
    GroupVersion(String),
    /// A value of another type than the field has.
    #[error("json: cannot unmarshal {value} into Go {place}of type {go_type}")]
    Type {
        /// What was found: `string`, `number 1.5`, …
        value: String,
        /// `struct field ObjectMeta.metadata.name `, or `value `.
        place: String,
        /// Go's name of the type.
        go_type: String,
    },
    /// A text that a type with its own syntax refuses.
    #[error("{0}")]
    Value(String),
}

/// Errors of strict decoding as one message.
pub fn strict_message(strict: &[String]) -> String {
    format!("strict decoding error: {}", strict.join(", "))
}

/// The message of a body whose type cannot be told: what `into` was expected,
/// and the start of the body.
pub fn unrecognized_message(error: &DecodeError, kind: &str, body: &[u8]) -> String {
    format!("the object provided is unrecognized (must be of type {kind}): {error} ({})", summary(body))
}

/// Bytes of a body that a message shows.
const SUMMARY: usize = 30;

fn summary(body: &[u8]) -> String {
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let shown = &body[..body.len().min(SUMMARY)];
    let more = if body.len() > SUMMARY { " ..." } else { "" };
    if body[0] == b'{' {
        return format!("{}{more}", String::from_utf8_lossy(shown));
    }
    let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}{more}")
}

/// A body that was read once: its type can be asked for before the schema is known.
#[derive(Debug)]
pub struct Document<'a> {
    form: Form<'a>,
}

#[derive(Debug)]
enum Form<'a> {
    Tree(Node<'a>),
    Protobuf(protobuf::Envelope<'a>),
}

impl<'a> Document<'a> {
    /// Reads the body as far as that needs no schema.
    pub fn parse(body: &'a [u8], encoding: Encoding) -> Result<Self, DecodeError> {
        let form = match encoding {
            Encoding::Json => Form::Tree(json::parse(body)?),
            Encoding::Yaml => Form::Tree(yaml::parse(body)?),
            Encoding::Protobuf => Form::Protobuf(protobuf::Envelope::parse(body)?),
        };
        Ok(Self { form })
    }

    /// What the body says it is.
    pub fn type_meta(&self) -> Result<TypeMeta, DecodeError> {
        let type_meta = match &self.form {
            Form::Tree(node) => conform::type_meta(node)?,
            Form::Protobuf(envelope) => envelope.type_meta.clone(),
        };
        if GroupVersion::parse(&type_meta.api_version).is_none() {
            return Err(DecodeError::GroupVersion(type_meta.api_version));
        }
        Ok(type_meta)
    }

    /// The object.
    pub fn decode(&self, schema: &Schema) -> Result<Decoded, DecodeError> {
        match &self.form {
            Form::Tree(node) => conform::conform(node, schema),
            Form::Protobuf(envelope) => envelope.decode(schema),
        }
    }
}

/// What the body says it is; an unreadable body is refused in upstream's words.
pub fn type_meta(body: &[u8], encoding: Encoding) -> Result<TypeMeta, DecodeError> {
    document(body, encoding)?.type_meta()
}

/// Parses the body; a syntax error reads as upstream's look-up of the type has it.
pub fn document(body: &[u8], encoding: Encoding) -> Result<Document<'_>, DecodeError> {
    Document::parse(body, encoding).map_err(|error| match (&error, encoding) {
        (DecodeError::Syntax(_), Encoding::Json) => DecodeError::TypeMeta(Box::new(error)),
        _ => error,
    })
}

/// Decodes a body whose kind is known.
pub fn decode(body: &[u8], encoding: Encoding, schema: &Schema) -> Result<Decoded, DecodeError> {
    Document::parse(body, encoding)?.decode(schema)
}

/// Checks, prunes and normalises a tree that was parsed already: after a
/// patch, or from a webhook.
pub fn conform(object: &Value, schema: &Schema) -> Result<Decoded, DecodeError> {
    conform::conform(&Node::from_value(object), schema)
}

/// Any JSON body as a tree, with upstream's syntax errors; duplicates are reported.
pub fn parse_json(body: &[u8]) -> Result<Decoded, DecodeError> {
    let mut strict = Vec::new();
    let object = conform::free(&json::parse(body)?, &mut strict);
    Ok(Decoded { object, strict })
}

/// Any JSON or YAML body as a tree: what an apply patch is.
pub fn parse_yaml(body: &[u8]) -> Result<Decoded, DecodeError> {
    let mut strict = Vec::new();
    let object = conform::free(&yaml::parse(body)?, &mut strict);
    Ok(Decoded { object, strict })
}

/// Encodes an object whose `apiVersion` and `kind` are set.
pub fn encode(object: &Value, encoding: Encoding, schema: &Schema) -> Result<Bytes, EncodeError> {
    match encoding {
        Encoding::Json => Ok(encode_json(object)),
        Encoding::Yaml => Ok(encode_yaml(object)),
        Encoding::Protobuf => protobuf::encode(object, schema),
    }
}

/// Compact JSON.
pub fn encode_json(object: &Value) -> Bytes {
    Bytes::from(object.to_string())
}

/// YAML with sorted keys.
pub fn encode_yaml(object: &Value) -> Bytes {
    yaml::encode(object)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod golden;
