//! PodResize: a pod is not resized beyond what its node could ever give. What
//! others on the node use is the node's concern.

use api::amounts::Amounts;
use api::amounts::pod::pod_requests;
use api::quantity::Written;
use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::field::Quoted;
use crate::object::{self, Meta};
use crate::pipeline::write;

pub(super) struct PodResize;

impl Plugin for PodResize {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is_sub("", "pods", "resize")
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, pod: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let name = object::text(pod, "spec.nodeName");
            let unchanged = request.old.is_some_and(|old| old.generation() == pod.generation());
            if name.is_empty() || unchanged {
                return Ok(());
            }
            let nodes = request.core.collection("", "nodes")?;
            let Some(node) = write::current(request.core, &nodes.key("", name)).await? else {
                return Err(request.forbid(&format!("node {} not found", Quoted(name))));
            };
            let system = node.object.meta("labels").get("kubernetes.io/os").and_then(Value::as_str);
            if let Some(system) = system.filter(|system| *system != "linux") {
                let why =
                    format!("pod resize is only supported on linux nodes, node {} is {}", Quoted(name), Quoted(system));
                return Err(request.forbid(&why));
            }
            let allocatable = Amounts::read(object::at(&node.object, "status.allocatable"));
            let Some(why) = excess(&pod_requests(pod), &allocatable) else { return Ok(()) };
            Err(request.forbid(&format!("node didn't have enough allocatable resources: {why}")))
        })
    }
}

/// What is more than there is: cpu in thousandths, memory in bytes.
fn excess(requests: &Amounts, allocatable: &Amounts) -> Option<String> {
    let units: [(&str, fn(&Written) -> i64); 2] = [("cpu", milli), ("memory", whole)];
    let parts: Vec<String> = units
        .into_iter()
        .filter_map(|(name, unit)| {
            let amount = |list: &Amounts| list.get(name).map_or(0, unit);
            let (requested, allocatable) = (amount(requests), amount(allocatable));
            let line = format!("{name}, requested: {requested}, allocatable: {allocatable}");
            (requested > allocatable).then_some(line)
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn milli(amount: &Written) -> i64 {
    amount.milli_value()
}

fn whole(amount: &Written) -> i64 {
    amount.value()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_exceeds_the_node_is_named_with_both_amounts() {
        let node = Amounts::read(&json!({"cpu": "2", "memory": "1Gi"}));
        let check = |requests: Value| excess(&Amounts::read(&requests), &node);
        assert_eq!(check(json!({"cpu": "2", "memory": "1Gi"})), None);
        assert_eq!(check(json!({"cpu": "1000"})).as_deref(), Some("cpu, requested: 1000000, allocatable: 2000"));
        assert_eq!(
            check(json!({"cpu": "3", "memory": "2Gi"})).as_deref(),
            Some("cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824")
        );
    }
}
