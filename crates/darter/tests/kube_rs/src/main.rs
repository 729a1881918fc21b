//! kube-rs as its users use it: typed and dynamic calls, a watcher, the patch
//! types, a custom resource, leader election by Lease and exec. Prints
//! `passed` at its end; a failure is a panic that says what was expected.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, AttachParams, DeleteParams, DynamicObject, GroupVersionKind, ListParams, LogParams, Patch,
    PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NAMESPACE: &str = "default";
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let path = std::env::args().nth(1).expect("a kubeconfig");
    let file = kube::config::Kubeconfig::read_from(path).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &Default::default()).await.expect("a usable kubeconfig");
    let client = Client::try_from(config).expect("a client");
    let steps = async {
        creates_patches_and_watches(&client).await;
        works_on_kinds_found_by_discovery(&client).await;
        defines_a_kind_of_its_own(&client).await;
        elects(&client).await;
        executes(&client).await;
    };
    tokio::time::timeout(4 * LIMIT, steps).await.expect("all steps in time");
    println!("passed");
}

async fn creates_patches_and_watches(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let version =
        maps.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a version");
    let mut map = ConfigMap { data: Some(BTreeMap::from([("a".into(), "1".into())])), ..ConfigMap::default() };
    map.metadata.name = Some("from-rust".into());
    map.metadata.labels = Some(BTreeMap::from([("from".into(), "rust".into())]));
    // The runtime's watcher lists first and then follows.
    let selected = watcher::Config::default().labels("from=rust");
    let mut objects = watcher(maps.clone(), selected).applied_objects().boxed();

    let created = maps.create(&PostParams::default(), &map).await.expect("created");
    let again = maps.create(&PostParams::default(), &map).await.expect_err("it is there already");
    assert!(
        matches!(&again, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists"),
        "{again}"
    );
    let merged = maps.patch("from-rust", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "2"}}))).await;
    assert_eq!(merged.expect("merged").data.expect("data").len(), 2);
    let strategic = Patch::Strategic(json!({"metadata": {"annotations": {"x": "y"}}}));
    let patched = maps.patch("from-rust", &PatchParams::default(), &strategic).await.expect("patched");
    assert_eq!(patched.annotations()["x"], "y");
    let apply = PatchParams::apply("kube-rs").force();
    let wanted =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "from-rust"}, "data": {"a": "3"}});
    let applied = maps.patch("from-rust", &apply, &Patch::Apply(&wanted)).await.expect("applied");
    assert_eq!(applied.data.as_ref().expect("data")["a"], "3");
    assert!(applied.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some("kube-rs")));
    let mut stale = created;
    stale.data = None;
    let conflict = maps.replace("from-rust", &PostParams::default(), &stale).await.expect_err("an old version");
    assert!(matches!(&conflict, kube::Error::Api(status) if status.reason == "Conflict"), "{conflict}");
    let bytes = loop {
        let seen = objects.next().await.expect("the watcher goes on").expect("an object");
        if seen.resource_version() == applied.resource_version() {
            break seen.data.expect("data");
        }
    };
    assert_eq!(bytes["a"], "3");
    maps.delete("from-rust", &DeleteParams::default()).await.expect("deleted");

    // A plain watch from before the first change shows each change once.
    let params = WatchParams::default().labels("from=rust").timeout(20);
    let mut events = maps.watch(&params, &version).await.expect("a watch").boxed();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&"deleted") {
        match events.next().await.expect("events").expect("an event") {
            WatchEvent::Added(_) => kinds.push("added"),
            WatchEvent::Modified(_) => kinds.push("modified"),
            WatchEvent::Deleted(_) => kinds.push("deleted"),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    assert_eq!(kinds, ["added", "modified", "modified", "modified", "deleted"]);
    let gone = maps.get_opt("from-rust").await.expect("an answer");
    assert!(gone.is_none());
}

async fn works_on_kinds_found_by_discovery(client: &Client) {
    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, capabilities) = kube::discovery::pinned_kind(client, &kind).await.expect("it is served");
    assert_eq!((resource.plural.as_str(), capabilities.scope), ("deployments", kube::discovery::Scope::Namespaced));
    let all = kube::Discovery::new(client.clone()).run().await.expect("discovery");
    assert!(all.groups().any(|group| group.name() == "rbac.authorization.k8s.io"));
    assert_eq!(resource, ApiResource::erase::<Deployment>(&()));
    let deployments: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let manifest = json!({
        "replicas": 0,
        "selector": {"matchLabels": {"app": "dynamic-rust"}},
        "template": {
            "metadata": {"labels": {"app": "dynamic-rust"}},
            "spec": {"containers": [{"name": "c", "image": "test.local/busybox:1"}]},
        },
    });
    let object = DynamicObject::new("dynamic-rust", &resource).data(json!({"spec": manifest}));
    deployments.create(&PostParams::default(), &object).await.expect("created");
    let more = Patch::Merge(json!({"spec": {"replicas": 1}}));
    let scaled = deployments.patch_scale("dynamic-rust", &PatchParams::default(), &more).await.expect("scaled");
    assert_eq!(scaled.spec.expect("a scale").replicas, Some(1));
    let typed: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let complete = await_condition(typed, "dynamic-rust", conditions::is_deployment_completed());
    tokio::time::timeout(LIMIT, complete).await.expect("in time").expect("watched");
    deployments.delete("dynamic-rust", &DeleteParams::foreground()).await.expect("deleted");
}

#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, JsonSchema)]
#[kube(group = "tests.darter.dev", version = "v1", kind = "Wish", namespaced, status = "WishStatus", shortname = "wi")]
struct WishSpec {
    /// At most ten.
    #[schemars(range(min = 1, max = 10))]
    count: i64,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, JsonSchema)]
struct WishStatus {
    granted: bool,
}

async fn defines_a_kind_of_its_own(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("kube-rs");
    definitions.patch(Wish::crd_name(), &apply, &Patch::Apply(Wish::crd())).await.expect("defined");
    let established = await_condition(definitions.clone(), Wish::crd_name(), conditions::is_crd_established());
    tokio::time::timeout(LIMIT, established).await.expect("in time").expect("watched");
    let wishes: Api<Wish> = Api::namespaced(client.clone(), NAMESPACE);
    let wish = Wish::new("one", WishSpec { count: 3, note: None });
    wishes.create(&PostParams::default(), &wish).await.expect("created");
    let greedy = Wish::new("greedy", WishSpec { count: 11, note: None });
    let refused = wishes.create(&PostParams::default(), &greedy).await.expect_err("eleven is too many");
    assert!(matches!(&refused, kube::Error::Api(status) if status.reason == "Invalid"), "{refused}");
    let status = Patch::Merge(json!({"status": {"granted": true}}));
    let granted = wishes.patch_status("one", &PatchParams::default(), &status).await.expect("granted");
    assert!(granted.status.expect("a status").granted);
    definitions.delete(Wish::crd_name(), &DeleteParams::default()).await.expect("deleted");
    let deleted = await_condition(definitions, Wish::crd_name(), conditions::is_deleted(""));
    tokio::time::timeout(LIMIT, deleted).await.expect("in time").expect("watched");
}

/// kube-rs has no election; its users write this loop. A candidate takes a
/// lease that is free or expired, under the version that it read.
async fn elects(client: &Client) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(try_to_lead(&leases, "first", 1).await, "the first candidate leads");
    assert!(!try_to_lead(&leases, "second", 1).await, "the second one waits");
    assert!(try_to_lead(&leases, "first", 1).await, "the leader renews");
    let started = tokio::time::Instant::now();
    while !try_to_lead(&leases, "second", 1).await {
        assert!(started.elapsed() < LIMIT, "the lease never expired");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(900), "the second one led before the lease expired");
    assert!(!try_to_lead(&leases, "first", 1).await, "there is one leader");
    // Two that read the same version: one of them writes.
    let read = leases.get("rust-leader").await.expect("a lease");
    let both = [claim(&read, "third", 1), claim(&read, "fourth", 1)];
    let (third, fourth) = futures::join!(
        leases.replace("rust-leader", &PostParams { dry_run: false, field_manager: None }, &both[0]),
        leases.replace("rust-leader", &PostParams { dry_run: false, field_manager: None }, &both[1])
    );
    assert!(third.is_ok() != fourth.is_ok(), "{third:?} {fourth:?}");
}

async fn try_to_lead(leases: &Api<Lease>, candidate: &str, seconds: i32) -> bool {
    let Some(lease) = leases.get_opt("rust-leader").await.expect("an answer") else {
        let mut lease = claim(&Lease::default(), candidate, seconds);
        lease.metadata.name = Some("rust-leader".into());
        return leases.create(&PostParams::default(), &lease).await.is_ok();
    };
    let spec = lease.spec.as_ref().expect("a spec");
    let renewed = spec.renew_time.as_ref().expect("a time").0;
    let expires = renewed + Duration::from_secs(spec.lease_duration_seconds.expect("a length").unsigned_abs().into());
    let ours = spec.holder_identity.as_deref() == Some(candidate);
    if !ours && expires > k8s_openapi::jiff::Timestamp::now() {
        return false;
    }
    leases.replace("rust-leader", &PostParams::default(), &claim(&lease, candidate, seconds)).await.is_ok()
}

fn claim(lease: &Lease, candidate: &str, seconds: i32) -> Lease {
    let mut lease = lease.clone();
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(candidate.into());
    spec.lease_duration_seconds = Some(seconds);
    let now = k8s_openapi::jiff::Timestamp::now();
    spec.renew_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(now));
    lease
}

async fn executes(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "rust-exec"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": "test.local/busybox:1", "command": ["sh", "-c", "echo started; sleep 1000"],
        }]},
    }))
    .expect("a pod");
    pods.create(&PostParams::default(), &pod).await.expect("created");
    let running = await_condition(pods.clone(), "rust-exec", conditions::is_pod_running());
    tokio::time::timeout(LIMIT, running).await.expect("in time").expect("watched");
    let plain = AttachParams::default().stderr(false);
    let mut process = pods.exec("rust-exec", ["echo", "from inside"], &plain).await.expect("started");
    let mut said = String::new();
    process.stdout().expect("asked for").read_to_string(&mut said).await.expect("read");
    assert_eq!(said, "from inside\n");
    let status = process.take_status().expect("asked for").await.expect("a status");
    assert_eq!(status.status.as_deref(), Some("Success"));
    process.join().await.expect("closed");

    let both_ways = AttachParams::default().stdin(true).stderr(false);
    let mut process = pods.exec("rust-exec", ["head", "-c", "5"], &both_ways).await.expect("started");
    process.stdin().expect("asked for").write_all(b"there").await.expect("written");
    let mut said = String::new();
    process.stdout().expect("asked for").read_to_string(&mut said).await.expect("read");
    assert_eq!(said, "there");

    let mut process = pods.exec("rust-exec", ["sh", "-c", "exit 7"], &plain).await.expect("started");
    let status = process.take_status().expect("asked for").await.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
    let log = pods.logs("rust-exec", &LogParams::default()).await.expect("a log");
    assert_eq!(log, "started\n");
    let uid = pods.get("rust-exec").await.expect("a pod").meta().uid.clone().expect("a uid");
    pods.delete("rust-exec", &DeleteParams::default()).await.expect("deleted");
    let gone = await_condition(pods, "rust-exec", conditions::is_deleted(&uid));
    tokio::time::timeout(LIMIT, gone).await.expect("in time").expect("watched");
}
