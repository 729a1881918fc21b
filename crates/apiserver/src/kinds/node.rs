//! Nodes.

use serde_json::{Value, json};

use crate::object::{self, Meta};
use crate::strategy::{Column, Strategy};
use crate::table;

pub(super) struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        let status = object::map_mut(object, "status");
        if let Some(capacity) = status.get("capacity").cloned()
            && status.get("allocatable").is_none_or(Value::is_null)
        {
            status.insert("allocatable".to_owned(), capacity);
        }
        object::map_mut(object, "spec");
    }

    fn keeps_status_at_creation(&self) -> bool {
        true
    }

    fn selectable(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn selectable_value(&self, object: &Value, _field: &str) -> String {
        object::at(object, "spec.unschedulable").as_bool().unwrap_or(false).to_string()
    }

    fn columns(&self) -> Vec<Column> {
        let wide = |name: &str, text: &str| table::column(name, "string", 1, text);
        vec![
            table::name(),
            table::column("Status", "string", 0, "The status of the node"),
            table::column("Roles", "string", 0, "The roles of the node"),
            table::age(),
            table::column("Version", "string", 0, "Kubelet Version reported by the node."),
            wide(
                "Internal-IP",
                "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
            ),
            wide(
                "External-IP",
                "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
            ),
            wide("OS-Image", "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy))."),
            wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64)."),
            wide(
                "Container-Runtime",
                "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
            ),
        ]
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let info = |field: &str| {
            let text = object::text(object, &format!("status.nodeInfo.{field}"));
            json!(if text.is_empty() { "<unknown>" } else { text })
        };
        let address = |kind: &str| {
            let found = object::items(object, "status.addresses").iter().find(|one| one["type"] == kind);
            json!(found.and_then(|one| one["address"].as_str()).unwrap_or("<none>"))
        };
        vec![
            object.name().into(),
            status_cell(object).into(),
            roles(object).into(),
            table::age_cell(object, now),
            object::text(object, "status.nodeInfo.kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }
}

fn status_cell(node: &Value) -> String {
    let ready = object::items(node, "status.conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut text = match ready.and_then(|condition| condition["status"].as_str()) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object::at(node, "spec.unschedulable").as_bool() == Some(true) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node.meta("labels").as_object().into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty()) {
            roles.push(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|role| !role.is_empty()));
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}
