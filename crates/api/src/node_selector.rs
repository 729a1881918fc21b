//! Which nodes a pod or volume selects: `nodeSelector` and required node
//! affinity, as terms over a node's name and labels. Where pods go is decided
//! elsewhere.

use k8s_openapi::api::core::v1 as core;

use crate::selector::Labels;

/// One of the alternatives of a node affinity: all parts must hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeTerm {
    /// Conditions on labels.
    pub labels: Vec<NodeRequirement>,
    /// Conditions on `metadata.name`.
    pub names: Vec<NodeRequirement>,
    /// False for a term that is empty or not well formed: it matches no node.
    pub valid: bool,
}

/// One condition on a label or on the name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeRequirement {
    /// Label key; `metadata.name` for names.
    pub key: String,
    /// Comparison.
    pub operator: NodeOperator,
    /// Values of `In` and `NotIn`.
    pub values: Vec<String>,
}

/// Comparison of a [`NodeRequirement`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NodeOperator {
    /// One of the values.
    In,
    /// Absent or none of the values.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Present, a whole number greater than this.
    Gt(i64),
    /// Present, a whole number less than this.
    Lt(i64),
}

impl NodeRequirement {
    fn new(requirement: &core::NodeSelectorRequirement) -> Option<Self> {
        let values = requirement.values.clone().unwrap_or_default();
        let bound = || match values.as_slice() {
            [value] => value.parse().ok(),
            _ => None,
        };
        let operator = match requirement.operator.as_str() {
            "In" if !values.is_empty() => NodeOperator::In,
            "NotIn" if !values.is_empty() => NodeOperator::NotIn,
            "Exists" if values.is_empty() => NodeOperator::Exists,
            "DoesNotExist" if values.is_empty() => NodeOperator::DoesNotExist,
            "Gt" => NodeOperator::Gt(bound()?),
            "Lt" => NodeOperator::Lt(bound()?),
            _ => return None,
        };
        Some(Self { key: requirement.key.clone(), operator, values })
    }

    /// True if a label with this value (or none) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|wanted| wanted == value);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self.operator {
            NodeOperator::In => value.is_some_and(listed),
            NodeOperator::NotIn => !value.is_some_and(listed),
            NodeOperator::Exists => value.is_some(),
            NodeOperator::DoesNotExist => value.is_none(),
            NodeOperator::Gt(bound) => number().is_some_and(|number| number > bound),
            NodeOperator::Lt(bound) => number().is_some_and(|number| number < bound),
        }
    }
}

impl NodeTerm {
    /// From the API object.
    pub fn new(term: &core::NodeSelectorTerm) -> Self {
        let expressions: Vec<_> = term.match_expressions.iter().flatten().collect();
        let fields: Vec<_> = term.match_fields.iter().flatten().collect();
        let labels: Vec<_> = expressions.iter().filter_map(|requirement| NodeRequirement::new(requirement)).collect();
        let names: Vec<_> = fields
            .iter()
            .filter_map(|requirement| NodeRequirement::new(requirement))
            .filter(|requirement| {
                requirement.key == "metadata.name"
                    && requirement.values.len() == 1
                    && matches!(requirement.operator, NodeOperator::In | NodeOperator::NotIn)
            })
            .collect();
        let complete = labels.len() == expressions.len() && names.len() == fields.len();
        let valid = complete && (!labels.is_empty() || !names.is_empty());
        Self { labels, names, valid }
    }

    /// True if the node satisfies every part.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.valid
            && self
                .labels
                .iter()
                .all(|requirement| requirement.matches(labels.get(&requirement.key).map(String::as_str)))
            && self.names.iter().all(|requirement| requirement.matches(Some(name)))
    }
}

/// Which nodes a pod (or a volume) may use.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeSelection {
    /// `spec.nodeSelector`: all pairs must be present.
    pub pairs: Vec<(String, String)>,
    /// Required node affinity: one term must match. Absent: no condition.
    pub terms: Option<Vec<NodeTerm>>,
}

impl NodeSelection {
    /// Of a pod.
    pub fn of_pod(spec: &core::PodSpec) -> Self {
        let pairs = spec.node_selector.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        Self { pairs, terms: required.map(Self::terms_of) }
    }

    /// Of a node selector, as volumes carry it.
    pub fn of_selector(selector: &core::NodeSelector) -> Self {
        Self { pairs: Vec::new(), terms: Some(Self::terms_of(selector)) }
    }

    fn terms_of(selector: &core::NodeSelector) -> Vec<NodeTerm> {
        selector.node_selector_terms.iter().map(NodeTerm::new).collect()
    }

    /// True if it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.pairs.is_empty() && self.terms.is_none()
    }

    /// True if the node of this name with these labels is one of them.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.pairs.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(json: serde_json::Value) -> NodeTerm {
        NodeTerm::new(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn operators_compare_labels() {
        let labels: Labels = [("disk".to_owned(), "ssd".to_owned()), ("cores".to_owned(), "8".to_owned())].into();
        for (key, operator, values, expected) in [
            ("disk", "In", &["ssd", "hdd"][..], true),
            ("disk", "NotIn", &["ssd"][..], false),
            ("tape", "NotIn", &["ssd"][..], true),
            ("tape", "Exists", &[][..], false),
            ("tape", "DoesNotExist", &[][..], true),
            ("cores", "Gt", &["7"][..], true),
            ("cores", "Gt", &["8"][..], false),
            ("cores", "Lt", &["9"][..], true),
            ("disk", "Lt", &["9"][..], false),
            ("disk", "In", &[][..], false),
            ("cores", "Gt", &["x"][..], false),
        ] {
            let term =
                term(serde_json::json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}));
            assert_eq!(term.matches("n", &labels), expected, "{key} {operator} {values:?}");
        }
    }

    #[test]
    fn an_empty_term_matches_no_node_and_a_field_matches_the_name() {
        assert!(!term(serde_json::json!({})).matches("n", &Labels::new()));
        let field = |values: &[&str]| {
            term(serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": values}]}))
        };
        assert!(field(&["n"]).matches("n", &Labels::new()));
        assert!(!field(&["m"]).matches("n", &Labels::new()));
    }
}
