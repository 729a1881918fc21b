//! HorizontalPodAutoscalers: version 2 is the hub, version 1 knows only CPU and
//! keeps the rest in annotations (`pkg/apis/autoscaling/v1/conversion.go`).

use serde_json::{Value, json};

use crate::object::{self, as_map, default, default_text, map_mut};
use crate::resource::Conversion;

/// Conversion of version 1.
pub(super) const V1: Conversion = Conversion { to_hub: v1_to_v2, from_hub: v2_to_v1 };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const STATUSES: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

pub(super) fn autoscaler(object: &mut Value) {
    let spec = map_mut(object, "spec");
    default(spec, "minReplicas", 1);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("metrics".to_owned(), json!([cpu(80)]));
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else { return };
    let behavior = as_map(behavior);
    let up = as_map(behavior.entry("scaleUp").or_insert(Value::Null));
    default(up, "stabilizationWindowSeconds", 0);
    default_text(up, "selectPolicy", "Max");
    let policies = json!([
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ]);
    default(up, "policies", policies);
    let down = as_map(behavior.entry("scaleDown").or_insert(Value::Null));
    default_text(down, "selectPolicy", "Max");
    default(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
}

fn cpu(percent: i64) -> Value {
    json!({
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
    })
}

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

/// Takes an annotation that holds JSON.
fn take(object: &mut Value, key: &str) -> Option<Value> {
    let annotations = object::metadata(object).get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        object::metadata(object).remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn put(object: &mut Value, key: &str, value: &Value) {
    let annotations = as_map(object::metadata(object).entry("annotations").or_insert(Value::Null));
    annotations.insert(key.to_owned(), value.to_string().into());
}

fn v1_to_v2(object: &mut Value) {
    let kept: Vec<Value> = take(object, METRICS).and_then(|kept| kept.as_array().cloned()).unwrap_or_default();
    let behavior = take(object, BEHAVIOR);
    let statuses: Vec<Value> = take(object, STATUSES).and_then(|kept| kept.as_array().cloned()).unwrap_or_default();
    let conditions = take(object, CONDITIONS);
    let spec = map_mut(object, "spec");
    let target = spec.remove("targetCPUUtilizationPercentage").and_then(|value| value.as_i64());
    let mut metrics = kept;
    if let Some(percent) = target {
        metrics.insert(0, cpu(percent));
    }
    if !metrics.is_empty() {
        spec.insert("metrics".to_owned(), metrics.into());
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".to_owned(), behavior);
    }
    let status = map_mut(object, "status");
    let current = status.remove("currentCPUUtilizationPercentage").and_then(|value| value.as_i64());
    let mut current_metrics = statuses;
    if let Some(percent) = current {
        let metric = json!({
            "type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": percent}},
        });
        current_metrics.insert(0, metric);
    }
    if !current_metrics.is_empty() {
        status.insert("currentMetrics".to_owned(), current_metrics.into());
    }
    if let Some(conditions) = conditions {
        status.insert("conditions".to_owned(), conditions);
    }
    if status.is_empty() {
        as_map(object).remove("status");
    }
}

fn v2_to_v1(object: &mut Value) {
    let spec = map_mut(object, "spec");
    let mut metrics = spec.remove("metrics").and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let behavior = spec.remove("behavior");
    let first =
        metrics.iter().position(|metric| is_cpu(metric) && metric["resource"]["target"]["averageUtilization"].is_i64());
    if let Some(first) = first {
        let metric = metrics.remove(first);
        let percent = metric["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
    }
    let (mut statuses, mut conditions) = (Vec::new(), None);
    if object.get("status").is_some() {
        let status = map_mut(object, "status");
        statuses = status.remove("currentMetrics").and_then(|value| value.as_array().cloned()).unwrap_or_default();
        conditions = status.remove("conditions").filter(|all| all.as_array().is_some_and(|all| !all.is_empty()));
        let current = statuses
            .iter()
            .position(|metric| is_cpu(metric) && metric["resource"]["current"]["averageUtilization"].is_i64());
        if let Some(current) = current {
            let metric = statuses.remove(current);
            let percent = metric["resource"]["current"]["averageUtilization"].clone();
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
    }
    if !metrics.is_empty() {
        put(object, METRICS, &metrics.into());
    }
    if let Some(behavior) = behavior {
        put(object, BEHAVIOR, &behavior);
    }
    if !statuses.is_empty() {
        put(object, STATUSES, &statuses.into());
    }
    if let Some(conditions) = conditions {
        put(object, CONDITIONS, &conditions);
    }
}

type Columns = &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)];

pub(super) const COLUMNS: Columns = &[
    ("Reference", "string", 0, |one| {
        format!("{}/{}", object::text(one, "spec.scaleTargetRef.kind"), object::text(one, "spec.scaleTargetRef.name"))
            .into()
    }),
    ("Targets", "string", 0, targets),
    ("MinPods", "string", 0, |one| match object::at(one, "spec.minReplicas").as_i64() {
        Some(number) => number.to_string().into(),
        None => "<unset>".into(),
    }),
    ("MaxPods", "string", 0, |one| object::at(one, "spec.maxReplicas").clone()),
    ("Replicas", "string", 0, |one| object::at(one, "status.currentReplicas").as_i64().unwrap_or(0).into()),
];

/// Metrics shown at most.
const TARGETS_SHOWN: usize = 2;

/// Metrics with what they are and what they should be (`formatHPAMetrics`,
/// upstream 1.36).
fn targets(one: &Value) -> Value {
    let current = object::items(one, "status.currentMetrics");
    let metrics = object::items(one, "spec.metrics");
    let all: Vec<String> =
        metrics.iter().enumerate().map(|(index, metric)| target(metric, current.get(index))).collect();
    match all.as_slice() {
        [] => "<none>".into(),
        [shown @ .., _] if shown.len() >= TARGETS_SHOWN => {
            let shown = all[..TARGETS_SHOWN].join(", ");
            format!("{shown} + {} more...", all.len() - TARGETS_SHOWN).into()
        }
        all => all.join(", ").into(),
    }
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let field = match metric["type"].as_str() {
        Some("External") => "external",
        Some("Pods") => "pods",
        Some("Object") => "object",
        Some("Resource") => "resource",
        Some("ContainerResource") => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = &metric[field]["target"];
    let is = current.map(|current| &current[field]["current"]);
    let text = |value: &str| is.and_then(|is| is[value].as_str()).unwrap_or("<unknown>").to_owned();
    let amount = |value: &str| wanted[value].as_str().unwrap_or("0").to_owned();
    match (field, wanted["averageValue"].is_string()) {
        ("external" | "object", true) => format!("{}/{} (avg)", text("averageValue"), amount("averageValue")),
        ("external" | "object", false) => format!("{}/{}", text("value"), amount("value")),
        ("pods", _) => format!("{}/{}", text("averageValue"), amount("averageValue")),
        (_, whole) => {
            let name = metric[field]["name"].as_str().unwrap_or_default();
            if whole {
                return format!("{name}: {}/{}", text("averageValue"), amount("averageValue"));
            }
            let percent = |value: &Value| value["averageUtilization"].as_i64().map(|percent| format!("{percent}%"));
            let is = is.and_then(percent).unwrap_or("<unknown>".to_owned());
            format!("{name}: {is}/{}", percent(wanted).unwrap_or("<auto>".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_metrics_are_shown_with_what_they_are_and_should_be() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}});
        let rps = json!({"type": "Object", "object": {"target": {"type": "Value", "value": "100"}}});
        let queue = json!({"type": "External", "external": {"target": {"averageValue": "30"}}});
        let now = json!([{"type": "Resource", "resource": {"current": {"averageUtilization": 80, "averageValue": "8m"}}},
            {"type": ""}, {"type": "External", "external": {"current": {"averageValue": "12500m"}}}]);
        let show = |metrics: Value, now: &Value| {
            targets(&json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": now}}))
        };
        assert_eq!(show(json!([cpu, rps]), &now), "cpu: 80%/50%, <unknown>/100");
        assert_eq!(show(json!([cpu, rps, queue]), &now), "cpu: 80%/50%, <unknown>/100 + 1 more...");
        assert_eq!(show(json!([queue]), &json!([now[2]])), "12500m/30 (avg)");
        assert_eq!(show(json!([cpu]), &Value::Null), "cpu: <unknown>/50%");
        assert_eq!(show(json!([]), &Value::Null), "<none>");
    }
}
