//! Policies as they are seen from outside: objects go into a store, decisions
//! come out, at once and without a server.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use store::{EphemeralStore, Precondition, Store, Write};

use super::Policy;
use crate::access::{Attributes, UserInfo};
use crate::object::Meta;
use crate::resource::Catalog;

struct World {
    store: Arc<dyn Store>,
    policy: Policy,
}

impl World {
    fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(EphemeralStore::new());
        let policy = Policy::new(Arc::clone(&store), &Catalog::new(crate::builtin::resources(), Vec::new()));
        Self { store, policy }
    }

    async fn write(&self, write: Write) {
        self.store.commit(vec![write]).await.expect("nothing stands against it");
    }

    async fn put(&self, key: &str, object: Value) {
        let value = Bytes::from(object.to_string());
        self.write(Write::Put { key: key.into(), value, when: Precondition::Any }).await;
    }

    async fn delete(&self, key: &str) {
        self.write(Write::Delete { key: key.into(), when: Precondition::Present }).await;
    }

    async fn role(&self, namespace: &str, name: &str, rules: Value) {
        let metadata = json!({"name": name, "namespace": namespace});
        self.put(&format!("/registry/roles/{namespace}/{name}"), json!({"metadata": metadata, "rules": rules})).await;
    }

    async fn cluster_role(&self, name: &str, labels: Value, rest: Value) {
        let mut role = rest;
        role["metadata"] = json!({"name": name, "labels": labels});
        self.put(&format!("/registry/clusterroles/{name}"), role).await;
    }

    async fn bind(&self, namespace: &str, name: &str, role: (&str, &str), subject: Value) {
        let (key, metadata) = if namespace.is_empty() {
            (format!("/registry/clusterrolebindings/{name}"), json!({"name": name}))
        } else {
            (format!("/registry/rolebindings/{namespace}/{name}"), json!({"name": name, "namespace": namespace}))
        };
        let role = json!({"kind": role.0, "name": role.1});
        self.put(&key, json!({"metadata": metadata, "roleRef": role, "subjects": [subject]})).await;
    }

    fn may(&self, user: &UserInfo, ask: &str) -> (bool, String) {
        // verb group/resource[/subresource] namespace name [selector]
        let words: Vec<&str> = ask.split(' ').collect();
        let word = |at: usize| words.get(at).copied().filter(|word| *word != "-").unwrap_or_default();
        let mut parts = word(1).split('/');
        let mut part = || parts.next().unwrap_or_default();
        let asked = Attributes {
            user,
            verb: word(0),
            group: part(),
            resource: part(),
            subresource: part(),
            namespace: word(2),
            name: word(3),
            version: "v1",
            path: "",
            is_resource: true,
            field_selector: word(4),
        };
        let verdict = self.policy.verdict(&asked);
        (verdict.allowed, verdict.reason)
    }

    fn check(&self, user: &UserInfo, ask: &str, expected: bool) {
        let (allowed, reason) = self.may(user, ask);
        assert_eq!(allowed, expected, "{} {ask}: {reason}", user.name);
    }
}

fn jane() -> UserInfo {
    UserInfo::new("jane", &["devs", "system:authenticated"])
}

fn read_pods() -> Value {
    json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}])
}

#[tokio::test]
async fn a_binding_takes_effect_at_once_and_ends_at_once() {
    let world = World::new();
    world.check(&jane(), "get /pods a x", false);
    world.role("a", "reader", read_pods()).await;
    world.check(&jane(), "get /pods a x", false);
    world.bind("a", "b", ("Role", "reader"), json!({"kind": "User", "name": "jane"})).await;
    let (allowed, reason) = world.may(&jane(), "get /pods a x");
    assert!(allowed);
    assert_eq!(reason, r#"RBAC: allowed by RoleBinding "b/a" of Role "reader" to User "jane""#);
    world.check(&jane(), "get /pods b x", false);
    world.check(&jane(), "delete /pods a x", false);
    world.role("a", "reader", json!([])).await;
    world.check(&jane(), "get /pods a x", false);
    world.role("a", "reader", read_pods()).await;
    world.check(&jane(), "get /pods a x", true);
    world.delete("/registry/rolebindings/a/b").await;
    world.check(&jane(), "get /pods a x", false);
}

#[tokio::test]
async fn groups_and_service_accounts_are_subjects_too() {
    let world = World::new();
    world.cluster_role("reader", json!({}), json!({"rules": read_pods()})).await;
    world.bind("", "g", ("ClusterRole", "reader"), json!({"kind": "Group", "name": "devs"})).await;
    let (allowed, reason) = world.may(&jane(), "get /pods any x");
    assert_eq!(
        (allowed, &*reason),
        (true, r#"RBAC: allowed by ClusterRoleBinding "g" of ClusterRole "reader" to Group "devs""#)
    );
    let account = UserInfo::new("system:serviceaccount:a:web", &[]);
    world.bind("a", "s", ("ClusterRole", "reader"), json!({"kind": "ServiceAccount", "name": "web"})).await;
    let (allowed, reason) = world.may(&account, "get /pods a x");
    assert_eq!(
        (allowed, &*reason),
        (true, r#"RBAC: allowed by RoleBinding "s/a" of ClusterRole "reader" to ServiceAccount "web/a""#)
    );
    world.check(&account, "get /pods b x", false);
}

#[tokio::test]
async fn a_binding_to_nothing_is_told_in_the_refusal() {
    let world = World::new();
    world.bind("a", "b", ("Role", "none"), json!({"kind": "User", "name": "jane"})).await;
    let (allowed, reason) = world.may(&jane(), "get /pods a x");
    assert_eq!((allowed, &*reason), (false, r#"RBAC: role.rbac.authorization.k8s.io "none" not found"#));
}

#[tokio::test]
async fn masters_may_everything() {
    let world = World::new();
    world.check(&UserInfo::new("x", &["system:masters"]), "delete any/thing a x", true);
}

#[tokio::test]
async fn a_gathering_role_follows_what_it_gathers() {
    let world = World::new();
    let gather = |label: &str| json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "yes"}}]}});
    world.cluster_role("outer", json!({}), gather("outer")).await;
    world.cluster_role("inner", json!({"outer": "yes"}), gather("inner")).await;
    world.bind("", "b", ("ClusterRole", "outer"), json!({"kind": "User", "name": "jane"})).await;
    world.check(&jane(), "get /pods a x", false);
    world.cluster_role("part", json!({"inner": "yes"}), json!({"rules": read_pods()})).await;
    world.check(&jane(), "get /pods a x", true);
    world.cluster_role("part", json!({}), json!({"rules": read_pods()})).await;
    world.check(&jane(), "get /pods a x", false);
    // A circle ends.
    world.cluster_role("inner", json!({"outer": "yes", "inner": "yes"}), gather("inner")).await;
    world.cluster_role("outer", json!({"inner": "yes"}), gather("outer")).await;
    world.check(&jane(), "get /pods a x", false);
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "a"},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "web",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "all"}}]}],
            "volumes": [
                {"name": "s", "secret": {"secretName": "files"}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "ca"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "e", "ephemeral": {"volumeClaimTemplate": {}}},
            ],
        },
    })
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need_and_nothing_else() {
    let world = World::new();
    let node = UserInfo::new("system:node:n1", &["system:nodes", "system:authenticated"]);
    let other = UserInfo::new("system:node:n2", &["system:nodes", "system:authenticated"]);
    world.put("/registry/pods/a/p", pod("p", "n1")).await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "claimRef": {"namespace": "a", "name": "data"},
        "csi": {"driver": "d", "nodeStageSecretRef": {"name": "stage", "namespace": "a"}},
    }});
    world.put("/registry/persistentvolumes/v", volume).await;
    let needed = [
        "get /pods a p",
        "get /secrets a pull",
        "get /secrets a env",
        "watch /secrets a files",
        "get /secrets a stage",
        "get /configmaps a all",
        "list /configmaps a ca",
        "get /persistentvolumeclaims a data",
        "get /persistentvolumeclaims a p-e",
        "get /persistentvolumes - v",
        "create /serviceaccounts/token a web",
        "get /serviceaccounts a web",
    ];
    for ask in needed {
        world.check(&node, ask, true);
        let (allowed, reason) = world.may(&other, ask);
        assert_eq!((allowed, &*reason), (false, "no relationship found between node 'n2' and this object"), "{ask}");
    }
    for ask in
        ["get /secrets a other", "get /secrets b env", "list /secrets a -", "delete /secrets a env", "list /pods - -"]
    {
        world.check(&node, ask, false);
    }
    world.check(&node, "list /pods - - spec.nodeName=n1", true);
    world.check(&node, "list /pods - - spec.nodeName=n2", false);
    world.check(&node, "get /nodes - n1", true);
    world.check(&node, "get /nodes - n2", false);
    world.check(&node, "update coordination.k8s.io/leases kube-node-lease n1", true);
    world.check(&node, "update coordination.k8s.io/leases kube-node-lease n2", false);
    world.check(&node, "list /services - -", true);
    world.check(&node, "list /endpoints - -", false);
    world.delete("/registry/pods/a/p").await;
    for ask in needed {
        world.check(&node, ask, false);
    }
}

#[tokio::test]
async fn a_mirror_pod_gives_its_node_nothing() {
    let world = World::new();
    let node = UserInfo::new("system:node:n1", &["system:nodes"]);
    let mut mirror = pod("m", "n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(mirror.name(), "m");
    world.put("/registry/pods/a/m", mirror.clone()).await;
    world.check(&node, "get /pods a m", true);
    world.check(&node, "get /secrets a env", false);
    assert_eq!(super::reference_in(&mirror), Some("serviceaccounts"));
    assert_eq!(super::reference_in(&json!({"spec": {"volumes": [{"hostPath": {"path": "/"}}]}})), None);
}
