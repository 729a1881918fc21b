//! The in-process API server through the real client: what scheduler,
//! controllers and node rely on.

use api::types::api::core::v1::{ConfigMap, Pod};
use serde_json::json;
use testkit::TestServer;

fn pod(name: &str) -> Pod {
    let tree = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "app:1"}]},
    });
    serde_json::from_value(tree).expect("a pod")
}

#[tokio::test]
async fn objects_are_created_read_listed_and_deleted() {
    let server = TestServer::start().await.expect("start");
    let maps = server.client().namespaced::<ConfigMap>("default");
    let mut map = ConfigMap::default();
    map.metadata.name = Some("a".into());
    map.data = Some([("k".to_owned(), "v".to_owned())].into());
    let created = maps.create(&map).await.expect("create");
    assert!(created.metadata.uid.is_some());
    let read = maps.get("a").await.expect("get");
    assert_eq!(read, created);
    assert!(maps.create(&map).await.expect_err("twice").is_already_exists());
    let listed = maps.list(&Default::default()).await.expect("list");
    assert_eq!(listed.items.len(), 1);
    maps.delete("a", &Default::default()).await.expect("delete");
    assert!(maps.get("a").await.expect_err("gone").is_not_found());
}

#[tokio::test]
async fn pods_get_their_defaults_and_can_be_bound_once() {
    let server = TestServer::start().await.expect("start");
    let client = server.client();
    let mut account = api::types::api::core::v1::ServiceAccount::default();
    account.metadata.name = Some("default".into());
    client.namespaced("default").create(&account).await.expect("service account");
    let pods = client.namespaced::<Pod>("default");
    let created = pods.create(&pod("a")).await.expect("create");
    let spec = created.spec.expect("spec");
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.tolerations.map(|all| all.len()), Some(2));
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    pods.subresource_create("a", "binding", &binding).await.expect("bind");
    let bound = pods.get("a").await.expect("get");
    assert_eq!(bound.spec.and_then(|spec| spec.node_name).as_deref(), Some("n1"));
    let again = pods.subresource_create("a", "binding", &binding).await.expect_err("bound already");
    assert!(again.is_conflict());
}
