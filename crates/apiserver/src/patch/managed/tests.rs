//! Owned fields: tracking, applying, conflicts.

use serde_json::json;

use super::*;
use crate::kinds_table;

fn schema(name: &str) -> &'static Schema {
    kinds_table::builtin().definition(name).unwrap()
}

fn tracking<'a>(manager: &'a str, api_version: &'a str) -> Tracking<'a> {
    let now = api::time::parse("2026-01-02T03:04:05Z").unwrap();
    Tracking { manager, api_version, subresource: "", now, reset: &["status"], versions: &OneVersion }
}

fn config_map(data: Value) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    codec::conform(&object, schema("core.v1.ConfigMap")).unwrap().object
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .into_iter()
        .find(|entry| entry["manager"] == manager)
        .map(|entry| entry["fieldsV1"].clone())
        .unwrap_or_default()
}

fn apply_map(live: Option<&Value>, manager: &str, data: Value, force: bool) -> Result<Value, ApplyError> {
    let mut applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    if data_is_absent(&applied) {
        applied.as_object_mut().unwrap().remove("data");
    }
    apply(live, applied, force, schema("core.v1.ConfigMap"), &tracking(manager, "v1"))
}

fn data_is_absent(applied: &Value) -> bool {
    applied["data"].is_null()
}

#[test]
fn a_create_owns_what_it_sets_and_not_what_go_fills_in() {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}});
    let schema = schema("apps.v1.Deployment");
    let mut object = codec::conform(&object, schema).unwrap().object;
    object["metadata"]["uid"] = "u".into();
    update(None, &mut object, schema, &tracking("kubectl", "apps/v1"));
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Update");
    assert_eq!(entry["time"], "2026-01-02T03:04:05Z");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {},
            "f:template": {"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:containers": {
                "k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:ports": {".": {},
                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:resources": {}}}}}}})
    );
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let map = schema("core.v1.ConfigMap");
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    update(None, &mut live, map, &tracking("one", "v1"));
    live["metadata"]["uid"] = "u".into();
    let mut new = live.clone();
    new["data"] = json!({"a": "2", "c": "1"});
    update(Some(&live), &mut new, map, &tracking("two", "v1"));
    assert_eq!(fields(&new, "one"), json!({"f:data": {}}));
    assert_eq!(fields(&new, "two"), json!({"f:data": {"f:a": {}, "f:c": {}}}));
    let mut same = new.clone();
    update(Some(&new), &mut same, map, &tracking("three", "v1"));
    assert_eq!(same, new);
}

#[test]
fn a_reset_list_stops_tracking_until_the_next_apply() {
    let map = schema("core.v1.ConfigMap");
    let mut live = config_map(json!({"a": "1"}));
    update(None, &mut live, map, &tracking("one", "v1"));
    live["metadata"]["uid"] = "u".into();
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    update(Some(&live), &mut new, map, &tracking("two", "v1"));
    assert!(new["metadata"].get("managedFields").is_none());
    let applied = apply_map(Some(&new), "three", json!({"b": "1"}), false).unwrap();
    assert_eq!(fields(&applied, "before-first-apply"), json!({"f:data": {".": {}, "f:a": {}}}));
}

#[test]
fn apply_merges_shares_conflicts_and_removes() {
    let live = apply_map(None, "one", json!({"a": "1", "b": "1"}), false).unwrap();
    assert_eq!(fields(&live, "one"), json!({"f:data": {"f:a": {}, "f:b": {}}}));
    let shared = apply_map(Some(&live), "two", json!({"a": "1", "c": "1"}), false).unwrap();
    assert_eq!(shared["data"], json!({"a": "1", "b": "1", "c": "1"}));
    let refused = apply_map(Some(&shared), "two", json!({"a": "2"}), false).unwrap_err();
    assert_eq!(refused.to_string(), r#"Apply failed with 1 conflict: conflict with "one": .data.a"#);
    assert_eq!(refused.status().details.unwrap().causes[0].field.as_deref(), Some(".data.a"));
    let forced = apply_map(Some(&shared), "two", json!({"a": "2"}), true).unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(fields(&forced, "one"), json!({"f:data": {"f:b": {}}}));
    let dropped = apply_map(Some(&forced), "one", json!({}), false).unwrap();
    assert_eq!(dropped["data"], json!({"a": "2"}));
}

#[test]
fn lists_merge_by_key_and_keep_order() {
    let pod = schema("core.v1.Pod");
    let pod_of = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": containers}});
    let run = |live: Option<&Value>, manager: &str, containers: Value| {
        apply(live, pod_of(containers), false, pod, &tracking(manager, "v1")).unwrap()
    };
    let live = run(None, "one", json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let both = run(Some(&live), "two", json!([{"name": "c", "image": "1"}, {"name": "a", "tty": true}]));
    let names = |object: &Value| -> Vec<String> {
        object["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&both), ["c", "a", "b"]);
    assert_eq!(both["spec"]["containers"][1], json!({"name": "a", "image": "1", "tty": true}));
    let without = run(Some(&both), "one", json!([{"name": "a", "image": "1"}]));
    assert_eq!(names(&without), ["c", "a"]);
    let error = apply(Some(&live), pod_of(json!([{"name": "a"}, {"name": "a"}])), false, pod, &tracking("x", "v1"));
    assert!(error.unwrap_err().to_string().contains(r#"duplicate entries for key [name="a"]"#));
}

#[test]
fn an_unknown_field_and_a_foreign_version_are_refused() {
    let map = schema("core.v1.ConfigMap");
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "unknownTop": 1});
    let error = apply(None, applied.clone(), false, map, &tracking("m", "v1")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .unknownTop: field not declared in schema"
    );
    assert_eq!(error.status().code, Some(500));
    let error = apply(None, applied, false, map, &tracking("m", "v2")).unwrap_err();
    assert!(error.to_string().ends_with("Specified patch version: v1, expected: v2"));
}

#[test]
fn no_more_than_ten_update_entries_are_kept() {
    let map = schema("core.v1.ConfigMap");
    let mut live = config_map(json!({}));
    live["metadata"]["uid"] = "u".into();
    update(None, &mut live, map, &tracking("m00", "v1"));
    for index in 0..14 {
        let mut new = live.clone();
        new["data"][format!("k{index}")] = "v".into();
        let name = format!("m{index:02}");
        let empty = json!({"metadata": {"managedFields": []}});
        let live_or_empty = if index == 0 { empty } else { live.clone() };
        update(Some(&live_or_empty), &mut new, map, &tracking(&name, "v1"));
        live = new;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), UPDATE_MANAGERS);
    assert!(entries.iter().any(|entry| entry["manager"] == "ancient-changes"));
}
