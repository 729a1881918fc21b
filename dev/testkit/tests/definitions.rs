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
