//! Types, their names, and when one can stand for another. Knows no functions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Type {
    /// Anything: looked at when it is evaluated.
    Dyn,
    /// The type of what could not be checked; fits everywhere, said nowhere.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    /// The type of types.
    Meta,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    Object(Arc<Object>),
    /// A type of the libraries, by its name.
    Opaque(&'static str),
    /// A variable of a signature, or of a call that is being checked.
    Any(usize),
}

/// A structure with known fields.
#[derive(PartialEq, Debug)]
pub(crate) struct Object {
    /// How the type is named in findings.
    pub(crate) name: String,
    /// By escaped name.
    pub(crate) fields: BTreeMap<String, Type>,
}

pub(super) const QUANTITY: &str = "kubernetes.Quantity";
pub(super) const URL: &str = "kubernetes.URL";
pub(super) const IP: &str = "net.IP";
pub(super) const CIDR: &str = "net.CIDR";
pub(super) const FORMAT: &str = "kubernetes.NamedFormat";
pub(super) const SEMVER: &str = "kubernetes.Semver";

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn | Self::Any(_) => f.write_str("dyn"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Meta => f.write_str("type"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(value) => write!(f, "optional_type({value})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Opaque(name) => f.write_str(name),
        }
    }
}

impl Type {
    /// A list of these.
    pub(super) fn list(item: Type) -> Self {
        Self::List(Arc::new(item))
    }

    /// A map from these to those.
    pub(super) fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    /// An optional value of this type.
    pub(crate) fn optional(value: Type) -> Self {
        Self::Optional(Arc::new(value))
    }

    /// Reads the notation of the function tables, in which `T`, `K` and `V`
    /// are variables. Panics on a wrong table, which a test reads whole.
    pub(super) fn notation(text: &str) -> Self {
        let inner = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        if let Some(item) = inner("list") {
            return Self::list(Self::notation(item));
        }
        if let Some((key, value)) = inner("map").and_then(|pair| pair.split_once(',')) {
            return Self::map(Self::notation(key.trim()), Self::notation(value.trim()));
        }
        if let Some(value) = inner("optional") {
            return Self::optional(Self::notation(value));
        }
        match text {
            "T" => Self::Any(0),
            "K" => Self::Any(1),
            "V" => Self::Any(2),
            "dyn" => Self::Dyn,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "timestamp" => Self::Timestamp,
            "duration" => Self::Duration,
            "type" => Self::Meta,
            "quantity" => Self::Opaque(QUANTITY),
            "url" => Self::Opaque(URL),
            "ip" => Self::Opaque(IP),
            "cidr" => Self::Opaque(CIDR),
            "format" => Self::Opaque(FORMAT),
            "semver" => Self::Opaque(SEMVER),
            other => unreachable!("the tables name no type {other}"),
        }
    }

    /// The type with every variable moved by so many numbers.
    pub(super) fn fresh(&self, by: usize) -> Self {
        match self {
            Self::Any(number) => Self::Any(number + by),
            Self::List(item) => Self::list(item.fresh(by)),
            Self::Map(key, value) => Self::map(key.fresh(by), value.fresh(by)),
            Self::Optional(value) => Self::optional(value.fresh(by)),
            other => other.clone(),
        }
    }

    /// Variables replaced by what they stand for; by `dyn` if that is open and
    /// `close` is set.
    pub(super) fn resolved(&self, known: &BTreeMap<usize, Type>, close: bool) -> Self {
        match self {
            Self::Any(number) => match known.get(number) {
                Some(found) => found.resolved(known, close),
                None if close => Self::Dyn,
                None => self.clone(),
            },
            Self::List(item) => Self::list(item.resolved(known, close)),
            Self::Map(key, value) => Self::map(key.resolved(known, close), value.resolved(known, close)),
            Self::Optional(value) => Self::optional(value.resolved(known, close)),
            other => other.clone(),
        }
    }

    fn contains(&self, variable: usize) -> bool {
        match self {
            Self::Any(number) => *number == variable,
            Self::List(item) | Self::Optional(item) => item.contains(variable),
            Self::Map(key, value) => key.contains(variable) || value.contains(variable),
            _ => false,
        }
    }

    fn nullable(&self) -> bool {
        matches!(self, Self::Object(_) | Self::Opaque(_) | Self::Optional(_) | Self::Timestamp | Self::Duration)
    }
}

/// True if a value of type `from` can stand where `to` is wanted; learns what
/// variables stand for.
pub(super) fn assign(known: &mut BTreeMap<usize, Type>, to: &Type, from: &Type) -> bool {
    let (to, from) = (to.resolved(known, false), from.resolved(known, false));
    match (&to, &from) {
        (Type::Any(a), Type::Any(b)) if a == b => true,
        (Type::Any(variable), other) | (other, Type::Any(variable)) => {
            if other.contains(*variable) {
                return false;
            }
            known.insert(*variable, other.clone());
            true
        }
        (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
        (a, Type::Null) | (Type::Null, a) if a.nullable() => true,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => assign(known, a, b),
        (Type::Map(a, b), Type::Map(c, d)) => assign(known, a, c) && assign(known, b, d),
        (Type::Object(a), Type::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
        (a, b) => a == b,
    }
}
