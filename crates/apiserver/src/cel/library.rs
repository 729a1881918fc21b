//! The functions of the standard library and of Kubernetes' extensions that
//! are about texts, lists, sets, optionals, numbers, time, quantities, formats
//! and versions. Those about addresses have a file of their own.

mod format;
mod lists;
mod numbers;
mod semver;
mod strings;
mod time;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::eval::Fault;
use super::functions::{Row, fault};
use super::value::Val;

pub(super) use semver::Semver;
pub(crate) use time::duration;

/// All of them.
pub(super) static FUNCTIONS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let parts = [BASE, strings::FUNCTIONS, numbers::FUNCTIONS, format::FUNCTIONS, semver::FUNCTIONS];
    let grouped = lists::FUNCTIONS.iter().chain(time::FUNCTIONS).copied();
    parts.into_iter().chain(grouped).flatten().copied().collect()
});

/// Largest program of a regular expression, bytes: what is larger does not compile.
const REGEX_SIZE: usize = 1 << 20;

/// Expressions that are kept compiled.
const REGEXES: usize = 256;

/// A compiled regular expression. Compiling costs more than matching, and the
/// same few are asked for again and again.
pub(crate) fn regex(pattern: &str) -> Result<regex::Regex, regex::Error> {
    static KNOWN: LazyLock<Mutex<HashMap<String, regex::Regex>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(pattern) {
        return Ok(found.clone());
    }
    let made = regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build()?;
    if known.len() >= REGEXES {
        known.clear();
    }
    known.insert(pattern.to_owned(), made.clone());
    Ok(made)
}

/// A value as messages and `string()` write it.
pub(super) fn written(value: &Val) -> String {
    match value {
        Val::Null => "null".to_owned(),
        Val::Bool(on) => on.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => numbers::written(*number),
        Val::Text(text) => text.to_string(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Timestamp(at) => at.to_string(),
        Val::Duration(length) => time::written(*length),
        Val::Type(name) => name.to_string(),
        Val::Url(url) => url.text.clone(),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(ip, bits) => format!("{ip}/{bits}"),
        Val::List(items) => {
            let items: Vec<String> = items.values.iter().map(written).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.type_name().to_owned(),
    }
}

pub(super) fn text(value: &Val) -> Result<&Arc<str>, Fault> {
    match value {
        Val::Text(text) => Ok(text),
        _ => Err(Fault::Overload),
    }
}

pub(super) fn int(value: &Val) -> Result<i64, Fault> {
    match value {
        Val::Int(number) => Ok(*number),
        _ => Err(Fault::Overload),
    }
}

pub(super) fn items(value: &Val) -> Result<&[Val], Fault> {
    match value {
        Val::List(items) => Ok(&items.values),
        _ => Err(Fault::Overload),
    }
}

fn size(v: &[Val]) -> Result<Val, Fault> {
    let size = match &v[0] {
        Val::Text(text) => text.chars().count(),
        Val::Bytes(bytes) => bytes.len(),
        Val::List(items) => items.values.len(),
        Val::Map(map) => map.len(),
        Val::Object(map) => map.len(),
        _ => return Err(Fault::Overload),
    };
    Ok(Val::Int(size as i64))
}

fn type_of(v: &[Val]) -> Result<Val, Fault> {
    Ok(Val::Type(v[0].type_name().into()))
}

fn to_text(v: &[Val]) -> Result<Val, Fault> {
    match &v[0] {
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Val::text(text)),
            Err(_) => fault("invalid UTF-8 in bytes, cannot convert to string"),
        },
        other => Ok(Val::text(&written(other))),
    }
}

fn to_bool(v: &[Val]) -> Result<Val, Fault> {
    match text(&v[0])?.as_ref() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
        other => fault(format!("strconv.ParseBool: parsing {}: invalid syntax", crate::field::Quoted(other))),
    }
}

fn optional(value: &Val) -> Result<&Option<Arc<Val>>, Fault> {
    match value {
        Val::Optional(inner) => Ok(inner),
        _ => Err(Fault::Overload),
    }
}

fn is_zero(value: &Val) -> bool {
    match value {
        Val::Null => true,
        Val::Bool(on) => !on,
        Val::Int(number) => *number == 0,
        Val::Uint(number) => *number == 0,
        Val::Double(number) => *number == 0.0,
        Val::Text(text) => text.is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::List(items) => items.values.is_empty(),
        Val::Map(map) => map.is_empty(),
        Val::Object(map) => map.is_empty(),
        Val::Duration(length) => *length == 0,
        Val::Optional(inner) => inner.is_none(),
        _ => false,
    }
}

static BASE: &[Row] = &[
    ("size(string): int", size),
    ("size(bytes): int", size),
    ("size(list(T)): int", size),
    ("size(map(K,V)): int", size),
    ("string@size(): int", size),
    ("bytes@size(): int", size),
    ("list(T)@size(): int", size),
    ("map(K,V)@size(): int", size),
    ("type(T): type", type_of),
    ("dyn(T): dyn", |v| Ok(v[0].clone())),
    ("string(string): string", to_text),
    ("string(bool): string", to_text),
    ("string(int): string", to_text),
    ("string(uint): string", to_text),
    ("string(double): string", to_text),
    ("string(bytes): string", to_text),
    ("string(timestamp): string", to_text),
    ("string(duration): string", to_text),
    ("string(ip): string", to_text),
    ("string(cidr): string", to_text),
    ("bytes(bytes): bytes", |v| Ok(v[0].clone())),
    ("bytes(string): bytes", |v| Ok(Val::Bytes(text(&v[0])?.as_bytes().into()))),
    ("bool(bool): bool", |v| Ok(v[0].clone())),
    ("bool(string): bool", to_bool),
    ("optional.of(T): optional(T)", |v| Ok(Val::Optional(Some(Arc::new(v[0].clone()))))),
    ("optional.none(): optional(T)", |_| Ok(Val::Optional(None))),
    ("optional.ofNonZeroValue(T): optional(T)", |v| {
        Ok(Val::Optional((!is_zero(&v[0])).then(|| Arc::new(v[0].clone()))))
    }),
    ("optional(T)@hasValue(): bool", |v| Ok(Val::Bool(optional(&v[0])?.is_some()))),
    ("optional(T)@value(): T", |v| match optional(&v[0])? {
        Some(value) => Ok(Val::clone(value)),
        None => fault("optional.none() dereference"),
    }),
    ("optional(T)@or(optional(T)): optional(T)", |v| {
        Ok(if optional(&v[0])?.is_some() { v[0].clone() } else { v[1].clone() })
    }),
    ("optional(T)@orValue(T): T", |v| Ok(optional(&v[0])?.as_deref().unwrap_or(&v[1]).clone())),
];
