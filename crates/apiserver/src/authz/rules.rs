//! Rules of roles: whether one allows a request, and whether a set of rules
//! covers another. Knows nothing of roles, bindings or where rules come from.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::access::Attributes;
use crate::field::Quoted;

const ALL: &str = "*";

/// `PolicyRule` of rbac.authorization.k8s.io/v1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PolicyRule {
    #[serde(deserialize_with = "nullable")]
    pub(crate) verbs: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

fn has(set: &[String], element: &str) -> bool {
    set.iter().any(|one| one == element)
}

fn has_or_all(set: &[String], element: &str) -> bool {
    set.iter().any(|one| one == ALL || one == element)
}

impl PolicyRule {
    /// A rule on resources of one group.
    pub(crate) fn on(group: &str, resources: &[&str], verbs: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        Self { verbs: owned(verbs), api_groups: vec![group.to_owned()], resources: owned(resources), ..Self::default() }
    }

    /// Whether this rule allows the request.
    pub(crate) fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource {
            return self.non_resource_urls.iter().any(|url| url == ALL || covers_url(url, asked.path));
        }
        has_or_all(&self.api_groups, asked.group)
            && self.resources.iter().any(|resource| matches_resource(resource, asked.resource, asked.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, asked.name))
    }

    /// This rule as rules with one verb, one resource and at most one name each.
    fn parts(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        let none = [String::new()];
        let names = if self.resource_names.is_empty() { &none[..] } else { &self.resource_names[..] };
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    for name in names {
                        let mut part = Self::on(group, &[resource], &[verb]);
                        if !self.resource_names.is_empty() {
                            part.resource_names.push(name.clone());
                        }
                        parts.push(part);
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                let urls = vec![url.clone()];
                parts.push(Self { verbs: vec![verb.clone()], non_resource_urls: urls, ..Self::default() });
            }
        }
        parts
    }

    /// Whether this rule covers one of [`PolicyRule::parts`].
    fn covers(&self, part: &Self) -> bool {
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|name| has(&self.resource_names, name)));
        part.verbs.iter().all(|verb| has_or_all(&self.verbs, verb))
            && part.api_groups.iter().all(|group| has_or_all(&self.api_groups, group))
            && part.resources.iter().all(|resource| covers_resource(&self.resources, resource))
            && part.non_resource_urls.iter().all(|url| self.non_resource_urls.iter().any(|own| covers_url(own, url)))
            && names
    }
}

fn matches_resource(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == ALL {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((before, after)) => after == subresource && (before == ALL || before == resource),
        None => false,
    }
}

fn covers_resource(owned: &[String], resource: &str) -> bool {
    if has_or_all(owned, resource) {
        return true;
    }
    let Some((_, subresource)) = resource.split_once('/') else { return false };
    owned.iter().any(|own| own.strip_prefix("*/") == Some(subresource))
}

fn covers_url(owned: &str, url: &str) -> bool {
    owned == url || (owned.ends_with(ALL) && url.starts_with(owned.trim_end_matches(ALL)))
}

/// The parts of `wanted` that `owned` does not cover.
pub(crate) fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(PolicyRule::parts);
    parts.filter(|part| !owned.iter().any(|own| own.covers(part))).collect()
}

/// Joins parts that differ in nothing but their verb.
pub(crate) fn compact(parts: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut compacted: BTreeMap<PolicyRule, PolicyRule> = BTreeMap::new();
    for part in parts {
        let simple = part.non_resource_urls.is_empty();
        let mut key = part.clone();
        if simple {
            key.verbs.clear();
        }
        match compacted.get_mut(&key) {
            Some(joined) if simple => joined.verbs.extend(part.verbs.iter().cloned()),
            _ => {
                compacted.insert(key, part.clone());
            }
        }
    }
    compacted.into_values().collect()
}

/// As the refusal of an escalation shows a rule.
impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        f.write_str("{")?;
        for (at, (name, list)) in parts.iter().filter(|(_, list)| !list.is_empty()).enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{name}:{}", QuotedList(list))?;
        }
        f.write_str("}")
    }
}

/// `["a" "b"]`, Go's `%q` of a list of strings.
pub(crate) struct QuotedList<'a>(pub(crate) &'a [String]);

impl fmt::Display for QuotedList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, one) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{}", Quoted(one))?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::UserInfo;

    fn check(rule: &PolicyRule, verb: &str, group: &str, resource: &str, name: &str, expected: bool) {
        let user = UserInfo::default();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = Attributes {
            user: &user,
            verb,
            namespace: "",
            group,
            version: "v1",
            resource,
            subresource,
            name,
            path: "",
            is_resource: true,
            field_selector: "",
        };
        assert_eq!(rule.allows(&asked), expected, "{rule} {verb} {group} {resource}/{subresource} {name}");
    }

    #[test]
    fn a_rule_allows_what_it_names_and_stars_allow_all() {
        let rule = PolicyRule::on("", &["pods", "pods/log", "*/scale"], &["get", "list"]);
        check(&rule, "get", "", "pods", "x", true);
        check(&rule, "delete", "", "pods", "x", false);
        check(&rule, "get", "apps", "pods", "x", false);
        check(&rule, "get", "", "pods/log", "x", true);
        check(&rule, "get", "", "pods/exec", "x", false);
        check(&rule, "get", "", "replicationcontrollers/scale", "x", true);
        check(&PolicyRule::on("*", &["*"], &["*"]), "any", "any", "any/sub", "", true);
        let named = PolicyRule { resource_names: vec!["web".into()], ..PolicyRule::on("", &["pods"], &["*"]) };
        check(&named, "get", "", "pods", "web", true);
        check(&named, "get", "", "pods", "db", false);
        check(&named, "list", "", "pods", "", false);
    }

    #[test]
    fn what_is_missing_is_told_in_compact_rules() {
        let owned = [PolicyRule::on("", &["configmaps"], &["get", "list"])];
        let wanted = [PolicyRule::on("", &["configmaps", "secrets"], &["get", "delete"])];
        let missing = compact(&uncovered(&owned, &wanted));
        let shown: Vec<String> = missing.iter().map(PolicyRule::to_string).collect();
        assert_eq!(
            shown,
            [
                r#"{APIGroups:[""], Resources:["configmaps"], Verbs:["delete"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "delete"]}"#
            ]
        );
    }

    #[test]
    fn a_rule_with_names_does_not_cover_one_without() {
        let named =
            PolicyRule { resource_names: vec!["a".into(), "b".into()], ..PolicyRule::on("", &["pods"], &["get"]) };
        let one = PolicyRule { resource_names: vec!["a".into()], ..PolicyRule::on("", &["pods"], &["get"]) };
        let all = PolicyRule::on("", &["pods"], &["get"]);
        assert!(uncovered(std::slice::from_ref(&named), std::slice::from_ref(&one)).is_empty());
        assert_eq!(uncovered(std::slice::from_ref(&named), std::slice::from_ref(&all)), [all.clone()]);
        assert!(uncovered(&[all], &[named]).is_empty());
    }

    #[test]
    fn url_rules_cover_by_prefix() {
        let rule = |url: &str| PolicyRule {
            verbs: vec!["get".into()],
            non_resource_urls: vec![url.into()],
            ..PolicyRule::default()
        };
        assert!(uncovered(&[rule("/api/*")], &[rule("/api/v1")]).is_empty());
        assert!(!uncovered(&[rule("/api")], &[rule("/api/v1")]).is_empty());
        assert!(uncovered(&[rule("*")], &[rule("/anything")]).is_empty());
    }
}
