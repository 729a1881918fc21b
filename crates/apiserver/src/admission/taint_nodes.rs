//! TaintNodesByCondition: a new node takes no pods before it is ready, however
//! late the controller is that would taint it.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::object;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "nodes")
    }

    fn mutate<'a>(&'a self, _request: &'a mut Request<'_>, node: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            taint(node);
            Ok(())
        })
    }
}

fn taint(node: &mut Value) {
    let has = |taint: &Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
    if object::items(node, "spec.taints").iter().any(has) {
        return;
    }
    let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
    object::list_mut(object::map_mut(node, "spec"), "taints").push(taint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taint_is_there_once() {
        let mut node = json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}});
        taint(&mut node);
        taint(&mut node);
        let expected = json!([{"key": "a", "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(node["spec"]["taints"], expected);
    }
}
