//! A parsed body before it is held against a schema: order of members,
//! duplicates and the spelling of numbers are still there.

use std::borrow::Cow;

use serde_json::{Number, Value};

/// A JSON value that borrows from its body.
#[derive(Clone, PartialEq, Debug)]
pub enum Node<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// As it was spelt.
    Number(Cow<'a, str>),
    /// Unescaped.
    String(Cow<'a, str>),
    /// Elements in order.
    Array(Vec<Node<'a>>),
    /// Members in order, duplicates included.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl<'a> Node<'a> {
    /// A view of a tree.
    pub fn from_value(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.to_string().into()),
            Value::String(text) => Self::String(text.as_str().into()),
            Value::Array(items) => Self::Array(items.iter().map(Self::from_value).collect()),
            Value::Object(map) => {
                Self::Object(map.iter().map(|(key, value)| (key.as_str().into(), Self::from_value(value))).collect())
            }
        }
    }

    /// Go's word for the kind of value in decode errors.
    pub(super) fn go_kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

/// A number as upstream's untyped trees hold it: an `int64` where it is one,
/// else a double. None for a number that no double holds.
pub(super) fn number(text: &str) -> Option<Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    float(text)
}

/// A double, spelt without a fraction where it has none, as Go does.
pub(super) fn float(text: &str) -> Option<Number> {
    let value: f64 = text.parse().ok()?;
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return Some((value as i64).into());
    }
    Number::from_f64(value)
}
