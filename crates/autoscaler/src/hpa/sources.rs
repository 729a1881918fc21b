//! Asks the three metrics APIs: `metrics.k8s.io`, `custom.metrics.k8s.io` and
//! `external.metrics.k8s.io`, whoever serves them. Computes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::error::Chain;
use api::quantity::Quantity as Amount;
use api::selector::Selector;
use client::{Client, ClientError};
use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::{ExternalMetricSource, MetricIdentifier, MetricSpec, ObjectMetricSource};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::samples::{Answer, Sample, Samples, Unavailable};
use super::scale::{Mapper, group_of};

const RESOURCE: &str = "metrics.k8s.io";
const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// Versions of the custom metrics API that are understood, best first.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
/// Time that the window of a custom metric has if it does not say.
const CUSTOM_WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// Servers tell CPU over about as long; a shorter window is asked for.
const RESOURCE_WINDOW: SignedDuration = SignedDuration::from_secs(15);
/// A source that takes longer says nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Whom to ask.
#[derive(Clone)]
pub(crate) struct Sources {
    client: Client,
    mapper: Arc<Mapper>,
    /// Over how long CPU shall be told; empty: as the server does.
    window: String,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: ObjectMeta,
    timestamp: Time,
    window: SignedDuration,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, Quantity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Described,
    timestamp: Time,
    window_seconds: Option<i64>,
    value: Quantity,
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: Quantity,
}

fn words(error: &ClientError) -> String {
    Chain(error).to_string()
}

fn milli(quantity: &Quantity) -> Result<i64, Unavailable> {
    let Quantity(text) = quantity;
    text.parse::<Amount>().map(Amount::milli_value).map_err(|error| Unavailable::new(format!("{text:?}: {error}")))
}

fn decode<T: DeserializeOwned>(answer: Value) -> Result<Vec<T>, Unavailable> {
    let list: List<T> = serde_json::from_value(answer).map_err(|error| Unavailable::new(error.to_string()))?;
    Ok(list.items)
}

/// Puts the step before a failure.
fn during(step: &str) -> impl Fn(Unavailable) -> Unavailable {
    move |cause| Unavailable::new(format!("{step}: {cause}"))
}

impl Sources {
    /// `period`: how often they will be asked. A server that knows the parameter
    /// tells CPU over that time if it is a short one; others ignore it.
    pub(crate) fn new(client: Client, mapper: Arc<Mapper>, period: SignedDuration) -> Self {
        let short = period < RESOURCE_WINDOW;
        let window = if short { api::time::format_duration(period) } else { String::new() };
        Self { client, mapper, window }
    }

    /// Asks for each metric, in order. `selector` selects the target's pods.
    pub(crate) async fn ask(&self, namespace: &str, selector: &str, metrics: &[MetricSpec]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(metrics.len());
        // What pods use is one answer for all metrics of it.
        let mut used = None;
        for metric in metrics {
            let answer = if let Some((resource, container)) = resource_of(metric) {
                let used = match &mut used {
                    Some(used) => used,
                    none => none.insert(self.used(namespace, selector).await),
                };
                Answer::Pods(used.as_ref().map_err(Clone::clone).and_then(|used| usage(used, resource, container)))
            } else if let Some(source) = &metric.pods {
                match Selector::from_label_selector(source.metric.selector.as_ref()) {
                    Ok(series) => Answer::Pods(self.pods(namespace, selector, &source.metric, &series).await),
                    Err(_) => Answer::Unasked,
                }
            } else if let Some(source) = &metric.object {
                match Selector::from_label_selector(source.metric.selector.as_ref()) {
                    Ok(series) => Answer::Value(self.object(namespace, source, &series).await),
                    Err(_) => Answer::Unasked,
                }
            } else if let Some(source) = &metric.external {
                match Selector::from_label_selector(source.metric.selector.as_ref()) {
                    Ok(series) => Answer::Values(self.external(namespace, source, &series).await),
                    Err(_) => Answer::Unasked,
                }
            } else {
                Answer::Unasked
            };
            answers.push(answer);
        }
        answers
    }

    async fn get(&self, segments: &[&str], parameters: &[(&str, &str)]) -> Result<Value, Unavailable> {
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.client.get_segments(segments, parameters)).await;
        match answer {
            Ok(answer) => answer.map_err(|error| Unavailable::new(words(&error))),
            Err(_) => Err(Unavailable::new(format!("no answer within {ANSWER_LIMIT:?}"))),
        }
    }

    async fn used(&self, namespace: &str, selector: &str) -> Result<Vec<PodMetrics>, Unavailable> {
        let path = ["apis", RESOURCE, "v1beta1", "namespaces", namespace, "pods"];
        let answer = self.get(&path, &[("labelSelector", selector), ("window", &self.window)]).await;
        let items = answer.and_then(decode::<PodMetrics>);
        let items = items.map_err(during("unable to fetch metrics from resource metrics API"))?;
        if items.is_empty() {
            return Err(Unavailable::new("no metrics returned from resource metrics API"));
        }
        Ok(items)
    }

    /// The version of the custom metrics API that its server prefers.
    async fn custom_version(&self) -> Result<String, Unavailable> {
        let group = match tokio::time::timeout(ANSWER_LIMIT, self.client.get_segments(&["apis", CUSTOM], &[])).await {
            Ok(Ok(group)) => group,
            Ok(Err(error)) if error.is_not_found() => {
                return Err(Unavailable::new(format!("no custom metrics API ({CUSTOM}) registered")));
            }
            Ok(Err(error)) => return Err(Unavailable::new(words(&error))),
            Err(_) => return Err(Unavailable::new(format!("no answer within {ANSWER_LIMIT:?}"))),
        };
        let preferred = group["preferredVersion"]["version"].as_str();
        let others = group["versions"].as_array().into_iter().flatten().filter_map(|one| one["version"].as_str());
        let mut offered = preferred.into_iter().chain(others);
        let found = offered.find(|version| CUSTOM_VERSIONS.contains(version));
        found.map(str::to_owned).ok_or_else(|| Unavailable::new("no known available metric versions found"))
    }

    async fn custom(
        &self,
        place: &[&str],
        metric: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Vec<MetricValue>, Unavailable> {
        let version = self.custom_version().await?;
        let root = ["apis", CUSTOM, version.as_str()];
        decode(self.get(&[&root, place, &[metric]].concat(), parameters).await?)
    }

    async fn pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &MetricIdentifier,
        series: &Selector,
    ) -> Result<Samples, Unavailable> {
        let step = "unable to fetch metrics from custom metrics API";
        let series = series.to_string();
        let parameters = [("labelSelector", selector), ("metricLabelSelector", series.as_str())];
        let place = ["namespaces", namespace, "pods", "*"];
        let items = self.custom(&place, &metric.name, &parameters).await.map_err(during(step))?;
        if items.is_empty() {
            return Err(Unavailable::new("no metrics returned from custom metrics API"));
        }
        let sample = |item: MetricValue| {
            let window = item.window_seconds.map_or(CUSTOM_WINDOW, SignedDuration::from_secs);
            let sample = Sample { at: item.timestamp.0, window, milli: milli(&item.value)? };
            Ok((item.described_object.name, sample))
        };
        items.into_iter().map(sample).collect::<Result<_, _>>().map_err(during(step))
    }

    async fn object(
        &self,
        namespace: &str,
        source: &ObjectMetricSource,
        series: &Selector,
    ) -> Result<i64, Unavailable> {
        let values = self.of_object(namespace, source, series).await;
        values.map_err(during("unable to fetch metrics from custom metrics API"))
    }

    async fn of_object(
        &self,
        namespace: &str,
        source: &ObjectMetricSource,
        series: &Selector,
    ) -> Result<i64, Unavailable> {
        let described = &source.described_object;
        let group = group_of(described.api_version.as_deref().unwrap_or_default()).unwrap_or_default();
        let series = series.to_string();
        let parameters = [("metricLabelSelector", series.as_str())];
        let items = if described.kind == "Namespace" && group.is_empty() {
            // An autoscaler sees its own namespace, whatever the reference names.
            self.custom(&["namespaces", namespace, "metrics"], &source.metric.name, &parameters).await?
        } else {
            let resource = self.mapper.resource(&group, &described.kind).await.map_err(|error| {
                let dot = if group.is_empty() { "" } else { "." };
                Unavailable::new(format!("unable to map kind {}{dot}{group} to resource: {error}", described.kind))
            })?;
            let dot = if group.is_empty() { "" } else { "." };
            let resource = format!("{}{dot}{group}", resource.resource);
            let place = ["namespaces", namespace, resource.as_str(), described.name.as_str()];
            self.custom(&place, &source.metric.name, &parameters).await?
        };
        match items.as_slice() {
            [one] => milli(&one.value),
            many => Err(Unavailable::new(format!(
                "the custom metrics API server returned {} results when we asked for exactly one",
                many.len()
            ))),
        }
    }

    async fn external(
        &self,
        namespace: &str,
        source: &ExternalMetricSource,
        series: &Selector,
    ) -> Result<Vec<i64>, Unavailable> {
        let step = "unable to fetch metrics from external metrics API";
        // client-go takes the name for a resource's and writes it small in the
        // path, so that servers know it by that, but not in its messages.
        let name = source.metric.name.as_str();
        let small = name.to_lowercase();
        let named = |cause: Unavailable| {
            let said = cause.words.replace(&format!("(get {small}.{EXTERNAL})"), &format!("(get {name}.{EXTERNAL})"));
            Unavailable::new(said)
        };
        let path = ["apis", EXTERNAL, "v1beta1", "namespaces", namespace, small.as_str()];
        let series = series.to_string();
        let answer = self.get(&path, &[("labelSelector", series.as_str())]).await.map_err(named);
        let items = answer.and_then(decode::<ExternalValue>).map_err(during(step))?;
        if items.is_empty() {
            return Err(Unavailable::new("no metrics returned from external metrics API"));
        }
        items.iter().map(|item| milli(&item.value)).collect::<Result<_, _>>().map_err(during(step))
    }
}

/// The resource that a metric is of, and the container; empty: of whole pods.
fn resource_of(metric: &MetricSpec) -> Option<(&str, &str)> {
    let whole = metric.resource.as_ref().map(|source| (source.name.as_str(), ""));
    let part = metric.container_resource.as_ref().map(|source| (source.name.as_str(), source.container.as_str()));
    whole.or(part)
}

/// Of a resource, by pod. A pod whose use of it is not told whole is left out.
fn usage(used: &[PodMetrics], resource: &str, container: &str) -> Result<Samples, Unavailable> {
    let mut samples = Samples::new();
    for pod in used {
        let counted = pod.containers.iter().filter(|one| container.is_empty() || one.name == container);
        let amounts: Option<Vec<&Quantity>> = counted.map(|one| one.usage.get(resource)).collect();
        let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) else { continue };
        let mut total = 0_i64;
        for amount in amounts {
            total = total.saturating_add(milli(amount)?);
        }
        let name = pod.metadata.name.clone().unwrap_or_default();
        samples.insert(name, Sample { at: pod.timestamp.0, window: pod.window, milli: total });
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_pods_use_is_told_for_whole_pods_and_for_one_container() {
        let container = |name: &str, usage: Value| json!({"name": name, "usage": usage});
        let pod = |name: &str, containers: Value| {
            json!({"metadata": {"name": name}, "timestamp": "2026-01-02T03:04:05Z", "window": "1m15.5s",
                "containers": containers})
        };
        let list = json!({"items": [
            pod("a", json!([container("web", json!({"cpu": "1500u", "memory": "1Ki"})), container("log", json!({"cpu": "1m"}))])),
            pod("b", json!([container("web", json!({"memory": "3Ki"}))])),
            pod("c", json!([])),
        ]});
        let used: Vec<PodMetrics> = decode(list).unwrap();
        assert_eq!(used[0].window, SignedDuration::from_millis(75_500));
        let told = |resource, container| {
            let samples = usage(&used, resource, container).unwrap();
            samples.into_iter().map(|(pod, sample)| (pod, sample.milli)).collect::<Vec<_>>()
        };
        assert_eq!(told("cpu", ""), [("a".to_owned(), 3)], "parts of a thousandth count as one, and b does not tell");
        assert_eq!(told("memory", ""), [("b".to_owned(), 3_072_000)], "of a one container does not tell");
        assert_eq!(told("memory", "web"), [("a".to_owned(), 1_024_000), ("b".to_owned(), 3_072_000)]);
        assert_eq!(told("cpu", "log"), [("a".to_owned(), 1)]);
    }
}
