//! Roles and bindings: their rules. Whether the writer may grant
//! what they grant is `authz::escalation`'s to say.

use api::selector::LabelSelector;
use serde_json::Value;

use super::facts::Simple;
use crate::field::{Errors, Path};
use crate::object;
use crate::strategy::{Column, Part, Strategy};
use crate::validation::names::NameRule;

const GROUP: &str = "rbac.authorization.k8s.io";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

/// One of the four kinds: its row of facts and its rules.
pub(super) struct Rbac {
    kind: Kind,
    facts: Simple,
}

impl Rbac {
    /// The kind of a plural; anything unknown is a role.
    pub(super) fn new(plural: &str, facts: Simple) -> Self {
        let kind = match plural {
            "clusterroles" => Kind::ClusterRole,
            "rolebindings" => Kind::RoleBinding,
            "clusterrolebindings" => Kind::ClusterRoleBinding,
            _ => Kind::Role,
        };
        Self { kind, facts }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        match self.kind {
            Kind::Role => rules(object, true, errors),
            Kind::ClusterRole => {
                rules(object, false, errors);
                aggregation(object, errors);
            }
            Kind::RoleBinding => binding(object, true, errors),
            Kind::ClusterRoleBinding => binding(object, false, errors),
        }
    }
}

impl Strategy for Rbac {
    fn default(&self, object: &mut Value) {
        self.facts.default(object);
    }

    fn validate_create(&self, object: &Value, errors: &mut Errors) {
        self.validate(object, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, _part: Part, errors: &mut Errors) {
        self.validate(new, errors);
        if new.get("roleRef") != old.get("roleRef") {
            errors.invalid(&Path::new("roleRef"), object::at(new, "roleRef"), "cannot change roleRef");
        }
    }

    fn name_rule(&self) -> NameRule {
        self.facts.name_rule()
    }

    fn create_on_update(&self) -> bool {
        self.facts.create_on_update()
    }

    fn columns(&self) -> Vec<Column> {
        self.facts.columns()
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        self.facts.cells(object, now)
    }
}

fn rules(role: &Value, namespaced: bool, errors: &mut Errors) {
    let root = Path::new("rules");
    for (at, rule) in object::items(role, "rules").iter().enumerate() {
        let path = root.index(at);
        let empty = |field| object::items(rule, field).is_empty();
        if empty("verbs") {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if !empty("nonResourceURLs") {
            let urls = object::at(rule, "nonResourceURLs");
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&path.child("nonResourceURLs"), urls, why);
            }
            if !(empty("apiGroups") && empty("resources") && empty("resourceNames")) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&path.child("nonResourceURLs"), urls, why);
            }
            continue;
        }
        if empty("apiGroups") {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if empty("resources") {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn aggregation(role: &Value, errors: &mut Errors) {
    let rule = object::at(role, "aggregationRule");
    if !rule.is_object() {
        return;
    }
    let selectors = object::items(rule, "clusterRoleSelectors");
    let root = Path::new("aggregationRule");
    let path = root.child("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (at, selector) in selectors.iter().enumerate() {
        if LabelSelector::from_value(selector).is_err() {
            errors.invalid(&path.index(at), selector, "invalid label selector.");
        }
    }
}

fn binding(object: &Value, namespaced: bool, errors: &mut Errors) {
    let root = Path::new("roleRef");
    let group = object::text(object, "roleRef.apiGroup");
    if group != GROUP {
        errors.not_supported(&root.child("apiGroup"), &group.into(), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = object::text(object, "roleRef.kind");
    if !kinds.contains(&kind) {
        errors.not_supported(&root.child("kind"), &kind.into(), kinds);
    }
    let name = object::text(object, "roleRef.name");
    name_of(name, NameRule::PathSegment, &root.child("name"), errors);
    let root = Path::new("subjects");
    for (at, one) in object::items(object, "subjects").iter().enumerate() {
        subject(one, namespaced, &root.index(at), errors);
    }
}

fn name_of(name: &str, rule: NameRule, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    for why in rule.check(name, false) {
        errors.invalid_text(path, name, &why);
    }
}

fn subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let text = |field| object::text(subject, field);
    let rule = if text("kind") == "ServiceAccount" { NameRule::Subdomain } else { NameRule::Unchecked };
    name_of(text("name"), rule, &path.child("name"), errors);
    match text("kind") {
        "ServiceAccount" => {
            if !text("apiGroup").is_empty() {
                errors.not_supported(&path.child("apiGroup"), &text("apiGroup").into(), &[""]);
            }
            if !namespaced && text("namespace").is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if text("apiGroup") != GROUP {
                errors.not_supported(&path.child("apiGroup"), &text("apiGroup").into(), &[GROUP]);
            }
        }
        other => errors.not_supported(&path.child("kind"), &other.into(), &["ServiceAccount", "User", "Group"]),
    }
}
