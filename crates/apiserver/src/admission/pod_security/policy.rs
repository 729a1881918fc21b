//! What a namespace's labels say about the security of its pods. Knows the
//! levels' names and order, not what they forbid.

use std::fmt;

use serde_json::Value;

use crate::field::{Errors, Path};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict; in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

/// A level as a release defines it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rung {
    pub(super) level: Level,
    /// The minor release; `None` for the latest.
    pub(super) version: Option<u32>,
}

impl Rung {
    const OPEN: Self = Self { level: Level::Privileged, version: None };

    /// The minor release whose definition is meant.
    pub(super) fn minor(self) -> u32 {
        self.version.unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.version {
            Some(minor) => write!(f, ":v1.{minor}"),
            None => f.write_str(":latest"),
        }
    }
}

/// What is refused and what is warned of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Policy {
    pub(super) enforce: Rung,
    pub(super) warn: Rung,
}

impl Policy {
    /// Reads labels. What cannot be read is an error and closes `enforce`,
    /// but opens the modes that refuse nothing.
    pub(super) fn read(labels: &Value) -> (Self, Errors) {
        let mut errors = Errors::new();
        let label = |name: &str| labels.get(format!("{PREFIX}{name}")).and_then(Value::as_str);
        let mut policy = Self { enforce: Rung::OPEN, warn: Rung::OPEN };
        let mut given = false;
        if let Some(text) = label("enforce") {
            let level = level("enforce", text, &mut errors);
            given = level.is_some();
            policy.enforce.level = level.unwrap_or(Level::Restricted);
        }
        policy.enforce.version = version("enforce-version", label("enforce-version"), &mut errors);
        if let Some(text) = label("audit") {
            level("audit", text, &mut errors);
        }
        version("audit-version", label("audit-version"), &mut errors);
        if let Some(text) = label("warn") {
            policy.warn.level = level("warn", text, &mut errors).unwrap_or(Level::Privileged);
        }
        policy.warn.version = version("warn-version", label("warn-version"), &mut errors);
        if label("warn").is_none() && given && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

fn refuse(name: &str, text: &str, detail: &str, errors: &mut Errors) {
    let metadata = Path::new("metadata");
    let labels = metadata.child("labels");
    errors.invalid_text(&labels.key(&format!("{PREFIX}{name}")), text, detail);
}

fn level(name: &str, text: &str, errors: &mut Errors) -> Option<Level> {
    let level = Level::parse(text);
    if level.is_none() {
        refuse(name, text, "must be one of privileged, baseline, restricted", errors);
    }
    level
}

fn version(name: &str, text: Option<&str>, errors: &mut Errors) -> Option<u32> {
    let text = text.filter(|text| *text != "latest")?;
    let digits = text.strip_prefix("v1.").unwrap_or_default();
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let minor = digits.parse().ok().filter(|_| plain);
    if minor.is_none() {
        refuse(name, text, "must be \"latest\" or \"v1.x\"", errors);
    }
    minor
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(labels: Value) -> (String, String, usize) {
        let (policy, errors) = Policy::read(&labels);
        (policy.enforce.to_string(), policy.warn.to_string(), errors.into_causes().len())
    }

    #[test]
    fn a_namespace_warns_of_what_it_refuses() {
        let expected = |enforce: &str, warn: &str, errors| (enforce.to_owned(), warn.to_owned(), errors);
        assert_eq!(read(json!(null)), expected("privileged:latest", "privileged:latest", 0));
        let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.20"});
        assert_eq!(read(labels), expected("baseline:v1.20", "baseline:v1.20", 0));
        let labels = json!({"pod-security.kubernetes.io/warn": "restricted"});
        assert_eq!(read(labels), expected("privileged:latest", "restricted:latest", 0));
    }

    #[test]
    fn what_cannot_be_read_closes_enforcement() {
        let labels =
            json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/warn-version": "v1.01"});
        assert_eq!(read(labels), ("restricted:latest".into(), "privileged:latest".into(), 2));
    }
}
