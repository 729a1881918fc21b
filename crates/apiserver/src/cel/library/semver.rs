//! Versions by the rules of semver.org.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::eval::Fault;
use super::super::functions::{Row, fault};
use super::super::value::Val;
use super::text;

/// A version; what follows its `+` counts for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Semver {
    numbers: [u64; 3],
    before: Vec<Part>,
}

/// A part of what stands before a release: numbers come before words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    Number(u64),
    Word(String),
}

impl Semver {
    fn parse(text: &str) -> Option<Self> {
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (numbers, before) = text.split_once('-').map_or((text, None), |(numbers, rest)| (numbers, Some(rest)));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
        };
        let numbers: Vec<u64> = numbers.split('.').map(number).collect::<Option<_>>()?;
        let part = |text: &str| {
            let fine = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            match (fine, digits) {
                (false, _) => None,
                (true, true) => number(text).map(Part::Number),
                (true, false) => Some(Part::Word(text.to_owned())),
            }
        };
        let before = before.map_or(Some(Vec::new()), |rest| rest.split('.').map(part).collect())?;
        Some(Self { numbers: numbers.try_into().ok()?, before })
    }

    /// The same, where a `v`, missing numbers and leading zeros are forgiven.
    fn parse_tolerant(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('v');
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let (numbers, rest) = text.split_at(end);
        let mut parts: Vec<&str> = numbers.split('.').collect();
        if parts.len() < 3 && !rest.is_empty() {
            return None;
        }
        while parts.len() < 3 {
            parts.push("0");
        }
        let bare = |part: &&str| {
            let short = part.trim_start_matches('0');
            if short.is_empty() && !part.is_empty() { "0".to_owned() } else { short.to_owned() }
        };
        Self::parse(&format!("{}{rest}", parts.iter().map(bare).collect::<Vec<_>>().join(".")))
    }

    fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.before.cmp(&other.before),
        })
    }
}

fn read(v: &[Val]) -> Result<Option<Semver>, Fault> {
    let given = text(&v[0])?;
    Ok(match v.get(1) {
        Some(Val::Bool(true)) => Semver::parse_tolerant(given),
        _ => Semver::parse(given),
    })
}

fn version(v: &[Val]) -> Result<Val, Fault> {
    match read(v)? {
        Some(version) => Ok(Val::Semver(Arc::new(version))),
        None => fault("semver parse error: invalid version"),
    }
}

fn of(value: &Val) -> Result<&Semver, Fault> {
    match value {
        Val::Semver(version) => Ok(version),
        _ => Err(Fault::Overload),
    }
}

fn number(v: &[Val], index: usize) -> Result<Val, Fault> {
    Ok(Val::Int(i64::try_from(of(&v[0])?.numbers[index]).unwrap_or(i64::MAX)))
}

pub(super) static FUNCTIONS: &[Row] = &[
    ("semver(string): semver", version),
    ("semver(string, bool): semver", version),
    ("isSemver(string): bool", |v| Ok(Val::Bool(read(v)?.is_some()))),
    ("isSemver(string, bool): bool", |v| Ok(Val::Bool(read(v)?.is_some()))),
    ("semver@isGreaterThan(semver): bool", |v| Ok(Val::Bool(of(&v[0])?.order(of(&v[1])?).is_gt()))),
    ("semver@isLessThan(semver): bool", |v| Ok(Val::Bool(of(&v[0])?.order(of(&v[1])?).is_lt()))),
    ("semver@compareTo(semver): int", |v| Ok(Val::Int(of(&v[0])?.order(of(&v[1])?) as i64))),
    ("semver@major(): int", |v| number(v, 0)),
    ("semver@minor(): int", |v| number(v, 1)),
    ("semver@patch(): int", |v| number(v, 2)),
];
