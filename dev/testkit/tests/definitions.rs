//! Custom kinds through the API server: what definitions publish, and what
//! their rules refuse. Not for the rules' language, which has tests of its own.

use bytes::Bytes;
use serde_json::{Value, json};
use testkit::TestServer;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

struct Answer {
    code: u16,
    etag: String,
    content_type: String,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

async fn send(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let response = server.client().raw(request.body(body).expect("a request")).await.expect("an answer");
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (code, etag, content_type) = (response.status().as_u16(), header("etag"), header("content-type"));
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    Answer { code, etag, content_type, body }
}

async fn get(server: &TestServer, path: &str) -> Answer {
    send(server, "GET", path, &[("accept", "application/json")], &Value::Null).await
}

async fn post(server: &TestServer, path: &str, body: &Value) -> Answer {
    send(server, "POST", path, &[("content-type", "application/json")], body).await
}

async fn merge(server: &TestServer, path: &str, body: &Value) -> Answer {
    send(server, "PATCH", path, &[("content-type", "application/merge-patch+json")], body).await
}

fn definition(spec: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": spec,
                    "status": {"type": "object", "properties": {"n": {"type": "integer"}}, "x-kubernetes-validations":
                        [{"rule": "!has(self.n) || self.n < 10", "message": "n is too large"}]},
                }}},
            }],
        },
    })
}

const WIDGET_V3: &str = "/openapi/v3/apis/example.com/v1";

#[tokio::test]
async fn both_openapi_documents_follow_the_life_of_a_definition() {
    let server = TestServer::start().await.expect("start");
    let field = |document: &Value, at: &str, name: &str| {
        document.pointer(at).unwrap_or(&Value::Null)["com.example.v1.Widget"]["properties"]["spec"]["properties"][name]
            ["description"]
            .clone()
    };
    let before = get(&server, "/openapi/v2").await;
    assert_eq!(get(&server, WIDGET_V3).await.code, 404);

    let spec = json!({"type": "object", "properties": {"size": {"type": "integer", "description": "How big."}}});
    let created = post(&server, DEFINITIONS, &definition(&spec)).await;
    assert_eq!(created.code, 201, "{}", created.message());
    let (second, third) = (get(&server, "/openapi/v2").await, get(&server, WIDGET_V3).await);
    assert_ne!(second.etag, before.etag);
    assert_eq!(field(&second.json(), "/definitions", "size"), "How big.");
    assert_eq!(field(&third.json(), "/components/schemas", "size"), "How big.");
    let index = get(&server, "/openapi/v3").await.json();
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap_or_default().to_owned();
    assert!(url.contains(third.etag.trim_matches('"')), "{url} {}", third.etag);
    let known = [("if-none-match", second.etag.as_str())];
    assert_eq!(send(&server, "GET", "/openapi/v2", &known, &Value::Null).await.code, 304);

    let path = format!("{DEFINITIONS}/widgets.example.com");
    let mut changed = created.json();
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
        json!({"colour": {"type": "string", "description": "Which."}});
    let put = send(&server, "PUT", &path, &[("content-type", "application/json")], &{
        changed["metadata"]["resourceVersion"] =
            get(&server, &path).await.json()["metadata"]["resourceVersion"].clone();
        changed
    })
    .await;
    assert_eq!(put.code, 200, "{}", put.message());
    let (second_now, third_now) = (get(&server, "/openapi/v2").await, get(&server, WIDGET_V3).await);
    assert_ne!(second_now.etag, second.etag);
    assert_ne!(third_now.etag, third.etag);
    assert_eq!(field(&second_now.json(), "/definitions", "size"), Value::Null);
    assert_eq!(field(&third_now.json(), "/components/schemas", "colour"), "Which.");

    assert_eq!(send(&server, "DELETE", &path, &[], &Value::Null).await.code, 200);
    assert_eq!(get(&server, WIDGET_V3).await.code, 404);
    let after = get(&server, "/openapi/v2").await;
    assert_eq!(after.etag, before.etag);
    assert_eq!(after.body, before.body);
}

#[tokio::test]
async fn openapi_v2_is_protobuf_for_who_asks_for_it() {
    let server = TestServer::start().await.expect("start");
    for name in ["spec.v2@v1.0", "spec.v2.v1.0"] {
        let asked = format!("application/com.github.proto-openapi.{name}+protobuf");
        let answer = send(&server, "GET", "/openapi/v2", &[("accept", &asked)], &Value::Null).await;
        assert_eq!(answer.content_type, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
        assert!(answer.body.starts_with(b"\x0a\x032.0"), "the document begins with its version");
        assert_ne!(answer.etag, get(&server, "/openapi/v2").await.etag);
    }
    let other = send(&server, "GET", "/openapi/v2", &[("accept", "application/xml")], &Value::Null).await;
    assert_eq!(other.code, 406);
}

const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn widget(spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec})
}

#[tokio::test]
async fn rules_of_definitions_are_held_against_objects() {
    let server = TestServer::start().await.expect("start");
    let spec = json!({
        "type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min must not exceed max"},
            {"rule": "!has(self.name) || self.name.startsWith('w-')", "reason": "FieldValueForbidden",
                "fieldPath": ".name", "messageExpression": "'name ' + self.name + ' must start with w-'"},
            {"rule": "self.max >= oldSelf.max", "message": "max may only grow"},
        ],
        "properties": {
            "min": {"type": "integer", "default": 0},
            "max": {"type": "integer", "default": 5},
            "name": {"type": "string"},
            "quota": {"x-kubernetes-int-or-string": true,
                "x-kubernetes-validations": [{"rule": "type(self) == int || self.endsWith('%')"}]},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"], "items": {
                "type": "object", "required": ["n"],
                "properties": {"n": {"type": "integer"}, "v": {"type": "string", "x-kubernetes-validations":
                    [{"rule": "self == oldSelf", "message": "v is immutable"}]}}}},
            "opt": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "!oldSelf.hasValue() || self > oldSelf.value()", "optionalOldSelf": true,
                    "message": "opt must grow"}]},
        },
    });
    assert_eq!(post(&server, DEFINITIONS, &definition(&spec)).await.code, 201);
    for (spec, message) in [
        (json!({"min": 6}), "spec: Invalid value: min must not exceed max"),
        (json!({"name": "x"}), "spec.name: Forbidden: name x must start with w-"),
        (
            json!({"quota": "5"}),
            "spec.quota: Invalid value: \"5\": failed rule: type(self) == int || self.endsWith('%')",
        ),
        (
            json!({"min": "x", "name": "x"}),
            "[spec.min: Invalid value: \"string\": spec.min in body must be of type integer: \"string\", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]",
        ),
    ] {
        let refused = post(&server, WIDGETS, &widget(&spec)).await;
        assert_eq!(refused.code, 422);
        assert_eq!(refused.message(), format!("Widget.example.com \"a\" is invalid: {message}"));
    }
    let made = widget(&json!({"opt": 5, "ports": [{"n": 1, "v": "a"}]}));
    assert_eq!(post(&server, WIDGETS, &made).await.code, 201);
    let path = format!("{WIDGETS}/a");
    for (patch, message) in [
        (json!({"spec": {"max": 4, "opt": 6}}), "spec: Invalid value: max may only grow"),
        (json!({"spec": {"opt": 4}}), "spec.opt: Invalid value: 4: opt must grow"),
        (
            json!({"spec": {"opt": 6, "ports": [{"n": 2, "v": "b"}, {"n": 1, "v": "c"}]}}),
            "spec.ports[1].v: Invalid value: \"c\": v is immutable",
        ),
    ] {
        let refused = merge(&server, &path, &patch).await;
        assert_eq!((refused.code, refused.message()), (422, format!("Widget.example.com \"a\" is invalid: {message}")));
    }
    assert_eq!(merge(&server, &path, &json!({"spec": {"opt": 6}})).await.code, 200);
    let status = format!("{path}/status");
    let refused = merge(&server, &status, &json!({"status": {"n": 11}, "spec": {"opt": 7}})).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("status: Invalid value: n is too large"), "{}", refused.message());
}

#[tokio::test]
async fn rules_are_checked_when_a_definition_is_written() {
    let server = TestServer::start().await.expect("start");
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    for (rule, message) in [
        (
            json!({"rule": "self.nope > 1"}),
            format!(
                "{at}.rule: Invalid value: {{\"Rule\":\"self.nope \\u003e 1\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}}: compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope > 1\n | ....^"
            ),
        ),
        (json!({"rule": " "}), format!("{at}.rule: Required value: rule is not specified")),
        (
            json!({"rule": "true", "fieldPath": ".nope"}),
            format!("{at}.fieldPath: Invalid value: \".nope\": must be a valid path"),
        ),
        (
            json!({"rule": "self.n > 1", "optionalOldSelf": true}),
            format!("{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"),
        ),
    ] {
        let spec =
            json!({"type": "object", "properties": {"n": {"type": "integer"}}, "x-kubernetes-validations": [rule]});
        let refused = post(&server, DEFINITIONS, &definition(&spec)).await;
        let start = "CustomResourceDefinition.apiextensions.k8s.io \"widgets.example.com\" is invalid: ";
        assert_eq!((refused.code, refused.message()), (422, format!("{start}{message}")));
    }
}

#[tokio::test]
async fn names_of_a_definition_that_goes_are_given_to_who_waits_for_them() {
    let server = TestServer::start().await.expect("start");
    let spec = json!({"type": "object"});
    assert_eq!(post(&server, DEFINITIONS, &definition(&spec)).await.code, 201);
    let mut second = definition(&spec);
    second["metadata"]["name"] = "widgetz.example.com".into();
    second["spec"]["names"]["plural"] = "widgetz".into();
    assert_eq!(post(&server, DEFINITIONS, &second).await.code, 201);
    let path = format!("{DEFINITIONS}/widgetz.example.com");
    let status = get(&server, &path).await.json()["status"].clone();
    assert_eq!(status["acceptedNames"], json!({"plural": "widgetz", "kind": ""}));
    assert_eq!(status["conditions"][0]["reason"], "ListKindConflict");
    let served = "/apis/example.com/v1/widgetz";
    assert_eq!(get(&server, served).await.code, 404);
    let first = format!("{DEFINITIONS}/widgets.example.com");
    assert_eq!(send(&server, "DELETE", &first, &[], &Value::Null).await.code, 200);
    let status = get(&server, &path).await.json()["status"].clone();
    assert_eq!(status["conditions"][0]["status"], "True");
    assert_eq!(get(&server, served).await.code, 200);
}

#[tokio::test]
async fn objects_show_the_fields_of_the_version_that_is_asked_for() {
    let server = TestServer::start().await.expect("start");
    let version = |name: &str, storage: bool, fields: Value| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}}})
    };
    let mut two = definition(&json!({}));
    let (old, new) = (json!({"a": {"type": "integer"}}), json!({"a": {"type": "integer"}, "b": {"type": "integer"}}));
    two["spec"]["versions"] = json!([version("v1", false, old), version("v2", true, new)]);
    two["spec"]["versions"][0]["deprecated"] = true.into();
    assert_eq!(post(&server, DEFINITIONS, &two).await.code, 201);
    let object = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "a"},
        "spec": {"a": 1, "b": 2}});
    assert_eq!(post(&server, "/apis/example.com/v2/namespaces/default/widgets", &object).await.code, 201);
    assert_eq!(get(&server, &format!("{WIDGETS}/a")).await.json()["spec"], json!({"a": 1}));
}
