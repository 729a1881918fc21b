//! Patches, by example.

use serde_json::json;

use super::*;
use crate::kinds_table;

fn run(object: Value, patch: Value) -> Result<Value, PatchError> {
    json_patch(&object, patch.to_string().as_bytes()).map(|patched| patched.object)
}

#[test]
fn json_patch_operations_follow_upstreams_library() {
    let object = || json!({"a": {"b": "1", "sl/ash": "2"}, "l": ["x", "y"]});
    for (operation, expected) in [
        (json!({"op": "add", "path": "/a/c", "value": "3"}), Some(json!({"b": "1", "sl/ash": "2", "c": "3"}))),
        (json!({"op": "replace", "path": "/a/sl~1ash", "value": "3"}), Some(json!({"b": "1", "sl/ash": "3"}))),
        (json!({"op": "replace", "path": "/a/zz", "value": "3"}), Some(json!({"b": "1", "sl/ash": "2", "zz": "3"}))),
        (json!({"op": "remove", "path": "/a/zz"}), None),
        (json!({"op": "move", "from": "/a/zz", "path": "/a/x"}), None),
        (json!({"op": "copy", "from": "/a/zz", "path": "/a/x"}), Some(json!({"b": "1", "sl/ash": "2", "x": null}))),
        (json!({"op": "test", "path": "/a/zz", "value": null}), Some(json!({"b": "1", "sl/ash": "2"}))),
        (json!({"op": "test", "path": "/a/b", "value": "9"}), None),
        (json!({"op": "add", "path": "/no/x", "value": "9"}), None),
        (json!({"op": "add", "path": "a", "value": "9"}), None),
        (json!({"op": "nonsense", "path": "/a/b"}), None),
    ] {
        let result = run(object(), json!([operation])).map(|object| object["a"].clone());
        assert_eq!(result.ok(), expected, "{operation}");
    }
    for (operation, expected) in [
        (json!({"op": "add", "path": "/l/-", "value": "z"}), Some(json!(["x", "y", "z"]))),
        (json!({"op": "add", "path": "/l/0", "value": "z"}), Some(json!(["z", "x", "y"]))),
        (json!({"op": "remove", "path": "/l/-1"}), Some(json!(["x"]))),
        (json!({"op": "remove", "path": "/l/9"}), None),
        (json!({"op": "add", "path": "/l/9", "value": "z"}), None),
        (json!({"op": "remove", "path": "/l/x"}), None),
    ] {
        let result = run(object(), json!([operation])).map(|object| object["l"].clone());
        assert_eq!(result.ok(), expected, "{operation}");
    }
}

#[test]
fn bodies_that_are_no_patch_are_refused_in_upstreams_words() {
    let words = |body: &str| json_patch(&json!({}), body.as_bytes()).unwrap_err().to_string();
    let prefix = "error decoding patch: ";
    assert_eq!(
        words("{}"),
        format!("{prefix}json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp")
    );
    assert_eq!(words("[{"), format!("{prefix}unexpected end of JSON input"));
    let many = Value::Array(vec![json!({"op": "add", "path": "/x", "value": 1}); JSON_PATCH_OPERATIONS + 1]);
    let status = run(json!({}), many).unwrap_err().status();
    assert_eq!(status.code, Some(413));
    assert_eq!(merge_patch(&json!({}), b"null").unwrap_err().to_string(), "Invalid JSON Patch");
    assert_eq!(
        strategic_merge_patch(&json!({}), b"[]", &Schema::default()).unwrap_err().to_string(),
        "json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
}

#[test]
fn a_merge_patch_removes_by_null_and_replaces_lists() {
    let object = json!({"a": {"b": 1, "c": [1]}});
    let patched = merge_patch(&object, br#"{"a":{"b":null,"c":[2],"d":{"e":null}},"a2":{}}"#).unwrap();
    assert_eq!(patched.object, json!({"a": {"c": [2], "d": {}}, "a2": {}}));
    let patched = merge_patch(&object, br#"{"a":{"b":1,"b":2}}"#).unwrap();
    assert_eq!(patched.strict, [r#"duplicate field "a.b""#]);
}

fn pod_spec(patch: Value) -> Result<Value, PatchError> {
    let object = json!({"metadata": {"finalizers": ["x", "z"]}, "spec": {
        "containers": [{"name": "one", "image": "i", "args": ["x"], "ports": [{"containerPort": 80, "name": "http"}]},
            {"name": "two", "image": "j"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "nodeSelector": {"a": "b"}}});
    let schema = kinds_table::builtin().definition("core.v1.Pod").unwrap();
    strategic_merge_patch(&object, patch.to_string().as_bytes(), schema).map(|patched| patched.object)
}

#[test]
fn strategic_patches_merge_lists_by_key() {
    let containers = |patch: Value| pod_spec(json!({"spec": patch})).map(|object| object["spec"]["containers"].clone());
    let names = |list: Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let merged = containers(json!({"containers": [{"name": "two", "image": "k"}]})).unwrap();
    assert_eq!(merged[1], json!({"name": "two", "image": "k"}));
    let added = containers(json!({"containers": [{"name": "three", "image": "k"}]})).unwrap();
    assert_eq!(names(added), ["three", "one", "two"]);
    let deleted = containers(json!({"containers": [{"name": "two", "$patch": "delete"}]})).unwrap();
    assert_eq!(names(deleted), ["one"]);
    let replaced = containers(json!({"containers": [{"$patch": "replace"}, {"name": "only"}]})).unwrap();
    assert_eq!(names(replaced), ["only"]);
    let ordered = containers(json!({"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}],
        "containers": [{"name": "one", "image": "z"}]}));
    let ordered = ordered.unwrap();
    assert_eq!(ordered[1]["image"], "z");
    assert_eq!(names(ordered), ["two", "one"]);
    let args = containers(json!({"containers": [{"name": "one", "args": null}]})).unwrap();
    assert!(args[0].get("args").is_none());
}

#[test]
fn strategic_directives_work_and_fail_in_upstreams_words() {
    let words = |patch: Value| pod_spec(json!({"spec": patch})).unwrap_err().to_string();
    assert_eq!(
        words(json!({"containers": [{"name": "one", "$patch": "nonsense"}]})),
        "unknown patch type: nonsense in map: map[$patch:nonsense name:one]"
    );
    assert_eq!(
        words(json!({"containers": [{"image": "z"}]})),
        "map: map[image:z] does not contain declared merge key: name"
    );
    assert_eq!(
        words(json!({"$setElementOrder/containers": [{"name": "two"}], "containers": [{"name": "one", "image": "z"}]})),
        "The order in patch list:\n[map[image:z name:one]]\n doesn't match $setElementOrder list:\n[map[name:two]]\n"
    );
    let retained = pod_spec(json!({"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v",
        "hostPath": {"path": "/x"}}]}}));
    assert_eq!(retained.unwrap()["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
    assert_eq!(
        words(json!({"volumes": [{"$retainKeys": ["name"], "name": "v", "hostPath": {"path": "/x"}}]})),
        "invalid patch format of retainKeys"
    );
    let cleared = pod_spec(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]},
        "spec": {"nodeSelector": {"$patch": "replace", "x": "y"}}}));
    let cleared = cleared.unwrap();
    assert_eq!(cleared["metadata"]["finalizers"], json!(["z"]));
    assert_eq!(cleared["spec"]["nodeSelector"], json!({"x": "y"}));
}
