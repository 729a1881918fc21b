//! Which functions there are, what they take and give, and which one a call
//! means. What they do is in the library; here are only the operators.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::eval::Fault;
use super::types::Type;
use super::value::{Items, Key, Order, Val};
use super::{library, net};

/// What a function does.
pub(super) type Function = fn(&[Val]) -> Result<Val, Fault>;

/// A signature with its function: `name(types): type`, or `type@name(types): type`
/// for members.
pub(super) type Row = (&'static str, Function);

/// One way in which a function can be called.
pub(super) struct Overload {
    member: bool,
    /// The target first, if there is one.
    pub(super) parameters: Vec<Type>,
    pub(super) result: Type,
    function: Function,
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for (signature, function) in OPERATORS.iter().chain(library::FUNCTIONS.iter()).chain(net::FUNCTIONS) {
        let (name, overload) = read(signature, *function);
        table.entry(name).or_default().push(overload);
    }
    // These are evaluated without their arguments' values.
    for name in ["_&&_", "_||_"] {
        table.entry(name).or_default();
    }
    table
});

fn read(signature: &'static str, function: Function) -> (&'static str, Overload) {
    let (call, result) = signature.rsplit_once(": ").expect("every signature has a result");
    let (receiver, call) = match call.split_once('@') {
        Some((receiver, call)) if !receiver.is_empty() => (Some(receiver), call),
        _ => (None, call),
    };
    let (name, parameters) = call.split_once('(').expect("every signature has parameters");
    let parameters = parameters.strip_suffix(')').expect("every signature ends its parameters");
    let parameters = parameters.split(", ").filter(|one| !one.is_empty());
    let overload = Overload {
        member: receiver.is_some(),
        parameters: receiver.into_iter().chain(parameters).map(Type::notation).collect(),
        result: Type::notation(result),
        function,
    };
    (name, overload)
}

/// True if there is a function of this name.
pub(super) fn is_known(name: &str) -> bool {
    TABLE.contains_key(name)
}

/// The ways to call a function with so many values, the target among them.
pub(super) fn overloads(name: &str, member: bool, count: usize) -> impl Iterator<Item = &'static Overload> {
    let all = TABLE.get(name).map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(move |one| one.member == member && one.parameters.len() == count)
}

/// The name of the type that this word stands for.
pub(super) fn type_value(word: &str) -> Option<&'static str> {
    const WORDS: [&str; 15] = [
        "bool",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
        "net.IP",
        "net.CIDR",
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
        "optional_type",
    ];
    WORDS.into_iter().find(|one| *one == word)
}

/// Calls a function.
pub(super) fn call(name: &str, member: bool, values: &[Val]) -> Result<Val, Fault> {
    let fits = |overload: &&Overload| overload.parameters.iter().zip(values).all(|(kind, value)| accepts(kind, value));
    let overload = overloads(name, member, values.len()).find(fits).ok_or(Fault::Overload)?;
    (overload.function)(values)
}

fn accepts(kind: &Type, value: &Val) -> bool {
    match kind {
        Type::Any(_) | Type::Dyn => true,
        // The first item stands for all: that is what tells overloads apart.
        Type::List(item) => matches!(value, Val::List(all) if all.values.first().is_none_or(|one| accepts(item, one))),
        Type::Map(..) => matches!(value, Val::Map(_) | Val::Object(_)),
        Type::Optional(_) => matches!(value, Val::Optional(_)),
        Type::Timestamp => matches!(value, Val::Timestamp(_)),
        Type::Duration => matches!(value, Val::Duration(_)),
        Type::Bool | Type::Int | Type::Uint | Type::Double | Type::String | Type::Bytes | Type::Meta => {
            kind.to_string() == value.type_name()
        }
        Type::Opaque(name) => *name == value.type_name(),
        Type::Null | Type::Error | Type::Object(_) => false,
    }
}

/// A fault in a function's own words.
pub(super) fn fault<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Function(message.into()))
}

fn ordered(values: &[Val], test: fn(std::cmp::Ordering) -> bool) -> Result<Val, Fault> {
    match values[0].order(&values[1]) {
        Some(order) => Ok(Val::Bool(test(order))),
        None => fault("NaN values cannot be ordered"),
    }
}

fn less(v: &[Val]) -> Result<Val, Fault> {
    ordered(v, std::cmp::Ordering::is_lt)
}
fn less_or_equal(v: &[Val]) -> Result<Val, Fault> {
    ordered(v, std::cmp::Ordering::is_le)
}
fn greater(v: &[Val]) -> Result<Val, Fault> {
    ordered(v, std::cmp::Ordering::is_gt)
}
fn greater_or_equal(v: &[Val]) -> Result<Val, Fault> {
    ordered(v, std::cmp::Ordering::is_ge)
}

/// Arithmetic on numbers of one type.
fn arithmetic(
    values: &[Val],
    int: fn(i64, i64) -> Option<i64>,
    uint: fn(u64, u64) -> Option<u64>,
    double: fn(f64, f64) -> f64,
) -> Result<Val, Fault> {
    let overflow = |kind: &str| Fault::Function(format!("{kind} overflow"));
    match (&values[0], &values[1]) {
        (Val::Int(a), Val::Int(b)) => int(*a, *b).map(Val::Int).ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => uint(*a, *b).map(Val::Uint).ok_or_else(|| overflow("unsigned integer")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(double(*a, *b))),
        _ => Err(Fault::Overload),
    }
}

fn add(v: &[Val]) -> Result<Val, Fault> {
    match (&v[0], &v[1]) {
        (Val::Text(a), Val::Text(b)) => Ok(Val::Text(format!("{a}{b}").into())),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([&**a, &**b].concat().into())),
        (Val::List(a), Val::List(b)) => Ok(Val::List(Arc::new(joined(a, b)))),
        (Val::Timestamp(at), Val::Duration(length)) | (Val::Duration(length), Val::Timestamp(at)) => {
            moved(*at, Some(*length))
        }
        (Val::Duration(a), Val::Duration(b)) => duration(a.checked_add(*b)),
        _ => arithmetic(v, i64::checked_add, u64::checked_add, |a, b| a + b),
    }
}

/// Lists that tell items apart take new items in, and keep places of old ones.
fn joined(a: &Items, b: &Items) -> Items {
    let mut values = a.values.clone();
    for item in &b.values {
        let same = |one: &Val| match &a.kind {
            Order::Atomic => false,
            Order::Set => one == item,
            Order::Keyed(keys) => match (one, item) {
                (Val::Object(x), Val::Object(y)) => keys.iter().all(|key| x.get(key) == y.get(key)),
                _ => false,
            },
        };
        match values.iter().position(same) {
            Some(place) => values[place] = item.clone(),
            None => values.push(item.clone()),
        }
    }
    Items { values, kind: a.kind.clone() }
}

fn subtract(v: &[Val]) -> Result<Val, Fault> {
    match (&v[0], &v[1]) {
        (Val::Timestamp(a), Val::Timestamp(b)) => duration(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok()),
        (Val::Timestamp(at), Val::Duration(length)) => moved(*at, length.checked_neg()),
        (Val::Duration(a), Val::Duration(b)) => duration(a.checked_sub(*b)),
        _ => arithmetic(v, i64::checked_sub, u64::checked_sub, |a, b| a - b),
    }
}

fn moved(at: jiff::Timestamp, by: Option<i64>) -> Result<Val, Fault> {
    let moved = by.and_then(|by| at.checked_add(jiff::SignedDuration::from_nanos(by)).ok());
    moved.map(Val::Timestamp).ok_or_else(|| Fault::Function("timestamp overflow".to_owned()))
}

fn duration(nanoseconds: Option<i64>) -> Result<Val, Fault> {
    nanoseconds.map(Val::Duration).ok_or_else(|| Fault::Function("duration overflow".to_owned()))
}

fn multiply(v: &[Val]) -> Result<Val, Fault> {
    arithmetic(v, i64::checked_mul, u64::checked_mul, |a, b| a * b)
}

fn by_zero(v: &[Val], what: &str) -> Result<(), Fault> {
    if matches!(v[1], Val::Int(0) | Val::Uint(0)) { fault(what) } else { Ok(()) }
}

fn divide(v: &[Val]) -> Result<Val, Fault> {
    by_zero(v, "division by zero")?;
    arithmetic(v, i64::checked_div, u64::checked_div, |a, b| a / b)
}

fn remainder(v: &[Val]) -> Result<Val, Fault> {
    by_zero(v, "modulus by zero")?;
    arithmetic(v, i64::checked_rem, u64::checked_rem, |a, b| a % b)
}

fn negate(v: &[Val]) -> Result<Val, Fault> {
    match &v[0] {
        Val::Int(number) => {
            number.checked_neg().map(Val::Int).ok_or_else(|| Fault::Function("integer overflow".to_owned()))
        }
        Val::Double(number) => Ok(Val::Double(-number)),
        Val::Duration(length) => duration(length.checked_neg()),
        _ => Err(Fault::Overload),
    }
}

fn index(of: &Val, at: &Val) -> Result<Option<Val>, Fault> {
    match of {
        Val::List(items) => match Key::of(at) {
            Some(Key::Int(place)) => Ok(usize::try_from(place).ok().and_then(|place| items.values.get(place).cloned())),
            _ => Err(Fault::Overload),
        },
        Val::Map(map) => Ok(Key::of(at).and_then(|key| map.get(&key).cloned())),
        Val::Object(map) => match at {
            Val::Text(name) => Ok(map.get(&**name).cloned()),
            _ => Err(Fault::Overload),
        },
        _ => Err(Fault::Overload),
    }
}

fn at_index(v: &[Val]) -> Result<Val, Fault> {
    match (&v[0], index(&v[0], &v[1])?) {
        (_, Some(found)) => Ok(found),
        (Val::List(_), None) => fault(format!("index out of bounds: {}", library::written(&v[1]))),
        (_, None) => Err(Fault::Key(library::written(&v[1]))),
    }
}

fn at_optional_index(v: &[Val]) -> Result<Val, Fault> {
    let of = match &v[0] {
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => inner,
        other => other,
    };
    Ok(Val::Optional(index(of, &v[1])?.map(Arc::new)))
}

fn within(v: &[Val]) -> Result<Val, Fault> {
    Ok(Val::Bool(match &v[1] {
        Val::List(items) => items.values.contains(&v[0]),
        Val::Map(map) => Key::of(&v[0]).is_some_and(|key| map.contains_key(&key)),
        Val::Object(map) => matches!(&v[0], Val::Text(name) if map.contains_key(&**name)),
        _ => return Err(Fault::Overload),
    }))
}

macro_rules! comparisons {
    ($($name:literal => $function:ident),*) => {
        &[$(
            (concat!($name, "(bool, bool): bool"), $function as Function),
            (concat!($name, "(int, int): bool"), $function),
            (concat!($name, "(int, double): bool"), $function),
            (concat!($name, "(int, uint): bool"), $function),
            (concat!($name, "(uint, uint): bool"), $function),
            (concat!($name, "(uint, int): bool"), $function),
            (concat!($name, "(uint, double): bool"), $function),
            (concat!($name, "(double, double): bool"), $function),
            (concat!($name, "(double, int): bool"), $function),
            (concat!($name, "(double, uint): bool"), $function),
            (concat!($name, "(string, string): bool"), $function),
            (concat!($name, "(bytes, bytes): bool"), $function),
            (concat!($name, "(timestamp, timestamp): bool"), $function),
            (concat!($name, "(duration, duration): bool"), $function),
        )*]
    };
}

static COMPARISONS: &[Row] = comparisons!(
    "_<_" => less, "_<=_" => less_or_equal, "_>_" => greater, "_>=_" => greater_or_equal
);

static OTHERS: &[Row] = &[
    ("_==_(T, T): bool", |v| Ok(Val::Bool(v[0] == v[1]))),
    ("_!=_(T, T): bool", |v| Ok(Val::Bool(v[0] != v[1]))),
    ("_?_:_(bool, T, T): T", |v| Ok(v[if v[0] == Val::Bool(true) { 1 } else { 2 }].clone())),
    ("!_(bool): bool", |v| Ok(Val::Bool(v[0] == Val::Bool(false)))),
    ("-_(int): int", negate),
    ("-_(double): double", negate),
    ("-_(duration): duration", negate),
    ("_+_(int, int): int", add),
    ("_+_(uint, uint): uint", add),
    ("_+_(double, double): double", add),
    ("_+_(string, string): string", add),
    ("_+_(bytes, bytes): bytes", add),
    ("_+_(list(T), list(T)): list(T)", add),
    ("_+_(timestamp, duration): timestamp", add),
    ("_+_(duration, timestamp): timestamp", add),
    ("_+_(duration, duration): duration", add),
    ("_-_(int, int): int", subtract),
    ("_-_(uint, uint): uint", subtract),
    ("_-_(double, double): double", subtract),
    ("_-_(timestamp, timestamp): duration", subtract),
    ("_-_(timestamp, duration): timestamp", subtract),
    ("_-_(duration, duration): duration", subtract),
    ("_*_(int, int): int", multiply),
    ("_*_(uint, uint): uint", multiply),
    ("_*_(double, double): double", multiply),
    ("_/_(int, int): int", divide),
    ("_/_(uint, uint): uint", divide),
    ("_/_(double, double): double", divide),
    ("_%_(int, int): int", remainder),
    ("_%_(uint, uint): uint", remainder),
    ("@in(T, list(T)): bool", within),
    ("@in(K, map(K,V)): bool", within),
    ("_[_](list(T), int): T", at_index),
    ("_[_](map(K,V), K): V", at_index),
    ("_[?_](list(T), int): optional(T)", at_optional_index),
    ("_[?_](map(K,V), K): optional(V)", at_optional_index),
    ("_[?_](optional(list(T)), int): optional(T)", at_optional_index),
    ("_[?_](optional(map(K,V)), K): optional(V)", at_optional_index),
];

static OPERATORS: LazyLock<Vec<Row>> = LazyLock::new(|| COMPARISONS.iter().chain(OTHERS).copied().collect());
