//! The smallest strategic merge patch that leads from the status in the API to
//! the wanted one. Conditions of others are never named in it.

use api::types::api::core::v1 as core;
use serde_json::{Map, Value, json};

use super::conditions::OWNED;

/// Fields of the status that the agent does not write.
const FOREIGN: [&str; 5] = [
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "resize",
];

/// The patch, with the pod's uid as precondition; `None` if nothing differs.
pub(crate) fn between(uid: &str, old: &core::PodStatus, new: &core::PodStatus) -> Option<Value> {
    // The API server adds empty objects; they mean the same as absence.
    let (Some(old), Some(new)) = (significant(old), significant(new)) else { return None };
    let mut patch = Map::new();
    for (key, value) in &new {
        if key == "conditions" || FOREIGN.contains(&key.as_str()) || old.get(key) == Some(value) {
            continue;
        }
        // Lists without merge keys are replaced whole; those with one
        // (podIPs, hostIPs) say so.
        let replace = matches!(key.as_str(), "podIPs" | "hostIPs");
        match value {
            Value::Array(items) if replace => {
                let mut items = items.clone();
                items.push(json!({"$patch": "replace"}));
                patch.insert(key.clone(), Value::Array(items));
            }
            Value::Object(fields) => {
                patch.insert(key.clone(), replace_map(old.get(key), fields));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys() {
        if !new.contains_key(key) && key != "conditions" && !FOREIGN.contains(&key.as_str()) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    let conditions = conditions(list(&old), list(&new));
    if !conditions.is_empty() {
        patch.insert("conditions".into(), Value::Array(conditions));
    }
    (!patch.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": patch}))
}

/// The status as a tree without nulls and empty objects and lists.
fn significant(status: &core::PodStatus) -> Option<Map<String, Value>> {
    fn strip(value: &mut Value) -> bool {
        match value {
            Value::Null => false,
            Value::Object(fields) => {
                fields.retain(|_, field| strip(field));
                !fields.is_empty()
            }
            Value::Array(items) => {
                items.retain_mut(strip);
                !items.is_empty()
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        }
    }
    let Ok(mut value @ Value::Object(_)) = serde_json::to_value(status) else { return None };
    strip(&mut value);
    match value {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

fn list(status: &Map<String, Value>) -> &[Value] {
    status.get("conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A map field as it is to be: absent keys are named as null.
fn replace_map(old: Option<&Value>, new: &Map<String, Value>) -> Value {
    let mut merged = new.clone();
    for key in old.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        merged.entry(key.clone()).or_insert(Value::Null);
    }
    for (key, value) in &mut merged {
        if let (Value::Object(fields), Some(before)) = (value.clone(), old.and_then(|o| o.get(key))) {
            *value = replace_map(Some(before), &fields);
        }
    }
    Value::Object(merged)
}

fn kind(condition: &Value) -> &str {
    condition.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn conditions(old: &[Value], new: &[Value]) -> Vec<Value> {
    let owned = |c: &&Value| OWNED.contains(&kind(c)) || kind(c) == "DisruptionTarget";
    let mut changed = Vec::new();
    for condition in new.iter().filter(owned) {
        let before = old.iter().find(|c| kind(c) == kind(condition));
        if before == Some(condition) {
            continue;
        }
        let mut fields = condition.as_object().cloned().unwrap_or_default();
        for key in before.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            fields.entry(key.clone()).or_insert(Value::Null);
        }
        changed.push(Value::Object(fields));
    }
    for gone in old.iter().filter(owned).filter(|c| OWNED.contains(&kind(c))) {
        if !new.iter().any(|c| kind(c) == kind(gone)) {
            changed.push(json!({"$patch": "delete", "type": kind(gone)}));
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> core::PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn equal_statuses_need_no_patch() {
        let a = status(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(between("u", &a, &a), None);
    }

    #[test]
    fn only_what_differs_is_named_and_what_is_gone_is_null() {
        let old = status(json!({"phase": "Pending", "reason": "x", "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"},
            {"type": "foreign", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "foreign", "status": "False"}, {"type": "PodScheduled", "status": "True"}]}));
        assert_eq!(
            between("u", &old, &new),
            Some(json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "reason": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]}}))
        );
    }

    #[test]
    fn an_owned_condition_that_is_gone_is_deleted() {
        let old = status(
            json!({"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "gate", "status": "True"}]}),
        );
        let new = status(json!({}));
        assert_eq!(
            between("u", &old, &new),
            Some(
                json!({"metadata": {"uid": "u"}, "status": {"conditions": [{"$patch": "delete", "type": "PodScheduled"}]}})
            )
        );
    }
}
