//! Metrics APIs for tests, in front of an API server: a transport that answers
//! their paths itself. What is not set is not served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::transport::{Body, Transport, TransportError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use testkit::InProcess;

/// What is measured. Cloning shares it.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    custom: bool,
    /// Of every pod there is.
    cpu: Option<String>,
    pods: Vec<String>,
    objects: BTreeMap<String, String>,
    external: BTreeMap<String, String>,
    refusals: Vec<(u16, &'static str, &'static str)>,
}

impl Metrics {
    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.0.lock().unwrap());
    }

    /// Pods that are measured.
    pub fn pods(&self, names: Vec<String>) {
        self.change(|table| table.pods = names);
    }

    /// Every pod uses this much CPU.
    pub fn cpu(&self, amount: &str) {
        self.change(|table| table.cpu = Some(amount.to_owned()));
    }

    /// Serves the custom metrics API.
    pub fn serve_custom(&self) {
        self.change(|table| table.custom = true);
    }

    /// A metric of an object of this qualified resource.
    pub fn object(&self, resource: &str, name: &str, metric: &str, amount: &str) {
        self.change(|table| drop(table.objects.insert(format!("{resource}/{name}/{metric}"), amount.to_owned())));
    }

    /// An external metric of two series with this much each half.
    pub fn external(&self, metric: &str, amount: &str) {
        self.change(|table| drop(table.external.insert(metric.to_owned(), amount.to_owned())));
    }

    /// The next writes of a scale are refused.
    pub fn refuse_scale(&self, code: u16, reason: &'static str, message: &'static str, times: usize) {
        self.change(|table| table.refusals = vec![(code, reason, message); times]);
    }

    fn answer(&self, method: &str, path: &str) -> Option<(u16, Value)> {
        let mut table = self.0.lock().unwrap();
        let path = path.split('?').next().unwrap();
        let now = jiff::Timestamp::now().to_string();
        if method == "PUT" && path.ends_with("/scale") {
            let (code, reason, message) = table.refusals.pop()?;
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "code": code, "reason": reason, "message": message});
            return Some((code, status));
        }
        if let Some(rest) = path.strip_prefix("/apis/external.metrics.k8s.io/v1beta1/namespaces/default/") {
            let value = table.external.get(rest)?;
            let item = json!({"metricName": rest, "metricLabels": {}, "timestamp": now, "value": value});
            return Some((200, json!({"kind": "ExternalMetricValueList", "metadata": {}, "items": [item]})));
        }
        if path == "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods" {
            let cpu = table.cpu.as_ref()?;
            let pod = |name: &String| {
                json!({"metadata": {"name": name}, "timestamp": now, "window": "10s",
                    "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": "1Mi"}}]})
            };
            let items: Vec<Value> = table.pods.iter().map(pod).collect();
            return Some((200, json!({"kind": "PodMetricsList", "metadata": {}, "items": items})));
        }
        if !table.custom {
            return None;
        }
        if path == "/apis/custom.metrics.k8s.io" {
            let version =
                |version: &str| json!({"groupVersion": format!("custom.metrics.k8s.io/{version}"), "version": version});
            let group = json!({"kind": "APIGroup", "name": "custom.metrics.k8s.io", "preferredVersion": version("v1"),
                "versions": [version("v1"), version("v1beta2")]});
            return Some((200, group));
        }
        let rest = path.strip_prefix("/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/")?;
        let value = table.objects.get(rest)?;
        let name = rest.split('/').nth(1)?;
        let item = json!({"describedObject": {"name": name}, "metric": {"name": ""}, "timestamp": now, "value": value});
        Some((200, json!({"kind": "MetricValueList", "metadata": {}, "items": [item]})))
    }
}

/// See the module.
pub struct Metered {
    pub inner: InProcess,
    pub metrics: Metrics,
}

impl Transport for Metered {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let Some((code, body)) = self.metrics.answer(request.method().as_str(), &request.uri().to_string()) else {
            return self.inner.send(request);
        };
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        let response = http::Response::builder().status(code).header("content-type", "application/json").body(body);
        std::future::ready(Ok(response.unwrap())).boxed()
    }
}
