//! YAML to a tree of JSON's kinds. Anchors, tags of its own and several
//! documents are left to the library.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{DecodeError, Node};

/// Parses the first document of a body; an empty one is null.
pub(super) fn parse(body: &[u8]) -> Result<Node<'static>, DecodeError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Node::Null);
    }
    let Some(document) = serde_yaml_ng::Deserializer::from_slice(body).next() else { return Ok(Node::Null) };
    match Owned::deserialize(document) {
        Ok(Owned(node)) => Ok(node),
        Err(error) => Err(DecodeError::Yaml(in_gos_words(&error))),
    }
}

/// `line 6: did not find expected key`
fn in_gos_words(error: &serde_yaml_ng::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    match error.location() {
        Some(location) => format!("line {}: {what}", location.line()),
        None => what.to_owned(),
    }
}

/// Encodes a tree.
pub(super) fn encode(object: &Value) -> Bytes {
    Bytes::from(serde_yaml_ng::to_string(object).expect("a JSON tree is a YAML tree"))
}

struct Owned(Node<'static>);

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Owned)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'static>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Node::Number(value.to_string().into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Node::Number(value.to_string().into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Node::Number(value.to_string().into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Node::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Owned(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Owned(key), Owned(value))) = access.next_entry()? {
            let key = match key {
                Node::String(text) | Node::Number(text) => text,
                Node::Bool(value) => value.to_string().into(),
                _ => return Err(serde::de::Error::custom("a key that is no text")),
            };
            members.push((key, value));
        }
        Ok(Node::Object(members))
    }
}
