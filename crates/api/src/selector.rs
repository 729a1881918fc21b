//! Label and field selectors: the string grammar of query parameters, the
//! `LabelSelector` object, and matching. Which fields a kind offers is not
//! known here.

mod fields;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as LabelSelectorObject;
use serde_json::Value;

use crate::names;

pub use fields::{FieldOperator, FieldRequirement, FieldSelector};

/// Requirements that a query or object may have.
const REQUIREMENT_LIMIT: usize = 10_000;

/// Labels of an object as k8s-openapi has them.
pub type Labels = BTreeMap<String, String>;

/// The same selector under the name of the object it is read from.
pub type LabelSelector = Selector;

/// Where labels are looked up: typed maps, or `metadata.labels` of a tree.
pub trait LabelLookup {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl LabelLookup for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelLookup for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// All requirements must hold. Without any it matches everything, unless it is
/// [`Selector::nothing`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// One requirement on one label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What it must be.
    pub operator: Operator,
    /// Empty for `Exists` and `DoesNotExist`.
    pub values: BTreeSet<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Operator {
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// `in`
    In,
    /// `notin`
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// `>`, as whole numbers.
    GreaterThan,
    /// `<`, as whole numbers.
    LessThan,
}

/// A selector that cannot be read; the message is upstream's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    message: String,
}

fn failure<T>(message: impl Into<String>) -> Result<T, SelectorError> {
    Err(SelectorError { message: message.into() })
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Parses `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), position: 0 };
        let mut requirements = parser.parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a `meta/v1 LabelSelector`: null selects nothing, an empty one everything.
    pub fn from_value(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key.clone(), Operator::Equals, vec![value])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| expression.get(key).and_then(Value::as_str).unwrap_or_default();
            let operator = operator(text("operator"))?;
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key").to_owned(), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Every pair must be present.
    pub fn from_map(labels: &Labels) -> Self {
        let mut selector = Self::everything();
        for (key, value) in labels {
            selector.require_equal(key, value);
        }
        selector
    }

    /// From a plain map of labels in a tree, as `spec.selector` of a Service
    /// is. Null or an empty map selects everything.
    pub fn from_value_map(labels: &Value) -> Self {
        let mut selector = Self::everything();
        for (key, value) in labels.as_object().into_iter().flatten() {
            selector.require_equal(key, value.as_str().unwrap_or_default());
        }
        selector
    }

    /// As [`Selector::from_value`], from the typed object.
    pub fn from_label_selector(selector: Option<&LabelSelectorObject>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key.clone(), Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(expression.key.clone(), operator(&expression.operator)?, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Adds a requirement. A selector of nothing stays one.
    pub fn require(&mut self, requirement: Requirement) {
        self.requirements.push(requirement);
    }

    /// Adds `key=value`.
    pub fn require_equal(&mut self, key: &str, value: &str) {
        let values = BTreeSet::from([value.to_owned()]);
        self.require(Requirement { key: key.to_owned(), operator: Operator::Equals, values });
    }

    /// Adds every requirement of another selector.
    pub fn and(&mut self, other: &Self) {
        self.requirements.extend(other.requirements.iter().cloned());
        self.nothing |= other.nothing;
    }

    /// True for [`Selector::nothing`].
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Sorted by label as they were read, then in the order they were added.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// True if it has no requirement and is not [`Selector::nothing`].
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Matches every object.
    pub fn is_everything(&self) -> bool {
        self.is_empty()
    }

    /// True if the labels satisfy every requirement.
    pub fn matches(&self, labels: &impl LabelLookup) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

/// An operator of a `LabelSelector` object.
fn operator(text: &str) -> Result<Operator, SelectorError> {
    Ok(match text {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return failure(format!("{other:?} is not a valid label selector operator")),
    })
}

impl Requirement {
    /// Checks key, operator and values.
    pub fn new(key: String, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut wrong = Vec::new();
        let bad_key = names::label_key(&key);
        if !bad_key.is_empty() {
            wrong.push(format!("key: Invalid value: {key:?}: {}", bad_key.join("; ")));
        }
        let list = values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(",");
        let mut values_wrong = |message: &str| wrong.push(format!("values: Invalid value: [{list}]: {message}"));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                values_wrong("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                values_wrong("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                values_wrong("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    values_wrong("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (index, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        wrong.push(format!(
                            "values[{index}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an \
                             integer"
                        ));
                    }
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let bad = names::label_value(value);
            if !bad.is_empty() {
                wrong.push(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", bad.join("; ")));
            }
        }
        match wrong.as_slice() {
            [] => Ok(Self { key, operator, values: values.into_iter().collect() }),
            [one] => failure(one.clone()),
            many => failure(format!("[{}]", many.join(", "))),
        }
    }

    /// True if the labels satisfy it.
    pub fn matches(&self, labels: &impl LabelLookup) -> bool {
        let value = labels.label(&self.key);
        let listed = |value: &str| self.values.contains(value);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |found, bound| found > bound),
            Operator::LessThan => self.compare(value, |found, bound| found < bound),
        }
    }

    fn compare(&self, value: Option<&str>, fits: fn(i64, i64) -> bool) -> bool {
        let bound = self.values.first().and_then(|bound| bound.parse().ok());
        let found = value.and_then(|value| value.parse().ok());
        matches!((found, bound), (Some(found), Some(bound)) if fits(found, bound))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self.operator {
            Operator::Equals => write!(f, "{}={values}", self.key),
            Operator::DoubleEquals => write!(f, "{}=={values}", self.key),
            Operator::NotEquals => write!(f, "{}!={values}", self.key),
            Operator::In => write!(f, "{} in ({values})", self.key),
            Operator::NotIn => write!(f, "{} notin ({values})", self.key),
            Operator::GreaterThan => write!(f, "{}>{values}", self.key),
            Operator::LessThan => write!(f, "{}<{values}", self.key),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

/// A token: its text, and whether it is a word or a symbol.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while !rest.is_empty() {
        let special = |c: char| "=!(),><".contains(c);
        let (token, length) = if rest.starts_with(special) {
            let length = if rest.starts_with("==") || rest.starts_with("!=") { 2 } else { 1 };
            (Token::Symbol(&rest[..length]), length)
        } else {
            let end = rest.find(|c: char| special(c) || " \t\r\n".contains(c)).unwrap_or(rest.len());
            (Token::Word(&rest[..end]), end)
        };
        tokens.push(token);
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    position: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.position).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            if requirements.len() > REQUIREMENT_LIMIT {
                return failure("too many requirements");
            }
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self.requirement().map_err(|error| SelectorError {
                        message: format!("unable to parse requirement: {}", error.message),
                    })?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => return Ok(requirements),
                        Token::Symbol(",") => match self.peek() {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => {
                                return failure(format!("found '{}', expected: identifier after ','", other.text()));
                            }
                        },
                        other => {
                            return failure(format!("found '{}', expected: ',' or 'end of string'", other.text()));
                        }
                    }
                }
                Token::End => return Ok(requirements),
                other => {
                    return failure(format!("found '{}', expected: !, identifier, or 'end of string'", other.text()));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == Token::Symbol("!");
        if absent {
            self.position += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key.to_owned(),
            other => return failure(format!("found '{}', expected: identifier", other.text())),
        };
        let wrong = names::label_key(&key);
        if !wrong.is_empty() {
            return failure(format!("<nil>: Invalid value: {key:?}: {}", wrong.join("; ")));
        }
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => {
                return failure(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(value) => {
                self.position += 1;
                Ok(value.to_owned())
            }
            other => failure(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return failure(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        let mut pending = true;
        loop {
            match self.next() {
                Token::Word(value) if pending => {
                    values.push(value.to_owned());
                    pending = false;
                }
                Token::Symbol(",") => {
                    if pending {
                        values.push(String::new());
                    }
                    pending = true;
                }
                Token::Symbol(")") => {
                    if pending {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other if !pending => return failure(format!("found '{}', expected: ',' or ')'", other.text())),
                other if values.is_empty() => {
                    return failure(format!("found '{}', expected: ',', ')' or identifier", other.text()));
                }
                other => return failure(format!("found '{}', expected: ',', or identifier", other.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(selector: &str, labels: Value) -> bool {
        Selector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_operator_matches_as_upstream_does() {
        let labels = || json!({"a": "1", "b": "x"});
        for (selector, expected) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("!c", true),
            ("a=1", true),
            ("a==1,b=x", true),
            ("a!=1", false),
            ("c!=1", true),
            ("a in (1, 2)", true),
            ("a notin (1,2)", false),
            ("a in ()", false),
            ("a>0", true),
            ("a<1", false),
            ("b>0", false),
            ("c=", false),
        ] {
            assert_eq!(matches(selector, labels()), expected, "{selector}");
        }
        assert!(matches("a!=1", Value::Null));
    }

    #[test]
    fn a_selector_prints_in_canonical_order() {
        let selector = LabelSelector::parse("c in (z,y), a = b ,!d").unwrap();
        assert_eq!(selector.to_string(), "a=b,c in (y,z),!d");
    }

    #[test]
    fn broken_selectors_are_refused_in_upstreams_words() {
        let words = |text: &str| LabelSelector::parse(text).unwrap_err().to_string();
        assert_eq!(words("a=b,"), "found '', expected: identifier after ','");
        assert_eq!(words("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        assert_eq!(words("a in b"), "unable to parse requirement: found 'b' expected: '('");
        assert_eq!(words("=a"), "found '=', expected: !, identifier, or 'end of string'");
    }

    #[test]
    fn an_object_selects_nothing_when_null_and_everything_when_empty() {
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&json!({})));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(&Value::Null));
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]});
        let selector = LabelSelector::from_value(&selector).unwrap();
        assert!(selector.matches(&json!({"a": "1", "b": ""})) && !selector.matches(&json!({"a": "1"})));
        let error = LabelSelector::from_value(&json!({"matchExpressions": [{"key": "b", "operator": "Is"}]}));
        assert_eq!(error.unwrap_err().to_string(), "\"Is\" is not a valid label selector operator");
    }
}
