//! DefaultTolerationSeconds: pods stay five minutes on a node that became
//! unreachable or not ready, unless they say otherwise.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::object;

/// Seconds a pod stays.
const SECONDS: u32 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.is("", "pods")
    }

    fn mutate<'a>(&'a self, _request: &'a mut Request<'_>, pod: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let tolerations = object::items(pod, "spec.tolerations");
            let text = |toleration: &Value, field: &str| {
                toleration.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let tolerated = |taint: &str| {
                tolerations.iter().any(|toleration| {
                    let key = text(toleration, "key");
                    let effect = text(toleration, "effect");
                    (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
                })
            };
            let missing: Vec<Value> = TAINTS
                .iter()
                .filter(|taint| !tolerated(taint))
                .map(|taint| {
                    json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS})
                })
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            let spec = object::map_mut(pod, "spec");
            match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
                Some(list) => list.extend(missing),
                None => {
                    spec.insert("tolerations".to_owned(), missing.into());
                }
            }
            Ok(())
        })
    }
}
