//! `metrics.k8s.io/v1beta1`: what nodes and pods use, measured by their node
//! agents when somebody asks. Keeps only the last CPU readings, to tell rates;
//! it samples nothing by itself.
//!
//! Rates are told over 15 s or longer. Who looks more often and wants to see a
//! change sooner asks with `window=1s` or more, a parameter that other servers
//! of this API do not know and ignore.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use api::gvk::{GroupResource, GroupVersion, GroupVersionKind};
use api::schema::Schema;
use api::selector::{FieldSelector, Selector};
use api::status::Status;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, Method, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::kinds_table::{Kind, SchemaRef};
use crate::object::{self, Meta};
use crate::pipeline::body::ResponseBody;
use crate::pipeline::negotiate;
use crate::pipeline::{render, write};
use crate::request_info::{Query, RequestInfo};
use crate::state::Core;
use crate::subresources::summary;

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// Node agents asked at a time.
const NODES_AT_ONCE: usize = 16;
/// The window of rates unless a shorter one is asked for; no reading is kept
/// that is older than the newest of this age.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(15);
/// Two readings closer than this tell no rate, and only one of them is kept.
const SHORTEST_WINDOW: SignedDuration = SignedDuration::from_secs(1);
/// Nodes and containers whose CPU readings are kept; past it all are forgotten,
/// and rates are told since the containers' starts. Of each there are at most as
/// many as shortest windows in the resolution, and two.
const READINGS_LIMIT: usize = 200_000;

/// The last CPU readings, by what was read.
#[derive(Default)]
pub(crate) struct Readings {
    /// From the oldest to the newest.
    seen: Mutex<HashMap<String, VecDeque<Reading>>>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Timestamp,
    /// Cumulative CPU time, nanoseconds.
    cpu: u64,
}

/// CPU use over a time.
#[derive(Clone, Copy)]
struct Rate {
    /// Nanoseconds per second.
    nanocores: u64,
    window: SignedDuration,
}

impl Readings {
    /// The rate since the newest reading that is `window` old or older, else
    /// since the oldest one, or since `started` if there is none.
    fn rate(&self, key: &str, now: Reading, started: Timestamp, window: SignedDuration) -> Option<Rate> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= READINGS_LIMIT && !seen.contains_key(key) {
            seen.clear();
        }
        let past = seen.entry(key.to_owned()).or_default();
        // A smaller counter is another container's of the same name.
        if past.back().is_some_and(|last| last.cpu > now.cpu || last.at < started) {
            past.clear();
        }
        let age = |reading: &Reading| now.at.duration_since(reading.at);
        let old_enough = past.iter().rev().find(|reading| age(reading) >= window);
        let base = old_enough.or(past.front()).filter(|reading| age(reading) >= SHORTEST_WINDOW).copied();
        if past.back().is_none_or(|last| age(last) >= SHORTEST_WINDOW) {
            past.push_back(now);
        }
        while past.get(1).is_some_and(|second| age(second) >= RESOLUTION) {
            past.pop_front();
        }
        let base = base.unwrap_or(Reading { at: started, cpu: 0 });
        let window = age(&base);
        let nanoseconds = u64::try_from(window.as_nanos()).ok().filter(|ns| *ns > 0)?;
        let used = u128::from(now.cpu - base.cpu) * 1_000_000_000 / u128::from(nanoseconds);
        Some(Rate { nanocores: u64::try_from(used).ok()?, window })
    }
}

/// The kinds as discovery shows them.
pub(crate) fn kinds() -> Vec<Arc<Kind>> {
    let group_version = GroupVersion { group: GROUP.to_owned(), version: VERSION.to_owned() };
    let kind = |resource: &'static str, kind: &'static str, list: &'static str, namespaced| {
        Arc::new(Kind {
            gvk: GroupVersionKind { group_version: group_version.clone(), kind: kind.to_owned() },
            resource: resource.into(),
            singular: "".into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced,
            verbs: vec!["get".into(), "list".into()],
            subresources: Vec::new(),
            list_kind: list.into(),
            storage_version: group_version.clone(),
            storage_prefix: "".into(),
            storage_hash: "".into(),
            schema: SchemaRef::Custom(Arc::new(Schema::default())),
            definition: "".into(),
            published: None,
        })
    };
    vec![kind("nodes", "NodeMetrics", "NodeMetricsList", false), kind("pods", "PodMetrics", "PodMetricsList", true)]
}

/// What a request asks for.
struct Wanted<'a> {
    info: &'a RequestInfo,
    labels: Selector,
    fields: FieldSelector,
    /// Of rates.
    window: SignedDuration,
}

impl Wanted<'_> {
    fn takes(&self, object: &Value) -> bool {
        let name = object.name();
        if !self.info.name.is_empty() {
            return name == self.info.name;
        }
        self.labels.matches(object::at(object, "metadata.labels"))
            && self.fields.matches(|field| match field {
                "metadata.name" => name.to_owned(),
                "metadata.namespace" => object.namespace().to_owned(),
                _ => String::new(),
            })
    }
}

/// Answers a request of the group.
pub(crate) async fn answer(
    core: &Core,
    info: &RequestInfo,
    query: &Query,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<ResponseBody>, Status> {
    let known = info.version == VERSION && matches!(info.resource.as_str(), "nodes" | "pods");
    let namespaced = info.resource == "pods";
    if !known || !info.subresource.is_empty() || (!namespaced && !info.namespace.is_empty()) {
        return Err(Status::no_such_resource());
    }
    if !matches!(info.verb.as_str(), "get" | "list") || *method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    let accept = negotiate::accept(headers, false, false, query.truthy("pretty"))?;
    let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
    let window = query.get("window").map(str::parse::<SignedDuration>).transpose();
    let window = window.map_err(|error| bad(&format!("window: {error}")))?.unwrap_or(RESOLUTION);
    let wanted = Wanted {
        info,
        labels: Selector::parse(query.get("labelSelector").unwrap_or_default()).map_err(|error| bad(&error))?,
        fields: FieldSelector::parse(query.get("fieldSelector").unwrap_or_default()).map_err(|error| bad(&error))?,
        window: window.clamp(SHORTEST_WINDOW, RESOLUTION),
    };
    let items = if namespaced { pods(core, &wanted).await? } else { nodes(core, &wanted).await? };
    let kind = if namespaced { "PodMetrics" } else { "NodeMetrics" };
    let api_version = format!("{GROUP}/{VERSION}");
    let body = if info.name.is_empty() {
        json!({"kind": format!("{kind}List"), "apiVersion": api_version, "metadata": {}, "items": items})
    } else {
        let resource = GroupResource { group: GROUP.to_owned(), resource: info.resource.clone() };
        let name = if namespaced { format!("{}/{}", info.namespace, info.name) } else { info.name.clone() };
        let mut item = items.into_iter().next().ok_or_else(|| Status::not_found(&resource, &name))?;
        item["kind"] = kind.into();
        item["apiVersion"] = api_version.into();
        item
    };
    Ok(render::value(&accept, 200, &body))
}

/// Objects of a core collection that are wanted.
async fn objects(core: &Core, plural: &str, wanted: &Wanted<'_>) -> Result<Vec<Value>, Status> {
    let collection = core.collection("", plural)?;
    let all = write::all(core, &collection, &wanted.info.namespace).await?;
    Ok(all.into_iter().map(|current| current.object).filter(|object| wanted.takes(object)).collect())
}

async fn nodes(core: &Core, wanted: &Wanted<'_>) -> Result<Vec<Value>, Status> {
    let nodes = objects(core, "nodes", wanted).await?;
    let names: Vec<String> = nodes.iter().map(|node| node.name().to_owned()).collect();
    let summaries = summaries(core, names).await;
    let items = nodes.iter().filter_map(|node| {
        let summary = &summaries.get(node.name())?["node"];
        let usage = usage(&core.readings, &format!("node/{}", node.name()), summary, wanted.window)?;
        let mut item = measured(node, usage.at, usage.rate.window);
        item["usage"] = usage.quantities();
        Some(item)
    });
    Ok(items.collect())
}

async fn pods(core: &Core, wanted: &Wanted<'_>) -> Result<Vec<Value>, Status> {
    let mut pods = objects(core, "pods", wanted).await?;
    pods.retain(|pod| object::text(pod, "status.phase") == "Running");
    let mut names: Vec<String> = pods.iter().map(|pod| object::text(pod, "spec.nodeName").to_owned()).collect();
    names.sort();
    names.dedup();
    let summaries = summaries(core, names).await;
    let mut by_uid: HashMap<&str, &Value> = HashMap::new();
    for pod in summaries.values().flat_map(|summary| object::items(summary, "pods")) {
        by_uid.insert(object::text(pod, "podRef.uid"), pod);
    }
    let items = pods.iter().filter_map(|pod| {
        let summary = by_uid.get(pod.uid())?;
        let mut containers = Vec::new();
        let mut times: Option<(Timestamp, SignedDuration)> = None;
        for container in object::items(summary, "containers") {
            let name = container["name"].as_str()?;
            // A pod is told whole or not at all, as a sum would mislead.
            let usage = usage(&core.readings, &format!("{}/{name}", pod.uid()), container, wanted.window)?;
            let (at, window) = times.unwrap_or((usage.at, usage.rate.window));
            times = Some((at.min(usage.at), window.max(usage.rate.window)));
            containers.push(json!({"name": name, "usage": usage.quantities()}));
        }
        let (at, window) = times?;
        let mut item = measured(pod, at, window);
        item["containers"] = containers.into();
        Some(item)
    });
    Ok(items.collect())
}

/// The summaries of these nodes; one that does not answer is left out.
async fn summaries(core: &Core, nodes: Vec<String>) -> HashMap<String, Value> {
    let mut asked = Vec::with_capacity(nodes.len());
    for node in nodes {
        asked.push(ask(core, node).boxed());
    }
    let answers = futures_util::stream::iter(asked).buffer_unordered(NODES_AT_ONCE);
    answers.filter_map(std::future::ready).collect().await
}

async fn ask(core: &Core, node: String) -> Option<(String, Value)> {
    match summary(core, &node).await {
        Ok(summary) => Some((node, summary)),
        Err(status) => {
            tracing::debug!(node, err = status.message, "a node did not tell what it uses");
            None
        }
    }
}

struct Usage {
    at: Timestamp,
    rate: Rate,
    memory: u64,
}

impl Usage {
    fn quantities(&self) -> Value {
        let canonical = |text: String| api::quantity::canonical(&text).unwrap_or(text);
        let memory = if self.memory.is_multiple_of(1024) {
            format!("{}Ki", self.memory / 1024)
        } else {
            self.memory.to_string()
        };
        json!({"cpu": canonical(format!("{}n", self.rate.nanocores)), "memory": canonical(memory)})
    }
}

/// Of a node's or a container's part of a summary.
fn usage(readings: &Readings, key: &str, summary: &Value, window: SignedDuration) -> Option<Usage> {
    let at: Timestamp = object::text(summary, "cpu.time").parse().ok()?;
    let started: Timestamp = summary["startTime"].as_str()?.parse().ok()?;
    let reading = Reading { at, cpu: object::at(summary, "cpu.usageCoreNanoSeconds").as_u64()? };
    let memory = object::at(summary, "memory.workingSetBytes").as_u64()?;
    Some(Usage { at, rate: readings.rate(key, reading, started, window)?, memory })
}

fn measured(object: &Value, at: Timestamp, window: SignedDuration) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), object.name().into());
    if !object.namespace().is_empty() {
        metadata.insert("namespace".to_owned(), object.namespace().into());
    }
    metadata.insert("creationTimestamp".to_owned(), crate::pipeline::call::stamp(Timestamp::now()).into());
    if let Some(labels) = object::at(object, "metadata.labels").as_object().filter(|labels| !labels.is_empty()) {
        metadata.insert("labels".to_owned(), labels.clone().into());
    }
    json!({
        "metadata": metadata,
        "timestamp": crate::pipeline::call::stamp(at),
        "window": api::time::format_duration(window),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, cpu: u64) -> Reading {
        Reading { at: Timestamp::from_second(1_000_000 + seconds).unwrap(), cpu }
    }

    #[test]
    fn a_rate_is_told_since_the_start_and_then_since_a_reading_that_is_old_enough() {
        let readings = Readings::default();
        let started = at(0, 0).at;
        let rate = |seconds, cpu, window| {
            let rate = readings.rate("a", at(seconds, cpu), started, SignedDuration::from_secs(window)).unwrap();
            (rate.nanocores, rate.window.as_secs())
        };
        assert_eq!(rate(10, 5_000_000_000, 15), (500_000_000, 10));
        // Within the same second: the base is the start again.
        assert_eq!(rate(10, 5_000_000_000, 15), (500_000_000, 10));
        assert_eq!(rate(20, 6_000_000_000, 15), (100_000_000, 10));
        assert_eq!(rate(26, 7_600_000_000, 15), (162_500_000, 16));
        // The one at 10 s is still the newest that is old enough,
        assert_eq!(rate(28, 9_600_000_000, 15), (255_555_555, 18));
        // unless less is asked for.
        assert_eq!(rate(28, 9_600_000_000, 1), (1_000_000_000, 2));
        assert_eq!(rate(28, 9_600_000_000, 5), (450_000_000, 8));
    }

    #[test]
    fn readings_are_kept_no_longer_and_no_closer_than_they_are_used() {
        let readings = Readings::default();
        for tenth in 0..1000_u64 {
            let at = Timestamp::from_millisecond(1_000_000_000 + 100 * tenth as i64).unwrap();
            let reading = Reading { at, cpu: tenth };
            readings.rate("a", reading, Timestamp::UNIX_EPOCH, SHORTEST_WINDOW);
        }
        let kept = readings.seen.lock().unwrap()["a"].len();
        assert!((15..=17).contains(&kept), "{kept}");
    }

    #[test]
    fn a_new_container_of_the_same_name_begins_anew() {
        let readings = Readings::default();
        readings.rate("a", at(100, 50_000_000_000), at(0, 0).at, RESOLUTION);
        let rate = readings.rate("a", at(130, 2_000_000_000), at(120, 0).at, RESOLUTION).unwrap();
        assert_eq!((rate.nanocores, rate.window.as_secs()), (200_000_000, 10));
    }

    #[test]
    fn nothing_is_told_over_no_time() {
        assert!(Readings::default().rate("a", at(0, 1), at(0, 0).at, RESOLUTION).is_none());
    }
}
