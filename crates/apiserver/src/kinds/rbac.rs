//! Roles and bindings: their defaults and rules. Whether the writer may grant
//! what they grant is `authz::escalation`'s to say.

use api::selector::LabelSelector;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::object;
use crate::strategy::{Part, Strategy};
use crate::validation::names::NameRule;

const GROUP: &str = "rbac.authorization.k8s.io";

/// One of the four kinds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rbac {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

impl Rbac {
    /// The kind of a plural; anything unknown is a role.
    pub(super) fn of(plural: &str) -> Self {
        match plural {
            "clusterroles" => Self::ClusterRole,
            "rolebindings" => Self::RoleBinding,
            "clusterrolebindings" => Self::ClusterRoleBinding,
            _ => Self::Role,
        }
    }

    fn validate(self, object: &Value, errors: &mut Errors) {
        match self {
            Self::Role => rules(object, true, errors),
            Self::ClusterRole => {
                rules(object, false, errors);
                aggregation(object, errors);
            }
            Self::RoleBinding => binding(object, true, errors),
            Self::ClusterRoleBinding => binding(object, false, errors),
        }
    }
}

impl Strategy for Rbac {
    fn default(&self, object: &mut Value) {
        if !matches!(self, Self::RoleBinding | Self::ClusterRoleBinding) {
            return;
        }
        object::default_text(object::map_mut(object, "roleRef"), "apiGroup", GROUP);
        let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            if matches!(object::text(subject, "kind"), "User" | "Group") {
                object::default_text(object::as_map(subject), "apiGroup", GROUP);
            }
        }
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
        NameRule::PathSegment
    }

    fn create_on_update(&self) -> bool {
        true
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
