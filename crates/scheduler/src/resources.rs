//! Amounts that pods ask for and nodes offer, as integers, and the sum that a
//! pod's containers make. Comparing them with a node is a plugin's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use api::types::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use api::types::apimachinery::pkg::api::resource::Quantity as QuantityText;

/// Milli-CPU that scoring assumes for a container that states none (upstream's `DefaultMilliCPURequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
/// Bytes that scoring assumes for a container that states none (upstream's `DefaultMemoryRequest`).
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Every other resource but `pods`: extended ones, huge pages. Sorted by
    /// name, none twice, whole units.
    pub scalars: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// True if nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.ephemeral_storage == 0 && self.scalars.is_empty()
    }

    /// Amount of a named scalar resource, 0 if absent.
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.iter().find(|(scalar, _)| &**scalar == name).map_or(0, |(_, amount)| *amount)
    }

    fn from_list(list: &List) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => resources.scalars.push((name.as_str().into(), quantity.value())),
            }
        }
        resources
    }
}

/// What a node offers to pods.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allocatable {
    /// Amounts.
    pub resources: Resources,
    /// Pods.
    pub pods: i64,
}

impl Allocatable {
    /// From `status.allocatable`; a quantity that cannot be read counts as 0.
    pub fn from_texts(list: Option<&BTreeMap<String, QuantityText>>) -> Self {
        let list = parse(list);
        let pods = list.get("pods").map_or(0, |quantity| quantity.value());
        Self { resources: Resources::from_list(&list), pods }
    }
}

/// What a pod takes from a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Usage {
    /// What it asks for, overhead included.
    pub requests: Resources,
    /// Milli-CPU with the default where a container states none, for scoring.
    pub scored_milli_cpu: i64,
    /// Memory in bytes, likewise.
    pub scored_memory: i64,
}

impl Usage {
    /// Of a pod that is not on a node yet.
    pub fn of_pending(spec: &PodSpec) -> Self {
        Self::compute(spec, None)
    }

    /// Of a pod on a node: a resize that is under way counts with the larger
    /// of what is wanted, allocated and in force (upstream's `PodRequests`
    /// with `UseStatusResources`).
    pub fn of_assigned(pod: &Pod) -> Self {
        match &pod.spec {
            Some(spec) => Self::compute(spec, Some(pod)),
            None => Self::default(),
        }
    }

    fn compute(spec: &PodSpec, pod: Option<&Pod>) -> Self {
        let requests = pod_requests(spec, pod, false);
        let scored = Resources::from_list(&pod_requests(spec, pod, true));
        Self {
            requests: Resources::from_list(&requests),
            scored_milli_cpu: scored.milli_cpu,
            scored_memory: scored.memory,
        }
    }
}

type List = BTreeMap<String, Quantity>;

fn parse(list: Option<&BTreeMap<String, QuantityText>>) -> List {
    list.into_iter()
        .flatten()
        .map(|(name, text)| (name.clone(), Quantity::parse(&text.0).unwrap_or(Quantity::ZERO)))
        .collect()
}

fn add(list: &mut List, other: &List) {
    for (name, quantity) in other {
        let sum = list.entry(name.clone()).or_default();
        *sum = *sum + *quantity;
    }
}

fn raise(list: &mut List, other: &List) {
    for (name, quantity) in other {
        let entry = list.entry(name.clone()).or_insert(*quantity);
        *entry = (*entry).max(*quantity);
    }
}

fn pod_requests(spec: &PodSpec, pod: Option<&Pod>, fill_missing: bool) -> List {
    let mut total = container_requests(spec, pod, fill_missing);
    let pod_level = parse(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    if pod_level.keys().any(|name| is_pod_level(name)) {
        let status = pod.and_then(|pod| pod.status.as_ref());
        let effective = status.and_then(|status| {
            let actuated = status.resources.as_ref()?;
            Some(effective_requests(
                &pod_level,
                &parse(actuated.requests.as_ref()),
                &parse(status.allocated_resources.as_ref()),
                pod.is_some_and(is_resize_infeasible),
            ))
        });
        for (name, quantity) in &pod_level {
            if is_pod_level(name) {
                let quantity = match &effective {
                    Some(effective) => effective.get(name).copied().unwrap_or_default(),
                    None => *quantity,
                };
                total.insert(name.clone(), quantity);
            }
        }
    }
    add(&mut total, &parse(spec.overhead.as_ref()));
    total
}

/// Resources that may be stated for the whole pod.
fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// Ordinary containers run together with the sidecars; an ordinary init
/// container runs beside the sidecars that started before it.
fn container_requests(spec: &PodSpec, pod: Option<&Pod>, fill_missing: bool) -> List {
    let mut total = List::new();
    for container in &spec.containers {
        add(&mut total, &one_container(container, pod, fill_missing, true));
    }
    let mut sidecars = List::new();
    let mut peak = List::new();
    for container in spec.init_containers.iter().flatten() {
        let is_sidecar = is_sidecar(container);
        let mut requests = one_container(container, pod, fill_missing, is_sidecar);
        if is_sidecar {
            add(&mut total, &requests);
            add(&mut sidecars, &requests);
            requests.clone_from(&sidecars);
        } else {
            add(&mut requests, &sidecars);
        }
        raise(&mut peak, &requests);
    }
    raise(&mut total, &peak);
    total
}

/// True for an init container that keeps running.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn one_container(container: &Container, pod: Option<&Pod>, fill_missing: bool, may_resize: bool) -> List {
    let spec = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut requests = parse(spec);
    let status = pod.filter(|_| may_resize).and_then(|pod| container_status(pod, &container.name));
    if let Some((status, pod)) = status.zip(pod)
        && let Some(actuated) = &status.resources
    {
        requests = effective_requests(
            &requests,
            &parse(actuated.requests.as_ref()),
            &parse(status.allocated_resources.as_ref()),
            is_resize_infeasible(pod),
        );
    }
    if fill_missing {
        requests.entry("cpu".into()).or_insert(Quantity::from_milli(DEFAULT_MILLI_CPU));
        requests.entry("memory".into()).or_insert(Quantity::from_units(DEFAULT_MEMORY));
    }
    requests
}

fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|status| status.name == name)
}

fn effective_requests(wanted: &List, actuated: &List, allocated: &List, infeasible: bool) -> List {
    let mut result = if infeasible { List::new() } else { wanted.clone() };
    raise(&mut result, actuated);
    raise(&mut result, allocated);
    result
}

fn is_resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value(json).unwrap()
    }

    fn requests(cpu: &str) -> serde_json::Value {
        serde_json::json!({"requests": {"cpu": cpu}})
    }

    fn milli_cpu(json: serde_json::Value) -> i64 {
        Usage::of_assigned(&pod(json)).requests.milli_cpu
    }

    #[test]
    fn an_init_container_counts_only_where_it_is_the_peak() {
        let spec = |init: &str| {
            serde_json::json!({"spec": {
                "initContainers": [{"name": "i", "resources": requests(init)}],
                "containers": [{"name": "a", "resources": requests("1")}, {"name": "b", "resources": requests("500m")}],
            }})
        };
        assert_eq!(milli_cpu(spec("1")), 1500);
        assert_eq!(milli_cpu(spec("2")), 2000);
    }

    #[test]
    fn an_init_container_runs_beside_the_sidecars_before_it_only() {
        let sidecar =
            |cpu: &str| serde_json::json!({"name": cpu, "restartPolicy": "Always", "resources": requests(cpu)});
        let plain = |cpu: &str| serde_json::json!({"name": "p", "resources": requests(cpu)});
        let spec = |init: [serde_json::Value; 3]| serde_json::json!({"spec": {"initContainers": init, "containers": [plain("1")]}});
        assert_eq!(milli_cpu(spec([sidecar("100m"), plain("3"), sidecar("200m")])), 3100);
        assert_eq!(milli_cpu(spec([sidecar("100m"), plain("1"), sidecar("200m")])), 1300);
    }

    #[test]
    fn pod_level_requests_replace_the_sum_and_overhead_is_added() {
        let json = serde_json::json!({"spec": {
            "overhead": {"cpu": "50m"},
            "resources": {"requests": {"cpu": "3"}},
            "containers": [{"name": "a", "resources": requests("1")}],
        }});
        assert_eq!(milli_cpu(json), 3050);
    }

    #[test]
    fn scoring_assumes_a_little_for_containers_that_ask_for_nothing() {
        let usage = Usage::of_assigned(&pod(
            serde_json::json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "resources": requests("1")}]}}),
        ));
        assert_eq!((usage.requests.milli_cpu, usage.scored_milli_cpu), (1000, 1100));
        assert_eq!((usage.requests.memory, usage.scored_memory), (0, 2 * DEFAULT_MEMORY));
    }

    #[test]
    fn a_resize_under_way_counts_with_the_larger_amount() {
        let json = |reason: &str| {
            serde_json::json!({
                "spec": {"containers": [{"name": "a", "resources": requests("2")}]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                    "containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                        "resources": requests("1"), "allocatedResources": {"cpu": "1"}}],
                },
            })
        };
        assert_eq!(milli_cpu(json("Deferred")), 2000);
        assert_eq!(milli_cpu(json("Infeasible")), 1000);
    }
}
