//! Requests and limits of containers and pods, quality of service, and what
//! follows from them for cgroups. Numbers only; no cgroup is touched here.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::api::resource::Quantity;
use containers::runtime::Resources;

use crate::spec;

/// Smallest CPU share that the kernel takes.
const MIN_SHARES: u64 = 2;
/// Largest one.
const MAX_SHARES: u64 = 262_144;
/// Shares of one CPU.
const SHARES_PER_CPU: i64 = 1024;
/// Period of the CPU quota, microseconds (upstream's default).
const QUOTA_PERIOD_US: u64 = 100_000;
/// Smallest quota that the kernel takes, microseconds.
const MIN_QUOTA_US: i64 = 1000;
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// Pods at or above this priority are critical for the node
/// (`SystemCriticalPriority` of class `system-node-critical`).
const NODE_CRITICAL_CLASS: &str = "system-node-critical";

/// A list of amounts by resource name.
pub(crate) type List = BTreeMap<String, Quantity>;

/// Quality of service of a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) enum QosClass {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// As the API spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// An amount in thousandths; 0 where absent or not a quantity.
pub(crate) fn milli(list: Option<&List>, name: &str) -> i64 {
    amount(list, name).milli_value()
}

/// An amount in whole units; 0 where absent or not a quantity.
pub(crate) fn value(list: Option<&List>, name: &str) -> i64 {
    amount(list, name).value()
}

fn amount(list: Option<&List>, name: &str) -> Amount {
    // The API server refuses what is not a quantity, so zero means absent.
    list.and_then(|l| l.get(name)).and_then(|q| Amount::parse(&q.0).ok()).unwrap_or(Amount::ZERO)
}

/// Whole units of one quantity; 0 if it isn't one.
pub(crate) fn quantity_value(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).unwrap_or(Amount::ZERO).value()
}

/// A container's limits.
pub(crate) fn limits(container: &core::Container) -> Option<&List> {
    container.resources.as_ref()?.limits.as_ref()
}

/// A container's requests.
pub(crate) fn requests(container: &core::Container) -> Option<&List> {
    container.resources.as_ref()?.requests.as_ref()
}

/// The pod's class: as the API server set it, else computed.
pub(crate) fn qos_class(pod: &core::Pod) -> QosClass {
    match spec::status(pod).qos_class.as_deref() {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => compute_qos(pod),
    }
}

fn compute_qos(pod: &core::Pod) -> QosClass {
    let pod_level = spec::spec(pod).resources.as_ref();
    let mut guaranteed = true;
    let mut anything = false;
    let mut check = |requests: Option<&List>, limits: Option<&List>| {
        for name in ["cpu", "memory"] {
            let request = milli(requests, name);
            let limit = milli(limits, name);
            anything |= request != 0 || limit != 0;
            guaranteed &= limit != 0 && (request == 0 || request == limit);
        }
    };
    match pod_level.filter(|r| r.requests.is_some() || r.limits.is_some()) {
        Some(resources) => check(resources.requests.as_ref(), resources.limits.as_ref()),
        None => {
            for container in spec::main_containers(pod).iter().chain(spec::init_containers(pod)) {
                check(requests(container), limits(container));
            }
        }
    }
    match (anything, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// Requests of the whole pod: main containers and sidecars together, or an
/// init container that needs more with the sidecars before it; then overhead.
pub(crate) fn pod_requests(pod: &core::Pod) -> List {
    let mut total = aggregate(pod, |c| requests(c).or_else(|| limits(c)));
    if let Some(own) = spec::spec(pod).resources.as_ref().and_then(|r| r.requests.as_ref()) {
        total.extend(own.clone());
    }
    add_overhead(pod, &mut total);
    total
}

/// Limits of the whole pod.
pub(crate) fn pod_limits(pod: &core::Pod) -> List {
    let mut total = aggregate(pod, limits);
    if let Some(own) = spec::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref()) {
        total.extend(own.clone());
    }
    let overhead: List = spec::spec(pod).overhead.clone().unwrap_or_default();
    for (name, extra) in overhead {
        // Overhead adds to limits that exist; it does not make one.
        if let Some(have) = total.get(&name).cloned() {
            total.insert(name, add(&have, &extra));
        }
    }
    total
}

fn add_overhead(pod: &core::Pod, total: &mut List) {
    for (name, extra) in spec::spec(pod).overhead.iter().flatten() {
        let sum = total.get(name).map_or_else(|| extra.clone(), |have| add(have, extra));
        total.insert(name.clone(), sum);
    }
}

fn aggregate(pod: &core::Pod, of: impl Fn(&core::Container) -> Option<&List>) -> List {
    let mut total = List::new();
    for container in spec::main_containers(pod) {
        add_all(&mut total, of(container));
    }
    let mut sidecars = List::new();
    let mut peak = List::new();
    for container in spec::init_containers(pod) {
        if spec::is_sidecar(container) {
            add_all(&mut total, of(container));
            add_all(&mut sidecars, of(container));
            max_all(&mut peak, &sidecars);
        } else {
            let mut with = sidecars.clone();
            add_all(&mut with, of(container));
            max_all(&mut peak, &with);
        }
    }
    max_all(&mut total, &peak);
    total
}

fn add_all(total: &mut List, more: Option<&List>) {
    for (name, extra) in more.into_iter().flatten() {
        let sum = total.get(name).map_or_else(|| extra.clone(), |have| add(have, extra));
        total.insert(name.clone(), sum);
    }
}

fn max_all(total: &mut List, other: &List) {
    for (name, theirs) in other {
        if milli(Some(other), name) > milli(Some(total), name) || !total.contains_key(name) {
            total.insert(name.clone(), theirs.clone());
        }
    }
}

fn add(a: &Quantity, b: &Quantity) -> Quantity {
    let parse = |q: &Quantity| i128::from(Amount::parse(&q.0).unwrap_or(Amount::ZERO).milli_value());
    let binary = [a, b].iter().any(|q| q.0.ends_with('i'));
    Quantity(format_milli(parse(a) + parse(b), binary))
}

/// Canonical form of an amount in thousandths, with binary or decimal suffix.
pub(crate) fn format_milli(milli: i128, binary: bool) -> String {
    if milli % 1000 != 0 {
        return format!("{milli}m");
    }
    let mut units = milli / 1000;
    let (step, suffixes): (i128, [&str; 6]) =
        if binary { (1024, ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]) } else { (1000, ["k", "M", "G", "T", "P", "E"]) };
    let mut suffix = "";
    for next in suffixes {
        if units == 0 || units % step != 0 {
            break;
        }
        units /= step;
        suffix = next;
    }
    format!("{units}{suffix}")
}

/// Thousandths of a CPU as shares of a cgroup.
pub(crate) fn shares(milli_cpu: i64) -> u64 {
    let shares = u64::try_from(milli_cpu.saturating_mul(SHARES_PER_CPU) / 1000).unwrap_or(0);
    shares.clamp(MIN_SHARES, MAX_SHARES)
}

fn quota_us(milli_cpu: i64) -> Option<i64> {
    if milli_cpu == 0 {
        return None;
    }
    let period = i64::try_from(QUOTA_PERIOD_US).unwrap_or(i64::MAX);
    Some((milli_cpu.saturating_mul(period) / 1000).max(MIN_QUOTA_US))
}

fn huge_pages(list: Option<&List>) -> BTreeMap<String, u64> {
    list.into_iter()
        .flatten()
        .filter_map(|(name, quantity)| {
            let size = Amount::parse(name.strip_prefix("hugepages-")?).ok()?.value();
            let size = if size >= 1 << 30 { format!("{}GB", size >> 30) } else { format!("{}MB", size >> 20) };
            Some((size, u64::try_from(quantity_value(quantity)).ok()?))
        })
        .collect()
}

/// What a container's cgroup gets. `node_memory_bytes` is the machine's memory.
pub(crate) fn of_container(pod: &core::Pod, container: &core::Container, node_memory_bytes: i64) -> Resources {
    let pod_limits = spec::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = |name: &str, read: fn(Option<&List>, &str) -> i64| match read(limits(container), name) {
        0 => read(pod_limits, name),
        own => own,
    };
    let cpu_limit = limit("cpu", milli);
    let memory_limit = limit("memory", value);
    let has_request = requests(container).is_some_and(|r| r.contains_key("cpu"));
    let cpu = if has_request { milli(requests(container), "cpu") } else { cpu_limit };
    let quota = quota_us(cpu_limit);
    Resources {
        cpu_shares: Some(shares(cpu)),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| QUOTA_PERIOD_US),
        memory_limit_bytes: (memory_limit != 0).then_some(memory_limit),
        oom_score_adj: Some(oom_score(pod, container, node_memory_bytes)),
        hugepage_limits: huge_pages(limits(container)),
        ..Resources::default()
    }
}

/// What the pod's own cgroup gets (`ResourceConfigForPod`, 1.36).
pub(crate) fn of_pod_cgroup(pod: &core::Pod) -> Resources {
    let total = pod_requests(pod);
    let limit = pod_limits(pod);
    let pod_level = spec::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    let declared = |name: &str| {
        milli(pod_level, name) != 0
            || spec::main_containers(pod).iter().chain(spec::init_containers(pod)).all(|c| milli(limits(c), name) != 0)
    };
    let mut resources = Resources { cpu_shares: Some(MIN_SHARES), ..Resources::default() };
    let class = qos_class(pod);
    if class == QosClass::BestEffort {
        return resources;
    }
    resources.cpu_shares = Some(shares(milli(Some(&total), "cpu")));
    if class == QosClass::Guaranteed || declared("cpu") {
        resources.cpu_quota_us = quota_us(milli(Some(&limit), "cpu"));
        resources.cpu_period_us = resources.cpu_quota_us.map(|_| QUOTA_PERIOD_US);
    }
    if class == QosClass::Guaranteed || declared("memory") {
        resources.memory_limit_bytes = Some(value(Some(&limit), "memory")).filter(|bytes| *bytes != 0);
    }
    resources.hugepage_limits = huge_pages(Some(&total));
    resources
}

/// `oom_score_adj` of a container (`GetContainerOOMScoreAdjust`, 1.36).
fn oom_score(pod: &core::Pod, container: &core::Container, node_memory_bytes: i64) -> i64 {
    if spec::spec(pod).priority_class_name.as_deref() == Some(NODE_CRITICAL_CLASS) {
        return GUARANTEED_OOM_SCORE;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => return GUARANTEED_OOM_SCORE,
        QosClass::BestEffort => return BEST_EFFORT_OOM_SCORE,
        QosClass::Burstable => {}
    }
    let node = node_memory_bytes.max(1);
    let score = |bytes: i64| 1000 - bytes.saturating_mul(1000) / node;
    let mut adjust = score(value(requests(container), "memory"));
    if spec::is_sidecar(container) {
        // A sidecar is not killed before the least of the containers it serves.
        let least = spec::main_containers(pod).iter().map(|c| value(requests(c), "memory")).min().unwrap_or(0);
        adjust = adjust.min(score(least));
    }
    adjust.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
}

/// Path of the pod's cgroup below `root` (which is empty or starts with `/`).
pub(crate) fn cgroup_path(root: &str, pod: &core::Pod) -> String {
    format!("{}/pod{}", class_cgroup_path(root, qos_class(pod)), spec::uid(pod))
}

/// Path of a class' cgroup below `root`.
pub(crate) fn class_cgroup_path(root: &str, class: QosClass) -> String {
    let root = root.trim_end_matches('/');
    match class {
        QosClass::Guaranteed => format!("{root}/kubepods"),
        QosClass::Burstable => format!("{root}/kubepods/burstable"),
        QosClass::BestEffort => format!("{root}/kubepods/besteffort"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> core::Pod {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"uid": "u"}, "spec": spec}))
            .expect("a pod")
    }

    #[test]
    fn a_pod_requests_the_larger_of_its_init_peak_and_its_main_sum() {
        let pod = pod(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}},
                           {"name": "b", "resources": {"requests": {"cpu": "50m"}}}],
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}}},
                {"name": "big", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}}],
            "overhead": {"cpu": "5m"}}));
        let total = pod_requests(&pod);
        assert_eq!(total["cpu"].0, "1015m");
        assert_eq!(total["memory"].0, "65Mi");
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let check = |resources: serde_json::Value, class: QosClass| {
            assert_eq!(qos_class(&pod(json!({"containers": [{"name": "a", "resources": resources}]}))), class);
        };
        check(json!({}), QosClass::BestEffort);
        check(json!({"requests": {"cpu": "1"}}), QosClass::Burstable);
        check(json!({"limits": {"cpu": "1"}}), QosClass::Burstable);
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), QosClass::Guaranteed);
        check(
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}}),
            QosClass::Guaranteed,
        );
        check(json!({"limits": {"ephemeral-storage": "4Mi"}}), QosClass::BestEffort);
    }

    #[test]
    fn sums_keep_the_form_of_their_parts() {
        for (a, b, sum) in [
            ("100m", "50m", "150m"),
            ("500m", "500m", "1"),
            ("16Mi", "16Mi", "32Mi"),
            ("1Gi", "1", "1073741825"),
            ("1k", "1k", "2k"),
        ] {
            assert_eq!(add(&Quantity(a.into()), &Quantity(b.into())).0, sum);
        }
    }

    #[test]
    fn limits_become_shares_and_quota() {
        let pod = pod(
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}]}),
        );
        let of = of_container(&pod, &spec::main_containers(&pod)[0], 1 << 30);
        assert_eq!((of.cpu_shares, of.cpu_quota_us, of.cpu_period_us), (Some(256), Some(50_000), Some(100_000)));
        assert_eq!((of.memory_limit_bytes, of.oom_score_adj), (Some(64 << 20), Some(999)));
        assert_eq!(cgroup_path("/darter", &pod), "/darter/kubepods/burstable/podu");
    }
}
