//! Pods.

mod cells;
pub(super) mod defaults;
mod qos;
mod same;
mod update;

use serde_json::{Value, json};

use crate::field::Errors;
use crate::object;
use crate::strategy::{Column, Generation, Part, Strategy, Write};

pub(super) struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        defaults::pod(object);
    }

    fn prepare_create(&self, object: &mut Value, _write: &mut Write<'_>) {
        let class = qos::class(object);
        object::as_map(object).insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
        if !object::items(object, "spec.schedulingGates").is_empty() {
            let gated = json!({
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": null,
            });
            object::map_mut(object, "status").insert("conditions".to_owned(), json!([gated]));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, write: &mut Write<'_>) {
        if write.part == Part::Status {
            // The class is what the pod was made with.
            if let Some(class) = old.get("status").and_then(|status| status.get("qosClass")).cloned() {
                object::map_mut(new, "status").insert("qosClass".to_owned(), class);
            }
            // Who owns the pod is not the node's to say.
            let owners = old.get("metadata").and_then(|metadata| metadata.get("ownerReferences")).cloned();
            match owners {
                Some(owners) => object::metadata(new).insert("ownerReferences".to_owned(), owners),
                None => object::metadata(new).remove("ownerReferences"),
            };
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part, errors: &mut Errors) {
        match part {
            Part::Main => update::main(new, old, errors),
            Part::Other("resize") => update::resize(new, old, errors),
            Part::Status | Part::Other(_) => {}
        }
    }

    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn status_writes_metadata(&self) -> bool {
        true
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn grace(&self, pod: &Value, asked: Option<i64>) -> Option<i64> {
        let own = object::at(pod, "spec.terminationGracePeriodSeconds").as_i64();
        let period = asked.or(own).unwrap_or(30);
        let finished = matches!(object::text(pod, "status.phase"), "Failed" | "Succeeded");
        // Nobody has to stop a pod that runs nowhere.
        if object::text(pod, "spec.nodeName").is_empty() || finished {
            return Some(0);
        }
        Some(if period < 0 { 1 } else { period })
    }

    fn selectable(&self) -> Vec<&str> {
        vec![
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn selectable_value(&self, pod: &Value, field: &str) -> String {
        match field {
            "spec.hostNetwork" => object::at(pod, field).as_bool().unwrap_or(false).to_string(),
            "status.podIP" | "status.podIPs" => {
                let first = object::items(pod, "status.podIPs").first().and_then(|ip| ip["ip"].as_str());
                first.unwrap_or_default().to_owned()
            }
            _ => object::text(pod, field).to_owned(),
        }
    }

    fn columns(&self) -> Vec<Column> {
        cells::columns()
    }

    fn cells(&self, pod: &Value, now: i64) -> Vec<Value> {
        cells::cells(pod, now)
    }
}
