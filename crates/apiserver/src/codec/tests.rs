//! Codecs of built-in and custom kinds, by example.

use serde_json::json;

use super::*;
use crate::kinds_table;

fn schema(name: &str) -> &'static Schema {
    kinds_table::builtin().definition(name).unwrap()
}

fn decode_text(text: &str, name: &str) -> Result<Decoded, DecodeError> {
    decode(text.as_bytes(), Encoding::Json, schema(name))
}

#[test]
fn unknown_and_duplicate_fields_are_named_in_order() {
    let body = r#"{"kind":"Pod","metadata":{"name":"a","name":"b","labelz":{}},
        "spec":{"containers":[{"name":"c","unknown":true}]},"top":1}"#;
    let decoded = decode_text(body, "core.v1.Pod").unwrap();
    assert_eq!(
        decoded.strict,
        [
            r#"duplicate field "metadata.name""#,
            r#"unknown field "metadata.labelz""#,
            r#"unknown field "spec.containers[0].unknown""#,
            r#"unknown field "top""#,
        ]
    );
    assert_eq!(
        decoded.object,
        json!({"kind": "Pod", "metadata": {"name": "b"},
            "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}})
    );
}

#[test]
fn equal_members_of_a_map_are_merged_and_reported() {
    let body = r#"{"data":{"a":"1","a":"2"},"data":{"b":"1"}}"#;
    let decoded = decode_text(body, "core.v1.ConfigMap").unwrap();
    assert_eq!(decoded.strict, [r#"duplicate field "data.a""#, r#"duplicate field "data""#]);
    assert_eq!(decoded.object, json!({"data": {"a": "2", "b": "1"}, "metadata": {}}));
}

#[test]
fn a_value_of_another_type_is_refused_in_gos_words() {
    for (body, words) in [
        (r#"{"spec":"x"}"#, "string into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        (r#"{"spec":{"replicas":1.5}}"#, "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[1]}}}}"#,
            "number into Go struct field PodSpec.spec.template.spec.containers of type v1.Container",
        ),
        (r#"{"metadata":{"labels":{"a":1}}}"#, "number into Go struct field ObjectMeta.metadata.labels of type string"),
        (
            r#"{"metadata":{"labels":[]}}"#,
            "array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
    ] {
        let error = decode_text(body, "apps.v1.Deployment").unwrap_err().to_string();
        assert_eq!(error, format!("json: cannot unmarshal {words}"), "{body}");
    }
    let error = decode_text(r#"{"metadata":{"creationTimestamp":"yesterday"}}"#, "core.v1.Pod").unwrap_err();
    assert!(error.to_string().ends_with(r#"cannot parse "yesterday" as "2006""#));
}

#[test]
fn syntax_errors_are_those_of_go() {
    for (body, words) in [
        ("", "unexpected end of JSON input"),
        (r#"{"a":"#, "unexpected end of JSON input"),
        ("{}x", "invalid character 'x' after top-level value"),
        (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
        (r#"{"a" 1}"#, "invalid character '1' after object key"),
        (r#"[1 2]"#, "invalid character '2' after array element"),
        (r#"{"a":"\x"}"#, "invalid character 'x' in string escape code"),
        ("nul1", "invalid character '1' in literal null (expecting 'l')"),
        ("-a", "invalid character 'a' in numeric literal"),
        ("\"\n\"", r"invalid character '\n' in string literal"),
    ] {
        let error = type_meta(body.as_bytes(), Encoding::Json).unwrap_err().to_string();
        assert_eq!(error, format!("couldn't get version/kind; json parse error: {words}"), "{body}");
    }
    assert_eq!(unrecognized_message(&DecodeError::Syntax("x".into()), "Pod", b"5").rsplit_once(' ').unwrap().1, "(35)");
}

#[test]
fn a_body_nested_too_deeply_is_refused() {
    let body = "[".repeat(100_000);
    assert_eq!(
        type_meta(body.as_bytes(), Encoding::Json).unwrap_err().to_string().rsplit(": ").next(),
        Some("exceeded max depth")
    );
}

#[test]
fn a_tree_takes_the_form_that_go_types_give_it() {
    let body = r#"{"metadata":{"name":"a","labels":null,"annotations":{},"creationTimestamp":null},
        "spec":{"replicas":0,"paused":false,"template":{"spec":{"containers":[{"name":"c","resources":
        {"limits":{"cpu":"1000m","memory":1.5}},"command":[null]}],"volumes":[{"name":"v","emptyDir":{}}]}}}}"#;
    let decoded = decode_text(body, "apps.v1.Deployment").unwrap();
    assert_eq!(
        decoded.object,
        json!({"metadata": {"name": "a"}, "status": {}, "spec": {"replicas": 0, "selector": null, "strategy": {},
            "template": {"metadata": {}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [
                {"name": "c", "command": [""], "resources": {"limits": {"cpu": "1", "memory": "1500m"}}}]}}}})
    );
    let role = decode_text(r#"{"metadata":{"name":"a"}}"#, "rbac.v1.Role").unwrap();
    assert_eq!(role.object, json!({"metadata": {"name": "a"}, "rules": null}));
    let mut empty = decode_text(r#"{"metadata":{"name":"a"},"rules":[]}"#, "rbac.v1.Role").unwrap().object;
    assert_eq!(empty["rules"], json!([]));
    stored_form(&mut empty, schema("rbac.v1.Role"));
    assert_eq!(empty, role.object);
    let event = decode_text("{}", "core.v1.Event").unwrap().object;
    assert_eq!(event["eventTime"], Value::Null);
    assert!(event.as_object().unwrap().contains_key("firstTimestamp"));
}

#[test]
fn bytes_times_and_ports_are_read_as_go_does() {
    let secret = decode_text(r#"{"data":{"a":"aGk=","b":null}}"#, "core.v1.Secret").unwrap();
    assert_eq!(secret.object["data"]["a"], "aGk=");
    let error = decode_text(r#"{"data":{"a":"a!"}}"#, "core.v1.Secret").unwrap_err();
    assert_eq!(error.to_string(), "illegal base64 data at input byte 1");
    let probe = decode_text(r#"{"spec":{"ports":[{"port":80,"targetPort":"web"}]}}"#, "core.v1.Service").unwrap();
    assert_eq!(probe.object["spec"]["ports"][0]["targetPort"], "web");
    let error = decode_text(r#"{"spec":{"ports":[{"targetPort":1.5}]}}"#, "core.v1.Service").unwrap_err();
    assert_eq!(error.to_string(), "json: cannot unmarshal number 1.5 into Go value of type int32");
}

#[test]
fn yaml_reads_as_json_does() {
    let body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: \"1\"\n";
    assert_eq!(type_meta(body, Encoding::Yaml).unwrap().kind, "ConfigMap");
    let decoded = decode(body, Encoding::Yaml, schema("core.v1.ConfigMap")).unwrap();
    assert_eq!(decoded.object["data"], json!({"k": "1"}));
    let two = decode(b"kind: A\n---\nkind: B\n", Encoding::Yaml, schema("core.v1.ConfigMap")).unwrap();
    assert_eq!(two.object["kind"], "A");
    let error = type_meta(b"a: [b\nc: d\n", Encoding::Yaml).unwrap_err().to_string();
    assert!(error.starts_with("yaml: ") && !error.contains(" at line "), "{error}");
}
