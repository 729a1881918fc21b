//! Lists and sets: Kubernetes' `lists`, cel-go's `ext.Sets`, and those of
//! `ext.Lists` that Kubernetes turns on.

use std::cmp::Ordering;

use super::super::eval::Fault;
use super::super::functions::{self, Row, fault};
use super::super::value::Val;
use super::{int, items};

macro_rules! for_comparable {
    ($name:literal, $function:expr $(, $kind:literal => $result:literal)*) => {
        &[$((concat!("list(", $kind, ")@", $name, "(): ", $result), $function as functions::Function)),*]
    };
}

static SORTED: &[Row] = for_comparable!("isSorted", is_sorted,
    "int" => "bool", "uint" => "bool", "double" => "bool", "bool" => "bool", "duration" => "bool",
    "timestamp" => "bool", "string" => "bool", "bytes" => "bool");
static SMALLEST: &[Row] = for_comparable!("min", smallest,
    "int" => "int", "uint" => "uint", "double" => "double", "bool" => "bool", "duration" => "duration",
    "timestamp" => "timestamp", "string" => "string", "bytes" => "bytes");
static LARGEST: &[Row] = for_comparable!("max", largest,
    "int" => "int", "uint" => "uint", "double" => "double", "bool" => "bool", "duration" => "duration",
    "timestamp" => "timestamp", "string" => "string", "bytes" => "bytes");
static OTHERS: &[Row] = &[
    ("list(int)@sum(): int", |v| sum(v, Val::Int(0))),
    ("list(uint)@sum(): uint", |v| sum(v, Val::Uint(0))),
    ("list(double)@sum(): double", |v| sum(v, Val::Double(0.0))),
    ("list(duration)@sum(): duration", |v| sum(v, Val::Duration(0))),
    ("list(T)@indexOf(T): int", |v| {
        Ok(Val::Int(items(&v[0])?.iter().position(|one| *one == v[1]).map_or(-1, |at| at as i64)))
    }),
    ("list(T)@lastIndexOf(T): int", |v| {
        Ok(Val::Int(items(&v[0])?.iter().rposition(|one| *one == v[1]).map_or(-1, |at| at as i64)))
    }),
    ("list(T)@slice(int, int): list(T)", slice),
    ("list(T)@distinct(): list(T)", |v| Ok(Val::list(distinct(items(&v[0])?)))),
    ("list(T)@reverse(): list(T)", |v| Ok(Val::list(items(&v[0])?.iter().rev().cloned().collect()))),
    ("list(T)@sort(): list(T)", sort),
    ("list(list(T))@flatten(): list(T)", flatten),
    ("sets.contains(list(T), list(T)): bool", |v| Ok(Val::Bool(holds(&v[0], &v[1])?))),
    ("sets.equivalent(list(T), list(T)): bool", |v| Ok(Val::Bool(holds(&v[0], &v[1])? && holds(&v[1], &v[0])?))),
    ("sets.intersects(list(T), list(T)): bool", |v| {
        let others = items(&v[1])?;
        Ok(Val::Bool(items(&v[0])?.iter().any(|one| others.contains(one))))
    }),
];

pub(super) static FUNCTIONS: &[&[Row]] = &[SORTED, SMALLEST, LARGEST, OTHERS];

fn is_sorted(v: &[Val]) -> Result<Val, Fault> {
    Ok(Val::Bool(items(&v[0])?.is_sorted_by(|a, b| a.order(b).is_some_and(Ordering::is_le))))
}

fn extreme(v: &[Val], name: &str, wanted: Ordering) -> Result<Val, Fault> {
    let mut all = items(&v[0])?.iter();
    let Some(mut best) = all.next() else { return fault(format!("{name} called on empty list")) };
    for one in all {
        if one.order(best).ok_or(Fault::Overload)? == wanted {
            best = one;
        }
    }
    Ok(best.clone())
}

fn smallest(v: &[Val]) -> Result<Val, Fault> {
    extreme(v, "min", Ordering::Less)
}

fn largest(v: &[Val]) -> Result<Val, Fault> {
    extreme(v, "max", Ordering::Greater)
}

fn sum(v: &[Val], zero: Val) -> Result<Val, Fault> {
    items(&v[0])?.iter().try_fold(zero, |sum, one| functions::call("_+_", false, &[sum, one.clone()]))
}

fn slice(v: &[Val]) -> Result<Val, Fault> {
    let all = items(&v[0])?;
    let (from, to) = (int(&v[1])?, int(&v[2])?);
    match (usize::try_from(from), usize::try_from(to)) {
        (Ok(start), Ok(end)) if start <= end && end <= all.len() => Ok(Val::list(all[start..end].to_vec())),
        (Err(_), _) | (_, Err(_)) => fault(format!("cannot slice({from}, {to}), negative indexes not supported")),
        (Ok(start), Ok(end)) if start > end => {
            fault(format!("cannot slice({from}, {to}), start index must be less than or equal to end index"))
        }
        _ => fault(format!("cannot slice({from}, {to}), list is length {}", all.len())),
    }
}

/// Longest list that is compared item by item.
const COMPARED: usize = 2_000;

fn distinct(all: &[Val]) -> Vec<Val> {
    let mut found: Vec<Val> = Vec::new();
    for one in all.iter().take(COMPARED) {
        if !found.contains(one) {
            found.push(one.clone());
        }
    }
    found
}

fn sort(v: &[Val]) -> Result<Val, Fault> {
    let mut all = items(&v[0])?.to_vec();
    if all.windows(2).any(|pair| pair[0].order(&pair[1]).is_none()) {
        return fault("list elements must be comparable");
    }
    all.sort_by(|a, b| a.order(b).unwrap_or(Ordering::Equal));
    Ok(Val::list(all))
}

fn flatten(v: &[Val]) -> Result<Val, Fault> {
    let mut all = Vec::new();
    for one in items(&v[0])? {
        all.extend_from_slice(items(one)?);
    }
    Ok(Val::list(all))
}

fn holds(list: &Val, part: &Val) -> Result<bool, Fault> {
    let list = items(list)?;
    let part = items(part)?;
    if list.len().saturating_mul(part.len()) > COMPARED * COMPARED {
        return Err(Fault::Cost);
    }
    Ok(part.iter().all(|one| list.contains(one)))
}
