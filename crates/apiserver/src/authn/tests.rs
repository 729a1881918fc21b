//! Credentials against a whole server on an in-memory store: what is good, until
//! when, and as whom.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use store::EphemeralStore;

use crate::access::{Peer, UserInfo};
use crate::{ApiServer, Config, Settings};

const ADMIN_TOKEN: &str = "the-admin-token";

struct World(Arc<ApiServer>);

impl World {
    async fn start() -> Self {
        let store = Arc::new(EphemeralStore::new());
        let config = Config { store, admin_token: Some(ADMIN_TOKEN.to_owned()), settings: Settings::default() };
        Self(ApiServer::start(config).await.expect("an empty store takes the bootstrap objects"))
    }

    /// Over TLS without a client certificate; a token unless it is empty.
    async fn ask(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        self.ask_with(method, path, &[("authorization", &format!("Bearer {token}"))], body, token.is_empty()).await
    }

    async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
        anonymous: bool,
    ) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers.iter().filter(|(name, _)| !(anonymous && *name == "authorization")) {
            request = request.header(*name, *value);
        }
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = request.body(bytes).expect("a request");
        let peer = Peer::Tls { certificates: Arc::from([]), remote: ([127, 0, 0, 1], 1).into() };
        let response = self.0.call(request, peer).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a whole answer").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask("POST", path, ADMIN_TOKEN, body).await;
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    }

    async fn account(&self) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web"}});
        self.make("/api/v1/namespaces/default/serviceaccounts", account).await;
    }

    async fn token(&self, spec: Value) -> String {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = self.make("/api/v1/namespaces/default/serviceaccounts/web/token", body).await;
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Who the server says a token is.
    async fn who(&self, token: &str) -> (u16, Value) {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let (status, answer) = self.ask("POST", path, token, body).await;
        (status, answer["status"]["userInfo"].clone())
    }
}

#[tokio::test]
async fn the_admin_token_is_the_administrator_and_another_is_nobody() {
    let world = World::start().await;
    let (status, user) = world.who(ADMIN_TOKEN).await;
    assert_eq!((status, &user["groups"]), (201, &json!(["system:masters", "system:authenticated"])));
    assert_eq!(world.who("the-admin-tokem").await.0, 401);
    assert_eq!(world.ask("GET", "/api/v1/pods", "", Value::Null).await.0, 403);
    assert_eq!(world.ask("GET", "/version", "", Value::Null).await.0, 200);
}

#[tokio::test]
async fn an_accounts_token_is_good_until_the_account_goes() {
    let world = World::start().await;
    world.account().await;
    let token = world.token(json!({})).await;
    let (status, user) = world.who(&token).await;
    assert_eq!(status, 201);
    assert_eq!(user["username"], "system:serviceaccount:default:web");
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(user["groups"], groups);
    assert!(
        user["extra"]["authentication.kubernetes.io/credential-id"][0]
            .as_str()
            .is_some_and(|id| id.starts_with("JTI="))
    );
    let path = "/api/v1/namespaces/default/serviceaccounts/web";
    assert_eq!(world.ask("DELETE", path, ADMIN_TOKEN, Value::Null).await.0, 200);
    assert_eq!(world.who(&token).await.0, 401);
    // Another account of the same name is another account.
    world.account().await;
    assert_eq!(world.who(&token).await.0, 401);
}

#[tokio::test]
async fn a_token_is_good_for_its_audience_only() {
    let world = World::start().await;
    world.account().await;
    let token = world.token(json!({"audiences": ["vault"]})).await;
    assert_eq!(world.who(&token).await.0, 401);
    let review = |audience: &str| {
        let spec = json!({"token": token, "audiences": [audience]});
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec})
    };
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let good = world.make(path, review("vault")).await;
    assert_eq!((&good["status"]["authenticated"], &good["status"]["audiences"]), (&json!(true), &json!(["vault"])));
    let bad = world.make(path, review("other")).await;
    assert_eq!(bad["status"]["authenticated"], Value::Null);
}

#[tokio::test]
async fn a_bound_token_ends_with_what_it_is_bound_to() {
    let world = World::start().await;
    world.account().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    world.make("/api/v1/namespaces/default/secrets", secret).await;
    let token = world.token(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "s"}})).await;
    assert_eq!(world.who(&token).await.0, 201);
    let path = "/api/v1/namespaces/default/secrets/s";
    assert_eq!(world.ask("DELETE", path, ADMIN_TOKEN, Value::Null).await.0, 200);
    assert_eq!(world.who(&token).await.0, 401);
}

#[tokio::test]
async fn a_websocket_client_may_offer_its_token_as_a_protocol() {
    use base64::Engine as _;
    let world = World::start().await;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(ADMIN_TOKEN);
    let offered = format!("base64url.bearer.authorization.k8s.io.{encoded}, v5.channel.k8s.io");
    let headers = [("sec-websocket-protocol", &*offered)];
    assert_eq!(world.ask_with("GET", "/api/v1/pods", &headers, Value::Null, false).await.0, 200);
}

#[tokio::test]
async fn impersonation_is_asked_for_part_by_part() {
    let world = World::start().await;
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let own = [("authorization", &*bearer), ("impersonate-user", "jane"), ("impersonate-group", "devs")];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let (status, answer) = world.ask_with("POST", path, &own, body.clone(), false).await;
    assert_eq!((status, &answer["status"]["userInfo"]["groups"]), (201, &json!(["devs", "system:authenticated"])));
    // A service account has its groups by its name.
    let account = [("authorization", &*bearer), ("impersonate-user", "system:serviceaccount:a:b")];
    let (_, answer) = world.ask_with("POST", path, &account, body.clone(), false).await;
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    assert_eq!(answer["status"]["userInfo"]["groups"], groups);
    // Groups without a user are a mistake; a user without rights impersonates nobody.
    let nobody = [("authorization", &*bearer), ("impersonate-group", "devs")];
    assert_eq!(world.ask_with("POST", path, &nobody, body, false).await.0, 500);
    let request = Request::builder().uri("/api/v1/pods").header("impersonate-user", "admin");
    let peer = Peer::InProcess(UserInfo::new("jane", &[]));
    let response = world.0.call(request.body(Bytes::new()).expect("a request"), peer).await;
    assert_eq!(response.status().as_u16(), 403);
}
