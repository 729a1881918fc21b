//! Values while an expression is evaluated. Knows no functions.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::types;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<Items>),
    Map(Arc<BTreeMap<Key, Val>>),
    /// A structure, by escaped field name.
    Object(Arc<BTreeMap<String, Val>>),
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// A type, by its name.
    Type(Arc<str>),
    Optional(Option<Arc<Val>>),
    Quantity(api::quantity::Quantity),
    Url(Arc<super::net::Url>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Format(&'static str),
    Semver(Arc<super::library::Semver>),
}

/// A list, and how its items are told apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Items {
    pub(crate) values: Vec<Val>,
    pub(crate) kind: Order,
}

/// `x-kubernetes-list-type`, as far as equality and `+` go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Order {
    #[default]
    Atomic,
    Set,
    /// By these escaped fields.
    Keyed(Vec<String>),
}

/// A key of a map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(Arc<str>),
}

impl Key {
    /// The key of a value, if values of its type can be one.
    pub(super) fn of(value: &Val) -> Option<Self> {
        match value {
            Val::Bool(on) => Some(Self::Bool(*on)),
            Val::Int(number) => Some(Self::Int(*number)),
            Val::Uint(number) => Some(i64::try_from(*number).map_or(Self::Uint(*number), Self::Int)),
            Val::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(Self::Int(*number as i64)),
            Val::Text(text) => Some(Self::Text(Arc::clone(text))),
            _ => None,
        }
    }

    /// The value of a key.
    pub(super) fn value(&self) -> Val {
        match self {
            Self::Bool(on) => Val::Bool(*on),
            Self::Int(number) => Val::Int(*number),
            Self::Uint(number) => Val::Uint(*number),
            Self::Text(text) => Val::Text(Arc::clone(text)),
        }
    }
}

impl Val {
    /// A text.
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    /// A plain list.
    pub(super) fn list(values: Vec<Val>) -> Self {
        Self::List(Arc::new(Items { values, kind: Order::Atomic }))
    }

    /// The name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Object(_) => "object",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => types::QUANTITY,
            Self::Url(_) => types::URL,
            Self::Ip(_) => types::IP,
            Self::Cidr(..) => types::CIDR,
            Self::Format(_) => types::FORMAT,
            Self::Semver(_) => types::SEMVER,
        }
    }

    /// Work that reading the whole value is, in units of the budget.
    pub(super) fn traversal(&self) -> u64 {
        let tenth = |length: usize| (length as u64).div_ceil(10);
        match self {
            Self::Text(text) => tenth(text.len()),
            Self::Bytes(bytes) => tenth(bytes.len()),
            Self::List(items) => items.values.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Object(map) => map.len() as u64,
            Self::Url(url) => tenth(url.text.len()),
            _ => 0,
        }
    }

    fn number(&self) -> Option<Number> {
        match self {
            Self::Int(number) => Some(Number::Whole(i128::from(*number))),
            Self::Uint(number) => Some(Number::Whole(i128::from(*number))),
            Self::Double(number) => Some(Number::Real(*number)),
            _ => None,
        }
    }

    /// The order of two values, if their types have one.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            _ => match (self.number()?, other.number()?) {
                (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(&b)),
                (a, b) => a.real().partial_cmp(&b.real()),
            },
        }
    }
}

enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn real(&self) -> f64 {
        match self {
            Self::Whole(number) => *number as f64,
            Self::Real(number) => *number,
        }
    }
}

impl PartialEq for Items {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.values, &other.values);
        match &self.kind {
            _ if a.len() != b.len() => false,
            Order::Atomic => a == b,
            // Items of these occur once, so one direction is enough.
            Order::Set | Order::Keyed(_) => a.iter().all(|one| b.contains(one)),
        }
    }
}

impl PartialEq for Val {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a.text == b.text,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, n), Self::Cidr(b, m)) => a == b && n == m,
            (Self::Format(a), Self::Format(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            _ => self.order(other) == Some(Ordering::Equal),
        }
    }
}
