//! `deny`: licences and sources of every dependency, from `cargo metadata`.
//! It does not know advisories: they need a database that must be fetched.

use serde_json::Value;

use crate::check::{Failure, cargo, output};

/// Licences that fit an Apache-2.0 product that is linked statically.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that must not come in, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "one TLS stack: rustls"),
    ("native-tls", "one TLS stack: rustls"),
    ("aws-lc-sys", "one provider for rustls: ring"),
    ("async-std", "one runtime: tokio"),
    ("spdy-mux", "GPL-3.0"),
    ("rustables", "GPL-3.0"),
];

/// Checks the whole dependency graph.
pub(crate) fn run() -> Result<(), Failure> {
    let text = output(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::Missing { what: format!("cargo metadata printed no JSON: {error}") })?;
    let mut findings = 0;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let version = package["version"].as_str().unwrap_or_default();
        for problem in problems(package) {
            println!("deny: {name} {version}: {problem}");
            findings += 1;
        }
    }
    println!("deny: {} packages", packages.len());
    if findings == 0 {
        Ok(())
    } else {
        Err(Failure::Findings { count: findings, what: "dependencies that may not be used" })
    }
}

fn problems(package: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let name = package["name"].as_str().unwrap_or_default();
    if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
        problems.push(format!("banned: {reason}"));
    }
    if let Some(source) = package["source"].as_str()
        && !source.starts_with("registry+")
    {
        problems.push(format!("comes from {source}, only registries are allowed"));
    }
    match package["license"].as_str() {
        None => problems.push("states no licence".to_owned()),
        Some(expression) if !satisfied(expression) => problems.push(format!("licence {expression} is not on the list")),
        Some(_) => {}
    }
    problems
}

/// Whether an SPDX expression can be met from the list. `OR` needs one side,
/// `AND` both; the old `/` form means `OR`.
fn satisfied(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let expression = expression.trim();
    if let Some(parts) = split(expression, " OR ") {
        return parts.iter().any(|part| satisfied(part));
    }
    if let Some(parts) = split(expression, " AND ") {
        return parts.iter().all(|part| satisfied(part));
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => satisfied(inner),
        None => ALLOWED.contains(&expression),
    }
}

/// Splits at an operator outside parentheses; `None` if it does not occur there.
fn split<'a>(expression: &'a str, operator: &str) -> Option<Vec<&'a str>> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0usize);
    for (at, letter) in expression.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && at >= start && expression[at..].starts_with(operator) => {
                parts.push(&expression[start..at]);
                start = at + operator.len();
            }
            _ => {}
        }
    }
    parts.push(&expression[start..]);
    (parts.len() > 1).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::satisfied;

    #[test]
    fn an_expression_is_met_when_one_alternative_or_all_conjuncts_are_listed() {
        for good in ["MIT", "MIT OR GPL-3.0", "Apache-2.0/MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(satisfied(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND MPL-2.0", ""] {
            assert!(!satisfied(bad), "{bad}");
        }
    }
}
