//! Label selectors: the parsed form of `meta/v1 LabelSelector` and of plain
//! key-value maps. Text selectors of a URL are not parsed here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object as k8s-openapi has them.
pub type Labels = BTreeMap<String, String>;

/// How a requirement compares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Operator {
    /// The label is one of the values.
    In,
    /// The label is absent or none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// One condition on one label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// Empty for `Exists` and `DoesNotExist`.
    pub values: BTreeSet<String>,
}

impl Requirement {
    /// True if the labels satisfy it.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// All requirements must hold. Without any it matches everything, unless it is
/// [`Selector::nothing`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Why a `LabelSelector` cannot be used.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum SelectorError {
    /// `operator` is none of the four.
    #[error("\"{operator}\" is not a valid label selector operator")]
    Operator {
        /// As found.
        operator: String,
    },
    /// Values do not fit the operator.
    #[error("values of label selector key {key} do not fit its operator")]
    Values {
        /// Label key.
        key: String,
    },
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Every pair must be present.
    pub fn from_map(labels: &Labels) -> Self {
        let mut selector = Self::everything();
        for (key, value) in labels {
            selector.require_equal(key, value);
        }
        selector
    }

    /// As upstream's `LabelSelectorAsSelector`: absent selects nothing, empty
    /// selects everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut result = Self::from_map(selector.match_labels.as_ref().unwrap_or(&Labels::new()));
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator { operator: other.to_owned() }),
            };
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let wants_values = matches!(operator, Operator::In | Operator::NotIn);
            if wants_values == values.is_empty() {
                return Err(SelectorError::Values { key: expression.key.clone() });
            }
            result.require(Requirement { key: expression.key.clone(), operator, values });
        }
        Ok(result)
    }

    /// Adds a requirement. A selector of nothing stays one.
    pub fn require(&mut self, requirement: Requirement) {
        self.requirements.push(requirement);
    }

    /// Adds `key=value`.
    pub fn require_equal(&mut self, key: &str, value: &str) {
        self.require(Requirement { key: key.to_owned(), operator: Operator::In, values: BTreeSet::from([value.to_owned()]) });
    }

    /// Adds every requirement of another selector.
    pub fn and(&mut self, other: &Self) {
        self.requirements.extend(other.requirements.iter().cloned());
        self.nothing |= other.nothing;
    }

    /// True if it has no requirement and is not [`Selector::nothing`].
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// True for [`Selector::nothing`].
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements, in the order they were added.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// True if the labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn selector(operator: &str, values: &[&str]) -> Result<Selector, SelectorError> {
        let requirement = LabelSelectorRequirement {
            key: "app".into(),
            operator: operator.into(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        Selector::from_label_selector(Some(&LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None }))
    }

    #[test]
    fn an_absent_selector_matches_nothing_and_an_empty_one_everything() {
        assert!(!Selector::from_label_selector(None).unwrap().matches(&labels(&[])));
        assert!(Selector::from_label_selector(Some(&LabelSelector::default())).unwrap().matches(&labels(&[])));
    }

    #[test]
    fn operators_compare_present_and_absent_labels() {
        for (operator, values, with_a, with_b, without) in [
            ("In", &["a"][..], true, false, false),
            ("NotIn", &["a"][..], false, true, true),
            ("Exists", &[][..], true, true, false),
            ("DoesNotExist", &[][..], false, false, true),
        ] {
            let selector = selector(operator, values).unwrap();
            assert_eq!(selector.matches(&labels(&[("app", "a")])), with_a, "{operator}");
            assert_eq!(selector.matches(&labels(&[("app", "b")])), with_b, "{operator}");
            assert_eq!(selector.matches(&labels(&[])), without, "{operator}");
        }
    }

    #[test]
    fn an_unknown_operator_and_missing_values_are_refused() {
        assert!(selector("Like", &["a"]).is_err());
        assert!(selector("In", &[]).is_err());
        assert!(selector("Exists", &["a"]).is_err());
    }
}
