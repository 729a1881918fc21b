//! The roles and bindings that every cluster has: created where they are
//! missing, and completed at each start unless their owner has opted out. What
//! was added to them stays.

use api::selector::LabelSelector;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use store::Precondition;

use super::rules::{self, PolicyRule};
use crate::bootstrap::ensure;
use crate::config::StartError;
use crate::object::{self, Meta};
use crate::pipeline::write::{self, Refused};
use crate::state::Core;

/// One object a line, as generated from the release's own policy.
const POLICY: &str = include_str!("../../generated/rbac.jsonl");
/// `"false"` on a role or binding keeps this server's hands off it.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const GROUP: &str = super::index::GROUP;
/// Attempts to complete an object that others write meanwhile.
const ATTEMPTS: usize = 5;

fn policy() -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).expect("the generated policy is JSON, which a test checks");
    let mut objects: Vec<Value> = POLICY.lines().map(parse).collect();
    gather(&mut objects);
    objects.extend(controllers(&objects));
    objects
}

/// The controllers of this project run as one user. It gets what upstream's
/// controllers have one by one: it could make tokens for each of them anyway.
fn controllers(policy: &[Value]) -> [Value; 2] {
    const NAME: &str = "darter:controllers";
    let own = policy.iter().filter(|one| one["kind"] == "ClusterRole" && one.name().starts_with("system:controller:"));
    let mut rules: Vec<PolicyRule> = vec![PolicyRule::on("elastic.darter.dev", &["*"], &["*"])];
    for rule in own.flat_map(rules_in) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    let metadata = json!({
        "name": NAME,
        "annotations": {AUTO_UPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    let api_version = format!("{GROUP}/v1");
    [
        json!({"apiVersion": api_version, "kind": "ClusterRole", "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": api_version,
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": NAME},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": "system:kube-controller-manager"}],
        }),
    ]
}

/// Fills in what the aggregation controller would write at its first run.
fn gather(objects: &mut [Value]) {
    // view is gathered into edit, and edit into admin: two rounds settle it.
    for _ in 0..3 {
        let snapshot = objects.to_vec();
        for object in objects.iter_mut() {
            let selectors = object::items(object, "aggregationRule.clusterRoleSelectors").to_vec();
            if selectors.is_empty() {
                continue;
            }
            let selectors: Vec<_> = selectors.iter().filter_map(|one| LabelSelector::from_value(one).ok()).collect();
            let name = object.name().to_owned();
            let mut gathered: Vec<Value> = Vec::new();
            for other in snapshot.iter().filter(|other| other["kind"] == "ClusterRole" && other.name() != name) {
                let labels = other.meta("labels").as_object().into_iter().flatten();
                let labels: api::selector::Labels =
                    labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
                if selectors.iter().any(|selector| selector.matches(&labels)) {
                    for rule in object::items(other, "rules") {
                        if !gathered.contains(rule) {
                            gathered.push(rule.clone());
                        }
                    }
                }
            }
            object::as_map(object).insert("rules".to_owned(), gathered.into());
        }
    }
}

/// The rules of a cluster role of the policy; none if it has no such role.
pub(super) fn rules_of_cluster_role(name: &str) -> Vec<PolicyRule> {
    let role = policy().into_iter().find(|one| one["kind"] == "ClusterRole" && one.name() == name);
    role.map(|role| rules_in(&role)).unwrap_or_default()
}

fn rules_in(role: &Value) -> Vec<PolicyRule> {
    let rules = role.get("rules").cloned().unwrap_or_default();
    serde_json::from_value::<Option<Vec<PolicyRule>>>(rules).ok().flatten().unwrap_or_default()
}

/// Creates and completes the policy.
pub(crate) async fn run(core: &Core) -> Result<(), StartError> {
    let (roles, bindings): (Vec<_>, Vec<_>) =
        policy().into_iter().partition(|object| matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")));
    // Side by side, so that they share the syncs of the store.
    try_join_all(roles.into_iter().map(|object| reconcile(core, object))).await?;
    try_join_all(bindings.into_iter().map(|object| reconcile(core, object))).await?;
    Ok(())
}

async fn reconcile(core: &Core, wanted: Value) -> Result<(), StartError> {
    let plural = match wanted["kind"].as_str() {
        Some("ClusterRole") => "clusterroles",
        Some("Role") => "roles",
        Some("ClusterRoleBinding") => "clusterrolebindings",
        _ => "rolebindings",
    };
    let failed = |status: api::status::Status| StartError::Bootstrap {
        object: format!("{} {}", wanted["kind"].as_str().unwrap_or_default(), wanted.name()),
        source: Box::new(status),
    };
    let collection = core.collection(GROUP, plural).map_err(failed)?;
    let key = collection.key(wanted.namespace(), wanted.name());
    for _ in 0..ATTEMPTS {
        let Some(current) = write::current(core, &key).await.map_err(failed)? else {
            return ensure(core, GROUP, plural, wanted.namespace(), wanted.clone()).await;
        };
        let Some(mut next) = completed(&current.object, &wanted) else { return Ok(()) };
        if next.get("roleRef") != current.object.get("roleRef") {
            // A binding's role cannot change: it is made anew.
            let when = Precondition::ModifiedAt(current.entry.modified);
            match write::remove(core, key.clone(), when).await {
                Ok(_) | Err(Refused::Conflict) => continue,
                Err(Refused::Failed(status)) => return Err(failed(status)),
            }
        }
        let when = Precondition::ModifiedAt(current.entry.modified);
        match write::put(core, &collection, key.clone(), &mut next, when).await {
            Ok(_) => return Ok(()),
            Err(Refused::Conflict) => {}
            Err(Refused::Failed(status)) => return Err(failed(status)),
        }
    }
    Err(failed(api::status::Status::internal("it changes faster than it can be completed")))
}

/// The current object with what it lacks of the wanted one; `None` if it lacks
/// nothing or wants to be left alone.
fn completed(current: &Value, wanted: &Value) -> Option<Value> {
    if current.annotation(AUTO_UPDATE) == Some("false") {
        return None;
    }
    let mut next = current.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted.meta(field).as_object().into_iter().flatten() {
            let map = object::metadata(&mut next).entry(field).or_insert_with(|| json!({}));
            object::as_map(map).entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if let Some(role) = wanted.get("roleRef") {
        object::as_map(&mut next).insert("roleRef".to_owned(), role.clone());
        let missing = object::items(wanted, "subjects").iter().filter(|one| !same_subject(current, one));
        let subjects: Vec<Value> = object::items(current, "subjects").iter().chain(missing).cloned().collect();
        if !subjects.is_empty() {
            object::as_map(&mut next).insert("subjects".to_owned(), subjects.into());
        }
    } else if wanted.get("aggregationRule").is_some_and(Value::is_object) {
        // Their rules are the aggregation controller's; only the selectors are ours.
        let present = object::items(current, "aggregationRule.clusterRoleSelectors");
        let missing =
            object::items(wanted, "aggregationRule.clusterRoleSelectors").iter().filter(|one| !present.contains(one));
        let selectors: Vec<Value> = present.iter().chain(missing).cloned().collect();
        object::as_map(&mut next).insert("aggregationRule".to_owned(), json!({"clusterRoleSelectors": selectors}));
    } else {
        let own = rules_in(current);
        let missing = rules::compact(&rules::uncovered(&own, &rules_in(wanted)));
        let all: Vec<PolicyRule> = own.into_iter().chain(missing).collect();
        if all != rules_in(current) {
            let rules = serde_json::to_value(all).expect("rules of text serialise");
            object::as_map(&mut next).insert("rules".to_owned(), rules);
        }
    }
    (next != *current).then_some(next)
}

fn same_subject(binding: &Value, wanted: &Value) -> bool {
    let fields = ["kind", "namespace", "name"];
    let same = |one: &Value| fields.iter().all(|field| object::text(one, field) == object::text(wanted, field));
    object::items(binding, "subjects").iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_policy_is_whole() {
        let objects = policy();
        let names = |kind: &str| objects.iter().filter(|one| one["kind"] == kind).count();
        assert!(names("ClusterRole") > 60 && names("ClusterRoleBinding") > 40, "{}", objects.len());
        assert!(names("Role") >= 6 && names("RoleBinding") >= 6);
        for name in ["cluster-admin", "admin", "edit", "view", "system:node", "system:kube-scheduler"] {
            assert!(!rules_of_cluster_role(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn gathering_roles_hold_what_they_gather() {
        let rules = |name| rules_of_cluster_role(name);
        assert!(rules::uncovered(&rules("admin"), &rules("edit")).is_empty());
        assert!(rules::uncovered(&rules("edit"), &rules("view")).is_empty());
    }

    #[test]
    fn a_role_is_completed_and_keeps_what_was_added() {
        let wanted = policy().into_iter().find(|one| one.name() == "system:discovery").expect("part of the policy");
        assert_eq!(completed(&wanted, &wanted), None);
        let mut current = wanted.clone();
        current["rules"] = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let next = completed(&current, &wanted).expect("rules are missing");
        assert!(rules::uncovered(&rules_in(&next), &rules_in(&wanted)).is_empty());
        assert_eq!(next["rules"][0], current["rules"][0]);
        current["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(completed(&current, &wanted), None);
    }
}
