//! The row that `kubectl get pods` shows (`printPod`, upstream 1.36).

use serde_json::{Value, json};

use crate::object::{self, Meta};
use crate::strategy::Column;
use crate::table;

pub(super) fn columns() -> Vec<Column> {
    let wide = |name: &str, text: &str| table::column(name, "string", 1, text);
    vec![
        table::name(),
        table::column("Ready", "string", 0, "The aggregate readiness state of this pod for accepting traffic."),
        table::column("Status", "string", 0, "The aggregate status of the containers in this pod."),
        table::column(
            "Restarts",
            "string",
            0,
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        table::age(),
        wide(
            "IP",
            "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
        ),
        wide(
            "Node",
            "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
        ),
        wide(
            "Nominated Node",
            "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.",
        ),
        wide(
            "Readiness Gates",
            "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
        ),
    ]
}

/// What the containers add up to.
struct Summary {
    reason: String,
    restarts: i64,
    last_restart: String,
    ready: usize,
    total: usize,
}

pub(super) fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = if summary.restarts != 0 && !summary.last_restart.is_empty() {
        format!("{} ({} ago)", summary.restarts, table::since(&summary.last_restart, now))
    } else {
        summary.restarts.to_string()
    };
    let or_none = |text: &str| json!(if text.is_empty() { "<none>" } else { text });
    let ip = object::items(pod, "status.podIPs").first().and_then(|ip| ip["ip"].as_str()).unwrap_or_default();
    vec![
        pod.name().into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        table::age_cell(pod, now),
        or_none(ip),
        or_none(object::text(pod, "spec.nodeName")),
        or_none(object::text(pod, "status.nominatedNodeName")),
        readiness_gates(pod).into(),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = object::items(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = object::items(pod, "status.conditions");
    let met = gates
        .iter()
        .filter(|gate| conditions.iter().any(|one| one["type"] == gate["conditionType"] && one["status"] == "True"));
    format!("{}/{}", met.count(), gates.len())
}

fn summarize(pod: &Value) -> Summary {
    let mut reason = object::text(pod, "status.phase").to_owned();
    let own = object::text(pod, "status.reason");
    if !own.is_empty() {
        reason = own.to_owned();
    }
    let conditions = object::items(pod, "status.conditions");
    if conditions.iter().any(|one| one["type"] == "PodScheduled" && one["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let mut summary = Summary {
        reason,
        restarts: 0,
        last_restart: String::new(),
        ready: 0,
        total: object::items(pod, "spec.containers").len(),
    };
    let initializing = init_containers(pod, &mut summary);
    if !initializing || is_initialized(pod) {
        containers(pod, &mut summary);
    }
    if pod.deleting() {
        if own == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(object::text(pod, "status.phase"), "Failed" | "Succeeded") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

fn is_initialized(pod: &Value) -> bool {
    object::items(pod, "status.conditions").iter().any(|one| one["type"] == "Initialized" && one["status"] == "True")
}

fn is_sidecar(pod: &Value, name: &Value) -> bool {
    object::items(pod, "spec.initContainers").iter().any(|one| one["name"] == *name && one["restartPolicy"] == "Always")
}

fn count_restart(status: &Value, summary: &mut Summary) {
    summary.restarts += status["restartCount"].as_i64().unwrap_or(0);
    let finished = object::text(status, "lastState.terminated.finishedAt");
    if finished > summary.last_restart.as_str() {
        summary.last_restart = finished.to_owned();
    }
}

fn terminated_reason(terminated: &Value) -> String {
    let reason = object::text(terminated, "reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match terminated["signal"].as_i64().unwrap_or(0) {
        0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

/// True while init containers are at work.
fn init_containers(pod: &Value, summary: &mut Summary) -> bool {
    let specs = object::items(pod, "spec.initContainers");
    let sidecars = specs.iter().filter(|one| one["restartPolicy"] == "Always").count();
    summary.total += sidecars;
    let mut initializing = false;
    for (index, status) in object::items(pod, "status.initContainerStatuses").iter().enumerate() {
        count_restart(status, summary);
        let terminated = object::at(status, "state.terminated");
        let sidecar = is_sidecar(pod, &status["name"]);
        if sidecar && status["ready"] == true {
            summary.ready += 1;
        }
        if initializing {
            continue;
        }
        if terminated.is_object() && terminated["exitCode"].as_i64() == Some(0) {
            continue;
        }
        if sidecar && status["started"] == true {
            continue;
        }
        initializing = true;
        let waiting = object::text(status, "state.waiting.reason");
        summary.reason = if terminated.is_object() {
            format!("Init:{}", terminated_reason(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", specs.len())
        };
    }
    initializing
}

fn containers(pod: &Value, summary: &mut Summary) {
    let mut has_running = false;
    // Restarts of sidecars and containers count; those of finished init containers do not.
    let (mut restarts, mut last_restart) = (0, String::new());
    for status in object::items(pod, "status.initContainerStatuses").iter().filter(|one| is_sidecar(pod, &one["name"]))
    {
        restarts += status["restartCount"].as_i64().unwrap_or(0);
        last_restart = last_restart.max(object::text(status, "lastState.terminated.finishedAt").to_owned());
    }
    summary.restarts = restarts;
    summary.last_restart = last_restart;
    for status in object::items(pod, "status.containerStatuses").iter().rev() {
        count_restart(status, summary);
        let waiting = object::text(status, "state.waiting.reason");
        let terminated = object::at(status, "state.terminated");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if terminated.is_object() {
            summary.reason = terminated_reason(terminated);
        } else if status["ready"] == true && object::at(status, "state.running").is_object() {
            has_running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && has_running {
        let ready =
            object::items(pod, "status.conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}
