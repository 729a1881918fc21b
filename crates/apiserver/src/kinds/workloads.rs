//! Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets
//! (`pkg/apis/apps/v1/defaults.go`, upstream 1.36).

use serde_json::{Value, json};

use super::pod::defaults;
use super::storage;
use crate::object::{self, Meta, as_map, default, default_text, map_mut};

type Columns = &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)];

fn template(object: &mut Value) {
    let spec = map_mut(object, "spec");
    defaults::template(spec.entry("template").or_insert(Value::Null));
}

fn number(object: &Value, path: &str) -> i64 {
    object::at(object, path).as_i64().unwrap_or(0)
}

pub(super) fn deployment(object: &mut Value) {
    template(object);
    let spec = map_mut(object, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    let strategy = as_map(spec.entry("strategy").or_insert(Value::Null));
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
}

pub(super) fn replica_set(object: &mut Value) {
    template(object);
    default(map_mut(object, "spec"), "replicas", 1);
}

pub(super) fn replication_controller(object: &mut Value) {
    let labels = object::at(object, "spec.template.metadata.labels").clone();
    template(object);
    let spec = map_mut(object, "spec");
    default(spec, "replicas", 1);
    if labels.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if empty(spec.get("selector")) {
        spec.insert("selector".to_owned(), labels.clone());
    }
    if empty(Some(object.meta("labels"))) {
        object::set_meta(object, "labels", labels);
    }
}

pub(super) fn stateful_set(object: &mut Value) {
    template(object);
    let spec = map_mut(object, "spec");
    default_text(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    let strategy = as_map(spec.entry("updateStrategy").or_insert(Value::Null));
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
        default(rolling, "partition", 0);
    }
    let retention = as_map(spec.entry("persistentVolumeClaimRetentionPolicy").or_insert(Value::Null));
    default_text(retention, "whenDeleted", "Retain");
    default_text(retention, "whenScaled", "Retain");
    for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        let map = as_map(claim);
        default_text(map, "apiVersion", "v1");
        default_text(map, "kind", "PersistentVolumeClaim");
        storage::claim(claim);
        default_text(map_mut(claim, "status"), "phase", "Pending");
    }
}

pub(super) fn daemon_set(object: &mut Value) {
    template(object);
    let spec = map_mut(object, "spec");
    default(spec, "revisionHistoryLimit", 10);
    let strategy = as_map(spec.entry("updateStrategy").or_insert_with(|| json!({})));
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
}

fn containers(object: &Value) -> Value {
    let names = object::items(object, "spec.template.spec.containers").iter().filter_map(|one| one["name"].as_str());
    names.collect::<Vec<_>>().join(",").into()
}

fn images(object: &Value) -> Value {
    let images = object::items(object, "spec.template.spec.containers").iter().filter_map(|one| one["image"].as_str());
    images.collect::<Vec<_>>().join(",").into()
}

fn selector(object: &Value) -> Value {
    let selector = object::at(object, "spec.selector");
    let parsed = if object["kind"] == "ReplicationController" {
        Ok(api::selector::Selector::from_value_map(selector))
    } else {
        api::selector::Selector::from_value(selector)
    };
    let text = parsed.map(|selector| selector.to_string()).unwrap_or_default();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn ready_of(object: &Value, ready: &str, wanted: &str) -> Value {
    format!("{}/{}", number(object, ready), number(object, wanted)).into()
}

pub(super) const DEPLOYMENT_COLUMNS: Columns = &[
    ("Ready", "string", 0, |object| ready_of(object, "status.readyReplicas", "spec.replicas")),
    ("Up-to-date", "string", 0, |object| number(object, "status.updatedReplicas").into()),
    ("Available", "string", 0, |object| number(object, "status.availableReplicas").into()),
    ("Containers", "string", 1, containers),
    ("Images", "string", 1, images),
    ("Selector", "string", 1, selector),
];

pub(super) const REPLICA_COLUMNS: Columns = &[
    ("Desired", "integer", 0, |object| number(object, "spec.replicas").into()),
    ("Current", "integer", 0, |object| number(object, "status.replicas").into()),
    ("Ready", "integer", 0, |object| number(object, "status.readyReplicas").into()),
    ("Containers", "string", 1, containers),
    ("Images", "string", 1, images),
    ("Selector", "string", 1, selector),
];

pub(super) const STATEFUL_COLUMNS: Columns = &[
    ("Ready", "string", 0, |object| ready_of(object, "status.readyReplicas", "spec.replicas")),
    ("Containers", "string", 1, containers),
    ("Images", "string", 1, images),
];

pub(super) const DAEMON_COLUMNS: Columns = &[
    ("Desired", "integer", 0, |object| number(object, "status.desiredNumberScheduled").into()),
    ("Current", "integer", 0, |object| number(object, "status.currentNumberScheduled").into()),
    ("Ready", "integer", 0, |object| number(object, "status.numberReady").into()),
    ("Up-to-date", "integer", 0, |object| number(object, "status.updatedNumberScheduled").into()),
    ("Available", "integer", 0, |object| number(object, "status.numberAvailable").into()),
    ("Node Selector", "string", 0, |object| {
        let selector = object::at(object, "spec.template.spec.nodeSelector");
        let text = api::selector::Selector::from_value_map(selector).to_string();
        if text.is_empty() { "<none>".into() } else { text.into() }
    }),
    ("Containers", "string", 1, containers),
    ("Images", "string", 1, images),
    ("Selector", "string", 1, selector),
];
