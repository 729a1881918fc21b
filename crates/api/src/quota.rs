//! What a ResourceQuota counts: which of its resources an object of a kind
//! takes, how much of each, and under which scopes. The API server charges by
//! it and the quota controller measures by it, so it exists once. Not for
//! deciding what happens to a request (`pkg/quota/v1`, upstream 1.36).

mod claim;
mod pod;
mod service;

use jiff::Timestamp;
use serde_json::Value;

use crate::amounts::Amounts;
use crate::quantity::Written;
use crate::selector::{Labels, Operator, Requirement};

/// How objects of one resource are counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evaluator {
    /// Pods: compute resources while they live, and their number.
    Pods,
    /// Services, their node ports and load balancers.
    Services,
    /// Claims and the storage they ask for, by class too.
    Claims,
    /// Any other resource: its objects under these names.
    Count(Vec<String>),
}

/// A condition under which a quota counts an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// `BestEffort`, `PriorityClass`, …
    pub name: String,
    /// `Exists`, `DoesNotExist`, `In`, `NotIn`.
    pub operator: String,
    /// For the last two.
    pub values: Vec<String>,
}

/// `count/leases.coordination.k8s.io`.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// Resources that had a name in quotas before all could be counted.
const OLD_NAMES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

impl Evaluator {
    /// How this resource is counted.
    pub fn of(group: &str, plural: &str) -> Self {
        match (group, plural) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("", plural) if OLD_NAMES.contains(&plural) => Self::Count(vec![count_name("", plural), plural.to_owned()]),
            _ => Self::Count(vec![count_name(group, plural)]),
        }
    }

    /// The group and plural that a quota's resource name counts the objects
    /// of; `None` for what is counted by a rule of its own.
    pub fn counted_by(name: &str) -> Option<(&str, &str)> {
        let plain = match name.strip_prefix("count/") {
            Some(rest) => rest,
            None => OLD_NAMES.iter().find(|old| **old == name)?,
        };
        let (plural, group) = plain.split_once('.').unwrap_or((plain, ""));
        let special = group.is_empty() && matches!(plural, "pods" | "services" | "persistentvolumeclaims");
        (!special).then_some((group, plural))
    }

    /// Whether a quota's resource of this name is counted here.
    pub fn counts(&self, name: &str) -> bool {
        match self {
            Self::Pods => pod::counts(name),
            Self::Services => service::counts(name),
            Self::Claims => claim::counts(name),
            Self::Count(names) => names.iter().any(|one| one == name),
        }
    }

    /// What the object takes at this instant.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Self::Pods => pod::usage(object, now),
            Self::Services => service::usage(object),
            Self::Claims => claim::usage(object),
            Self::Count(names) => Amounts(names.iter().map(|name| (name.clone(), Written::from_i64(1))).collect()),
        }
    }

    /// Whether the object is under the scope.
    pub fn in_scope(&self, scope: &Scope, object: &Value) -> bool {
        match self {
            Self::Pods => pod::in_scope(scope, object),
            Self::Claims => claim::in_scope(scope, object),
            Self::Services | Self::Count(_) => false,
        }
    }

    /// Whether a quota of this `spec` counts the object, given the resources
    /// that it has in force.
    pub fn matches<'a>(&self, spec: &Value, mut hard: impl Iterator<Item = &'a str>, object: &Value) -> bool {
        hard.any(|name| self.counts(name)) && scopes(spec).iter().all(|scope| self.in_scope(scope, object))
    }

    /// What an object must say for these resources to be counted at all; the
    /// error is upstream's sentence about what is missing.
    pub fn constraints(&self, required: &[&str], object: &Value) -> Result<(), String> {
        match self {
            Self::Pods => pod::constraints(required, object),
            _ => Ok(()),
        }
    }
}

/// The scopes of a quota's `spec`.
pub fn scopes(spec: &Value) -> Vec<Scope> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plain = spec["scopes"].as_array().into_iter().flatten();
    let plain = plain.map(|name| Scope { name: text(name), operator: "Exists".to_owned(), values: Vec::new() });
    let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let selected = selected.map(|one| Scope {
        name: text(&one["scopeName"]),
        operator: text(&one["operator"]),
        values: one["values"].as_array().into_iter().flatten().map(text).collect(),
    });
    plain.chain(selected).collect()
}

impl Scope {
    /// Whether the scope's values admit this one; `None`: the object has none.
    fn admits(&self, value: Option<&str>) -> bool {
        let operator = match self.operator.as_str() {
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            _ => return false,
        };
        let Ok(requirement) = Requirement::new(self.name.clone(), operator, self.values.clone()) else { return false };
        let labels: Labels = value.map(|value| (self.name.clone(), value.to_owned())).into_iter().collect();
        requirement.matches(&labels)
    }
}

#[cfg(test)]
mod tests;
