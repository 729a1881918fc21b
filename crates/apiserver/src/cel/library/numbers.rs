//! Conversions between numbers, `ext.Math`'s `greatest` and `least`, and
//! Kubernetes' quantities.

use std::cmp::Ordering;

use api::quantity::Quantity;

use super::super::eval::Fault;
use super::super::functions::{Row, fault};
use super::super::value::Val;
use super::{int, items, text};
use crate::field::Quoted;

pub(super) static FUNCTIONS: &[Row] = &[
    ("int(int): int", to_int),
    ("int(uint): int", to_int),
    ("int(double): int", to_int),
    ("int(string): int", to_int),
    ("int(timestamp): int", to_int),
    ("int(duration): int", to_int),
    ("uint(uint): uint", to_uint),
    ("uint(int): uint", to_uint),
    ("uint(double): uint", to_uint),
    ("uint(string): uint", to_uint),
    ("double(double): double", to_double),
    ("double(int): double", to_double),
    ("double(uint): double", to_double),
    ("double(string): double", to_double),
    ("math.greatest(list(T)): T", |v| extreme(items(&v[0])?, Ordering::Greater)),
    ("math.least(list(T)): T", |v| extreme(items(&v[0])?, Ordering::Less)),
    ("math.greatest(T, T): T", |v| extreme(v, Ordering::Greater)),
    ("math.least(T, T): T", |v| extreme(v, Ordering::Less)),
    ("math.greatest(T, T, T): T", |v| extreme(v, Ordering::Greater)),
    ("math.least(T, T, T): T", |v| extreme(v, Ordering::Less)),
    ("math.abs(int): int", abs),
    ("math.abs(double): double", abs),
    ("quantity(string): quantity", |v| match Quantity::parse(text(&v[0])?) {
        Ok(quantity) => Ok(Val::Quantity(quantity)),
        Err(error) => fault(error.to_string()),
    }),
    ("isQuantity(string): bool", |v| Ok(Val::Bool(Quantity::parse(text(&v[0])?).is_ok()))),
    ("quantity@sign(): int", |v| Ok(Val::Int(sign(quantity(&v[0])?.cmp(&Quantity::ZERO))))),
    ("quantity@isGreaterThan(quantity): bool", |v| Ok(Val::Bool(quantity(&v[0])? > quantity(&v[1])?))),
    ("quantity@isLessThan(quantity): bool", |v| Ok(Val::Bool(quantity(&v[0])? < quantity(&v[1])?))),
    ("quantity@compareTo(quantity): int", |v| Ok(Val::Int(sign(quantity(&v[0])?.cmp(&quantity(&v[1])?))))),
    ("quantity@isInteger(): bool", |v| {
        let given = quantity(&v[0])?;
        Ok(Val::Bool(whole(given.value()) == given))
    }),
    ("quantity@asInteger(): int", |v| {
        let given = quantity(&v[0])?;
        if whole(given.value()) == given {
            Ok(Val::Int(given.value()))
        } else {
            fault("cannot convert value to integer")
        }
    }),
    ("quantity@asApproximateFloat(): double", |v| {
        let given = quantity(&v[0])?;
        let exact = given.value().unsigned_abs() > (i64::MAX / 1000).unsigned_abs();
        Ok(Val::Double(if exact { given.value() as f64 } else { given.milli_value() as f64 / 1000.0 }))
    }),
    ("quantity@add(quantity): quantity", |v| Ok(Val::Quantity(quantity(&v[0])? + quantity(&v[1])?))),
    ("quantity@add(int): quantity", |v| Ok(Val::Quantity(quantity(&v[0])? + whole(int(&v[1])?)))),
    ("quantity@sub(quantity): quantity", |v| Ok(Val::Quantity(quantity(&v[0])? - quantity(&v[1])?))),
    ("quantity@sub(int): quantity", |v| Ok(Val::Quantity(quantity(&v[0])? - whole(int(&v[1])?)))),
];

/// A double as Go's `%g` in its shortest form.
pub(super) fn written(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let exponent = if number == 0.0 { 0 } else { number.abs().log10().floor() as i32 };
    if (-4..21).contains(&exponent) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    let (base, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{base}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn sign(order: Ordering) -> i64 {
    order as i64
}

fn quantity(value: &Val) -> Result<Quantity, Fault> {
    match value {
        Val::Quantity(quantity) => Ok(*quantity),
        _ => Err(Fault::Overload),
    }
}

fn whole(number: i64) -> Quantity {
    Quantity::parse(&number.to_string()).unwrap_or(Quantity::ZERO)
}

fn overflow<T>(what: &str) -> Result<T, Fault> {
    fault(format!("{what} overflow"))
}

fn to_int(v: &[Val]) -> Result<Val, Fault> {
    match &v[0] {
        Val::Int(_) => Ok(v[0].clone()),
        Val::Uint(number) => i64::try_from(*number).map(Val::Int).or_else(|_| overflow("integer")),
        Val::Double(number) if number.is_nan() || number.abs() >= 9.223_372_036_854_775e18 => overflow("integer"),
        Val::Double(number) => Ok(Val::Int(*number as i64)),
        Val::Timestamp(at) => Ok(Val::Int(at.as_second())),
        Val::Duration(length) => Ok(Val::Int(*length)),
        other => {
            let given = text(other)?;
            let parsed = given.parse().map(Val::Int);
            parsed.or_else(|_| fault(format!("strconv.ParseInt: parsing {}: invalid syntax", Quoted(given))))
        }
    }
}

fn to_uint(v: &[Val]) -> Result<Val, Fault> {
    match &v[0] {
        Val::Uint(_) => Ok(v[0].clone()),
        Val::Int(number) => u64::try_from(*number).map(Val::Uint).or_else(|_| overflow("unsigned integer")),
        Val::Double(number) if !(0.0..1.844_674_407_370_955e19).contains(number) => overflow("unsigned integer"),
        Val::Double(number) => Ok(Val::Uint(*number as u64)),
        other => {
            let given = text(other)?;
            let parsed = given.parse().map(Val::Uint);
            parsed.or_else(|_| fault(format!("strconv.ParseUint: parsing {}: invalid syntax", Quoted(given))))
        }
    }
}

fn to_double(v: &[Val]) -> Result<Val, Fault> {
    match &v[0] {
        Val::Double(_) => Ok(v[0].clone()),
        Val::Int(number) => Ok(Val::Double(*number as f64)),
        Val::Uint(number) => Ok(Val::Double(*number as f64)),
        other => {
            let given = text(other)?;
            let parsed = given.parse().map(Val::Double);
            parsed.or_else(|_| fault(format!("strconv.ParseFloat: parsing {}: invalid syntax", Quoted(given))))
        }
    }
}

fn extreme(all: &[Val], wanted: Ordering) -> Result<Val, Fault> {
    let Some(mut best) = all.first() else { return fault("the list must not be empty") };
    for one in all {
        if !matches!(one, Val::Int(_) | Val::Uint(_) | Val::Double(_)) {
            return Err(Fault::Overload);
        }
        if one.order(best) == Some(wanted) {
            best = one;
        }
    }
    Ok(best.clone())
}

fn abs(v: &[Val]) -> Result<Val, Fault> {
    match &v[0] {
        Val::Int(number) => number.checked_abs().map(Val::Int).map_or_else(|| overflow("integer"), Ok),
        Val::Double(number) => Ok(Val::Double(number.abs())),
        _ => Err(Fault::Overload),
    }
}
