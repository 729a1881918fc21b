//! Nobody grants what they lack: checks the writer of a role or binding against
//! the rules that it would grant. `escalate` and `bind` are the verbs that lift
//! the check.

use api::status::Status;
use serde_json::Value;

use super::rules::{self, PolicyRule, QuotedList};
use super::{MASTERS, Policy, RoleRef};
use crate::access::{Attributes, UserInfo};
use crate::field::Quoted;
use crate::object;

/// A role or binding about to be written.
pub(crate) struct Grant<'a> {
    /// Who writes.
    pub(crate) user: &'a UserInfo,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub(crate) plural: &'a str,
    /// Empty for cluster scope.
    pub(crate) namespace: &'a str,
    /// The name in the URL: empty for creations.
    pub(crate) name: &'a str,
    /// What is written.
    pub(crate) new: &'a Value,
    /// What was there.
    pub(crate) old: Option<&'a Value>,
}

/// Why a grant is refused.
pub(crate) enum Refusal {
    /// 403 in these words.
    Forbidden(String),
    /// The role of a binding does not exist.
    NotFound(String),
}

impl Refusal {
    /// As the answer to the request.
    pub(crate) fn status(self, resource: &api::gvk::GroupResource, name: &str) -> Status {
        match self {
            Self::Forbidden(why) => Status::forbidden(resource, name, &why),
            Self::NotFound(role) => Status::not_found(resource, &role),
        }
    }
}

/// Checks a grant.
pub(crate) fn check(policy: &Policy, grant: &Grant<'_>) -> Result<(), Refusal> {
    if grant.user.in_group(MASTERS) || grant.old.is_some_and(|old| only_housekeeping(grant.new, old)) {
        return Ok(());
    }
    if grant.plural.ends_with("bindings") { check_binding(policy, grant) } else { check_role(policy, grant) }
}

fn check_role(policy: &Policy, grant: &Grant<'_>) -> Result<(), Refusal> {
    let (user, plural) = (grant.user, grant.plural);
    if allowed(policy, user, "escalate", grant.namespace, plural, grant.name) {
        return Ok(());
    }
    let rules = grant.new.get("rules").cloned().unwrap_or_default();
    let rules: Option<Vec<PolicyRule>> = serde_json::from_value(rules).unwrap_or_default();
    confirm(policy, user, grant.namespace, &rules.unwrap_or_default())?;
    let gathers = |role: &Value| !object::items(role, "aggregationRule.clusterRoleSelectors").is_empty();
    if gathers(grant.new) || grant.old.is_some_and(gathers) {
        let star = vec!["*".to_owned()];
        let urls = PolicyRule { verbs: star.clone(), non_resource_urls: star, ..PolicyRule::default() };
        let all = [PolicyRule::on("*", &["*"], &["*"]), urls];
        if confirm(policy, user, grant.namespace, &all).is_err() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Refusal::Forbidden(why.to_owned()));
        }
    }
    Ok(())
}

fn check_binding(policy: &Policy, grant: &Grant<'_>) -> Result<(), Refusal> {
    let kind = object::text(grant.new, "roleRef.kind");
    let name = object::text(grant.new, "roleRef.name");
    let plural = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Validation refuses it in better words.
        _ => return Ok(()),
    };
    if allowed(policy, grant.user, "bind", grant.namespace, plural, name) {
        return Ok(());
    }
    let role = RoleRef { kind: kind.to_owned(), name: name.to_owned() };
    let Some(rules) = policy.rules_of(&role, grant.namespace) else {
        return Err(Refusal::NotFound(name.to_owned()));
    };
    confirm(policy, grant.user, grant.namespace, &rules)
}

fn allowed(policy: &Policy, user: &UserInfo, verb: &str, namespace: &str, resource: &str, name: &str) -> bool {
    let asked = Attributes {
        user,
        verb,
        namespace,
        group: super::index::GROUP,
        version: "*",
        resource,
        subresource: "",
        name,
        path: "",
        is_resource: true,
        field_selector: "",
    };
    policy.verdict(&asked).allowed
}

/// Refuses rules that the user does not have in the namespace.
fn confirm(policy: &Policy, user: &UserInfo, namespace: &str, wanted: &[PolicyRule]) -> Result<(), Refusal> {
    let (own, errors) = policy.granted_rules(user, namespace);
    let missing = rules::uncovered(&own, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = rules::compact(&missing).iter().map(PolicyRule::to_string).collect();
    lines.sort();
    let mut why = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        Quoted(&user.name),
        QuotedList(&user.groups),
        lines.join("\n")
    );
    if !errors.is_empty() {
        why = format!("{why}; resolution errors: [{}]", super::aggregate(&errors));
    }
    Err(Refusal::Forbidden(why))
}

/// True if nothing but what the garbage collector writes has changed.
fn only_housekeeping(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        for field in ["finalizers", "ownerReferences", "managedFields", "resourceVersion", "selfLink"] {
            object::metadata(&mut object).remove(field);
        }
        object
    };
    bare(new) == bare(old)
}

/// The collections whose writes are checked.
pub(crate) fn grants(group: &str, plural: &str) -> bool {
    group == super::index::GROUP && matches!(plural, "roles" | "clusterroles" | "rolebindings" | "clusterrolebindings")
}
