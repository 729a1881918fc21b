//! Field selectors: `metadata.name=a,status.phase!=Running`.

use std::fmt;

use super::{SelectorError, failure};

/// A conjunction of comparisons.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// One comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldRequirement {
    /// Dotted path.
    pub field: String,
    /// Equal or not.
    pub operator: FieldOperator,
    /// Text form of the value.
    pub value: String,
}

/// How a field is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldOperator {
    /// `=` and `==`
    Equals,
    /// `!=`
    NotEquals,
}

impl FieldSelector {
    /// Parses a selector; terms come out sorted as upstream sorts them.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = split(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let Some(at) = term.find("!=").into_iter().chain(term.find('=')).min() else {
                return failure(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            let (operator, length) = match &term[at..] {
                rest if rest.starts_with("!=") => (FieldOperator::NotEquals, 2),
                rest if rest.starts_with("==") => (FieldOperator::Equals, 2),
                _ => (FieldOperator::Equals, 1),
            };
            let value = unescape(&term[at + length..])?;
            requirements.push(FieldRequirement { field: term[..at].to_owned(), operator, value });
        }
        Ok(Self { requirements })
    }

    /// The comparisons.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// No comparison at all.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that `field` must have exactly, if there is one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let exact = |requirement: &&FieldRequirement| {
            requirement.field == field && requirement.operator == FieldOperator::Equals
        };
        self.requirements.iter().find(exact).map(|requirement| requirement.value.as_str())
    }

    /// True if an object is selected whose fields `get` gives as text, "" if absent.
    pub fn matches(&self, get: impl Fn(&str) -> String) -> bool {
        self.requirements.iter().all(|requirement| {
            (get(&requirement.field) == requirement.value) == (requirement.operator == FieldOperator::Equals)
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if requirement.operator == FieldOperator::Equals { "=" } else { "!=" };
            let value = requirement.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", requirement.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split(text: &str) -> Vec<&str> {
    if text.is_empty() {
        return Vec::new();
    }
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                next => {
                    let next = next.map(String::from).unwrap_or_default();
                    return failure(format!("invalid field selector: invalid escape sequence: \\{next}"));
                }
            },
            ',' | '=' => {
                let code = u32::from(c);
                return failure(format!("invalid field selector: unescaped character in value: {code}"));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_with_their_escapes() {
        let selector = FieldSelector::parse(r"spec.nodeName!=,metadata.name==a\,b").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert_eq!(selector.to_string(), r"metadata.name=a\,b,spec.nodeName!=");
        assert!(selector.matches(|field| if field == "spec.nodeName" { "n".into() } else { "a,b".into() }));
        assert!(!selector.matches(|_| "a,b".into()) || !selector.matches(|_| String::new()));
    }

    #[test]
    fn broken_terms_are_refused_in_upstreams_words() {
        let words = |text: &str| FieldSelector::parse(text).unwrap_err().to_string();
        assert_eq!(words("a"), "invalid selector: 'a'; can't understand 'a'");
        assert_eq!(words("a=b=c"), "invalid field selector: unescaped character in value: 61");
        assert_eq!(words("a=\\x"), "invalid field selector: invalid escape sequence: \\x");
    }
}
