//! RuntimeClass: a pod gets the overhead and the place of the class it names.

use api::amounts::Amounts;
use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::field::Quoted;
use crate::object::{self, as_map};
use crate::pipeline::write;

pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(class) = class_of(request, pod).await? else { return Ok(()) };
            take_overhead(pod, &class).map_err(|why| request.forbid(&why))?;
            take_place(pod, &class).map_err(|why| request.forbid(&why))
        })
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, pod: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let class = class_of(request, pod).await?;
            check_overhead(pod, class.as_ref()).map_err(|why| request.forbid(why))
        })
    }
}

async fn class_of(request: &Request<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let Some(name) = object::at(pod, "spec.runtimeClassName").as_str() else { return Ok(None) };
    let classes = request.core.collection("node.k8s.io", "runtimeclasses")?;
    match write::current(request.core, &classes.key("", name)).await? {
        Some(class) => Ok(Some(class.object)),
        None => Err(request.forbid(&format!("pod rejected: RuntimeClass {} not found", Quoted(name)))),
    }
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn take_overhead(pod: &mut Value, class: &Value) -> Result<(), String> {
    if !class["overhead"].is_object() {
        return Ok(());
    }
    let fixed = Amounts::read(object::at(class, "overhead.podFixed"));
    let own = Amounts::read(object::at(pod, "spec.overhead"));
    if !own.0.is_empty() && own != fixed {
        return Err(MISMATCH.to_owned());
    }
    object::map_mut(pod, "spec").insert("overhead".to_owned(), fixed.to_value());
    Ok(())
}

fn check_overhead(pod: &Value, class: Option<&Value>) -> Result<(), &'static str> {
    let own = object::at(pod, "spec.overhead");
    match class.filter(|class| class["overhead"].is_object()) {
        Some(class) if Amounts::read(object::at(class, "overhead.podFixed")) != Amounts::read(own) => Err(MISMATCH),
        None if own.is_object() => {
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
        }
        _ => Ok(()),
    }
}

fn take_place(pod: &mut Value, class: &Value) -> Result<(), String> {
    let scheduling = &class["scheduling"];
    if !scheduling.is_object() {
        return Ok(());
    }
    let spec = object::map_mut(pod, "spec");
    if let Some(wanted) = scheduling["nodeSelector"].as_object().filter(|wanted| !wanted.is_empty()) {
        let selector = as_map(spec.entry("nodeSelector").or_insert(Value::Null));
        for (key, value) in wanted {
            if let Some(own) = selector.get(key).filter(|own| *own != value) {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(own)
                ));
            }
            selector.insert(key.clone(), value.clone());
        }
    }
    let wanted = scheduling["tolerations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if wanted.is_empty() {
        return Ok(());
    }
    let own = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    spec.insert("tolerations".to_owned(), merge(own.iter().chain(wanted)).into());
    Ok(())
}

/// All tolerations but those that another covers; of equals the later stays.
fn merge<'a>(tolerations: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let all: Vec<&Value> = tolerations.collect();
    let mut merged: Vec<Value> = Vec::new();
    'next: for (index, toleration) in all.iter().enumerate() {
        for other in &merged {
            if covers(other, toleration) {
                continue 'next;
            }
        }
        for other in all.get(index + 1..).unwrap_or_default() {
            if covers(other, toleration) {
                continue 'next;
            }
        }
        merged.push((*toleration).clone());
    }
    merged
}

/// True if whatever `one` tolerates `other` tolerates too.
fn covers(other: &Value, one: &Value) -> bool {
    if other == one {
        return true;
    }
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (key, effect) = (text(other, "key"), text(other, "effect"));
    if key != text(one, "key") && !key.is_empty() || effect != text(one, "effect") && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute" {
        match (other["tolerationSeconds"].as_i64(), one["tolerationSeconds"].as_i64()) {
            (Some(_), None) => return false,
            (Some(other), Some(one)) if other < one => return false,
            _ => {}
        }
    }
    match text(other, "operator").as_str() {
        "Equal" | "" => text(one, "operator") != "Exists" && text(other, "value") == text(one, "value"),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_overhead_is_the_classs_or_the_pod_is_refused() {
        let class = json!({"overhead": {"podFixed": {"cpu": "100m"}}});
        let mut pod = json!({"spec": {}});
        take_overhead(&mut pod, &class).unwrap();
        assert_eq!(pod, json!({"spec": {"overhead": {"cpu": "100m"}}}));
        assert_eq!(check_overhead(&pod, Some(&class)), Ok(()));
        assert!(check_overhead(&pod, None).unwrap_err().contains("without corresponding"));
        pod["spec"]["overhead"] = json!({"cpu": "1"});
        assert_eq!(take_overhead(&mut pod, &class).unwrap_err(), MISMATCH);
    }

    #[test]
    fn the_place_is_joined_and_contradictions_are_refused() {
        let class =
            json!({"scheduling": {"nodeSelector": {"a": "1"}, "tolerations": [{"key": "t", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {"nodeSelector": {"b": "2"}, "tolerations": [{"key": "t", "value": "x"}]}});
        take_place(&mut pod, &class).unwrap();
        assert_eq!(pod["spec"]["nodeSelector"], json!({"a": "1", "b": "2"}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "t", "operator": "Exists"}]));
        pod["spec"]["nodeSelector"]["a"] = "9".into();
        assert_eq!(
            take_place(&mut pod, &class).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[a] = 1; pod.spec.nodeSelector[a] = 9"
        );
    }
}
