//! An API server with an autoscaler, and with a test that plays the rest.

use std::sync::Arc;
use std::time::Duration;

use api::gvk::{GroupVersion, GroupVersionResource};
use apiserver::UserInfo;
use autoscaler::hpa::{Autoscaler, AutoscalerConfig};
use client::{Api, Client, DeleteParams, Patch, WatchEvent, WatchParams};
use futures_util::StreamExt;
use serde_json::{Value, json};
use testkit::TestServer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metered::{Metered, Metrics};

/// Longest wait for something that happens at once unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// The shortest period: what follows from metrics alone.
pub fn quick() -> AutoscalerConfig {
    AutoscalerConfig { sample_period: Duration::from_millis(100), ..AutoscalerConfig::default() }
}

/// A period longer than any test: what follows from events.
pub fn slow() -> AutoscalerConfig {
    AutoscalerConfig { sample_period: Duration::from_secs(3600), ..AutoscalerConfig::default() }
}

pub fn external(name: &str, kind: &str, target: &str) -> Value {
    let field = if kind == "Value" { "value" } else { "averageValue" };
    json!({"type": "External", "external": {"metric": {"name": name}, "target": {"type": kind, field: target}}})
}

/// The condition of this type; null if there is none.
pub fn condition(hpa: &Value, kind: &str) -> Value {
    let mut all = hpa["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

pub struct Cluster {
    pub admin: Client,
    pub metrics: Metrics,
    shutdown: CancellationToken,
    running: std::sync::Mutex<JoinSet<()>>,
    _server: Arc<TestServer>,
}

fn resource(group_version: &str, plural: &str) -> GroupVersionResource {
    let group_version = GroupVersion::parse(group_version).unwrap();
    GroupVersionResource { group_version, resource: plural.to_owned() }
}

impl Cluster {
    pub async fn start(config: AutoscalerConfig) -> Self {
        let server = Arc::new(TestServer::start().await.unwrap());
        let admin = server.client();
        let accounts = admin.dynamic(&resource("v1", "serviceaccounts"), Some("default"));
        accounts
            .create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}))
            .await
            .unwrap();
        let metrics = Metrics::default();
        let name = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
        let inner = server.transport_as(UserInfo::new(name, &["system:authenticated"]));
        let client = Client::new(Metered { inner, metrics: metrics.clone() });
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(Autoscaler::new(client, config).run(shutdown.clone()));
        Self { admin, metrics, shutdown, running: running.into(), _server: server }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        let mut running = self.running.into_inner().unwrap();
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
    }

    fn api(&self, group_version: &str, plural: &str) -> Api<Value> {
        self.admin.dynamic(&resource(group_version, plural), Some("default"))
    }

    fn autoscalers(&self) -> Api<Value> {
        self.api("autoscaling/v2", "horizontalpodautoscalers")
    }

    pub async fn create(&self, group_version: &str, plural: &str, object: Value) {
        self.api(group_version, plural).create(&object).await.unwrap();
    }

    /// A kind with a scale.
    pub async fn define_workers(&self) {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector"}}});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "workers.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "workers", "singular": "worker", "kind": "Worker", "listKind": "WorkerList"},
                "versions": [version]}});
        let definitions = self.admin.dynamic(&resource("apiextensions.k8s.io/v1", "customresourcedefinitions"), None);
        definitions.create(&definition).await.unwrap();
        let established = |definition: &Value| condition(definition, "Established")["status"] == "True";
        until(&definitions, "workers.example.com", established).await;
    }

    /// A Deployment with its pods, which stay as many.
    pub async fn deploy(&self, name: &str, replicas: usize) {
        let labels = json!({"app": name});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "app:1"}]}}}});
        self.create("apps/v1", "deployments", deployment).await;
        let status = Patch::Merge(json!({"status": {"replicas": replicas}}));
        self.api("apps/v1", "deployments").patch_status(name, &status).await.unwrap();
        for number in 0..replicas {
            self.pod(&format!("{name}-{number}"), &format!("app={name}")).await;
        }
    }

    /// A pod that runs and is ready.
    pub async fn pod(&self, name: &str, label: &str) {
        make_pod(&self.api("v1", "pods"), name, label).await;
    }

    /// From now on this object has as many pods as it shall have, and tells so.
    pub async fn play(&self, plural: &str, name: &str, label: &str) {
        let (version, status) = match plural {
            "workers" => ("example.com/v1", None),
            _ => ("apps/v1", Some("status")),
        };
        let (objects, pods, metrics) = (self.api(version, plural), self.api("v1", "pods"), self.metrics.clone());
        let (name, label, shutdown) = (name.to_owned(), label.to_owned(), self.shutdown.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let play = async move {
            let mut changes = Box::pin(objects.watch(&named(&name)).await.unwrap());
            let (mut made, mut sender) = (0, Some(sender));
            while let Some(Ok(event)) = changes.next().await {
                let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else { continue };
                let wanted = object["spec"]["replicas"].as_u64().unwrap() as usize;
                for number in made..wanted {
                    make_pod(&pods, &format!("{name}-{number}"), &label).await;
                }
                for number in wanted..made {
                    let params = DeleteParams { grace: Some(Duration::ZERO), ..DeleteParams::default() };
                    pods.delete(&format!("{name}-{number}"), &params).await.unwrap();
                }
                made = wanted;
                metrics.pods((0..made).map(|number| format!("{name}-{number}")).collect());
                if object["status"]["replicas"].as_u64() != Some(wanted as u64) {
                    let patch = Patch::Merge(json!({"status": {"replicas": wanted}}));
                    match status {
                        Some(_) => objects.patch_status(&name, &patch).await.unwrap(),
                        None => objects.patch(&name, &patch).await.unwrap(),
                    };
                }
                if let Some(sender) = sender.take() {
                    sender.send(()).unwrap();
                }
            }
        };
        self.running.lock().unwrap().spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = play => {}
            }
        });
        receiver.await.unwrap();
    }

    /// An autoscaler of 10 at most, under the name of its target.
    pub async fn autoscale(&self, name: &str, (version, kind): (&str, &str), min: i32, metrics: Value) {
        self.autoscale_target(name, (version, kind, name), min, metrics).await;
    }

    /// The same under a name of its own; the target is version, kind and name.
    pub async fn autoscale_target(&self, name: &str, target: (&str, &str, &str), min: i32, metrics: Value) {
        let (version, kind, target) = target;
        let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name}, "spec": {"minReplicas": min, "maxReplicas": 10, "metrics": metrics,
                "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": target}}});
        self.autoscalers().create(&autoscaler).await.unwrap();
    }

    pub async fn patch(&self, name: &str, patch: Value) {
        self.autoscalers().patch(name, &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn remove(&self, name: &str) {
        self.autoscalers().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// The autoscaler once this holds of it.
    pub async fn until(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        until(&self.autoscalers(), name, holds).await
    }

    /// Waits for an event of this reason and message.
    pub async fn event(&self, reason: &str, message: &str) {
        let mut changes = Box::pin(self.api("v1", "events").watch(&WatchParams::default()).await.unwrap());
        let mut seen = Vec::new();
        let found = async {
            while let Some(Ok(event)) = changes.next().await {
                let (WatchEvent::Added(event) | WatchEvent::Modified(event)) = event else { continue };
                assert_eq!(event["source"]["component"], "horizontal-pod-autoscaler");
                if event["reason"] == reason && event["message"] == message {
                    return;
                }
                seen.push(format!("{}: {}", event["reason"], event["message"]));
            }
        };
        if tokio::time::timeout(PATIENCE, found).await.is_err() {
            panic!("no event {reason}: {message}; seen: {seen:#?}");
        }
    }
}

fn named(name: &str) -> WatchParams {
    WatchParams::fields(format!("metadata.name={name}"))
}

async fn until(api: &Api<Value>, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut changes = Box::pin(api.watch(&named(name)).await.unwrap());
    let mut last = Value::Null;
    let found = async {
        while let Some(event) = changes.next().await {
            let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event.unwrap() else { continue };
            last = object;
            if holds(&last) {
                return true;
            }
        }
        false
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(true) => last,
        _ => panic!("{name} did not come to what was waited for: {last:#}"),
    }
}

async fn make_pod(pods: &Api<Value>, name: &str, label: &str) {
    let (key, value) = label.split_once('=').unwrap();
    let container = json!({"name": "c", "image": "app:1", "resources": {"requests": {"cpu": "100m"}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {key: value}},
        "spec": {"automountServiceAccountToken": false, "containers": [container]}});
    pods.create(&pod).await.unwrap();
    let long_ago = "2026-01-01T00:00:00Z";
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": long_ago});
    let status = json!({"status": {"phase": "Running", "startTime": long_ago, "conditions": [ready]}});
    pods.patch_status(name, &Patch::Merge(status)).await.unwrap();
}
