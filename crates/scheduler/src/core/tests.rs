//! Behaviour of the core on small clusters. Single rules are tested beside them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::objects::{Claim, StorageClass, Volume};

const MS: fn(u64) -> Duration = Duration::from_millis;

struct Cluster {
    core: Core,
    now: Duration,
}

/// What a step was, for comparing.
#[derive(PartialEq, Debug)]
enum Seen {
    Bound(String, String),
    Rejected(String, String),
    Preempts(String, Vec<String>, String),
    Skipped(String),
}

impl Cluster {
    fn new(nodes: &[Value]) -> Self {
        let mut cluster = Self { core: Core::new(CoreConfig::default()), now: Duration::ZERO };
        for node in nodes {
            cluster.node(node.clone());
        }
        cluster
    }

    fn node(&mut self, node: Value) {
        self.core.apply_node(&serde_json::from_value(node).unwrap(), self.now);
    }

    fn pod(&mut self, pod: Value) {
        self.core.apply_pod(Arc::new(serde_json::from_value(pod).unwrap()), self.now);
    }

    fn delete(&mut self, pod: Value) {
        self.core.delete_pod(pod["metadata"]["uid"].as_str().unwrap(), self.now);
    }

    /// Runs until nothing is left to do; bindings succeed.
    fn run(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
        while let Some(step) = self.core.next(self.now) {
            assert!(seen.len() < 1000, "the scheduler does not come to rest");
            seen.push(match step {
                Step::Bind { pod, node } => {
                    assert!(self.core.bound(pod.metadata.uid.as_deref().unwrap(), Ok(()), self.now).is_none());
                    let mut bound = (*pod).clone();
                    bound.spec.as_mut().unwrap().node_name = Some(node.to_string());
                    self.core.apply_pod(Arc::new(bound), self.now);
                    Seen::Bound(name(&pod), node.to_string())
                }
                Step::Report(report) => Seen::Rejected(name(&report.pod), report.message),
                Step::Preempt { report, victims, node, .. } => {
                    self.core.preempted(report.pod.metadata.uid.as_deref().unwrap(), true, self.now);
                    Seen::Preempts(
                        name(&report.pod),
                        victims.iter().map(|(key, _)| key.name.to_string()).collect(),
                        node.to_string(),
                    )
                }
                Step::PrepareVolumes { pod, .. } => panic!("{} needs volumes", name(&pod)),
                Step::Skipped { pod } => Seen::Skipped(name(&pod)),
            });
        }
        seen
    }

    fn rejection(&mut self) -> String {
        match self.run().pop() {
            Some(Seen::Rejected(_, message)) => message,
            other => panic!("expected a rejection, got {other:?}"),
        }
    }
}

fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    })
}

fn node_with(name: &str, change: Value) -> Value {
    merged(node(name), change)
}

fn pod(name: &str, spec: Value) -> Value {
    let base = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "app:1", "resources": {"requests": {"cpu": "100m"}}}]},
    });
    merged(base, json!({"spec": spec}))
}

fn asking(name: &str, requests: Value) -> Value {
    pod(name, json!({"containers": [{"name": "c", "image": "app:1", "resources": {"requests": requests}}]}))
}

fn merged(mut base: Value, change: Value) -> Value {
    json_merge(&mut base, change);
    base
}

fn json_merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                json_merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change,
    }
}

fn bound(pod: &str, node: &str) -> Seen {
    Seen::Bound(pod.into(), node.into())
}

const USELESS: &str = "no new claims to deallocate, preemption: 0/";

#[test]
fn a_pod_goes_to_the_only_node_that_fits() {
    let mut cluster = Cluster::new(&[node("a"), node_with("b", json!({"metadata": {"labels": {"disk": "ssd"}}}))]);
    cluster.pod(pod("p", json!({"nodeSelector": {"disk": "ssd"}})));
    assert_eq!(cluster.run(), [bound("p", "b")]);
}

#[test]
fn every_reason_is_counted_and_sorted_as_text() {
    let mut cluster = Cluster::new(&[
        node_with("a", json!({"spec": {"unschedulable": true}})),
        node_with("b", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
        node_with("c", json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}})),
        node_with("d", json!({"status": {"allocatable": {"cpu": "1"}}})),
        node_with("e", json!({"status": {"allocatable": {"cpu": "1", "memory": "1Mi"}}})),
    ]);
    cluster.pod(asking("p", json!({"cpu": "2", "memory": "1Gi"})));
    assert_eq!(
        cluster.rejection(),
        format!(
            "0/5 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu, \
             2 node(s) had untolerated taint(s). {USELESS}5 nodes are available: 5 Preemption is not helpful for scheduling."
        )
    );
}

#[test]
fn without_nodes_a_pod_waits_for_the_first_one() {
    let mut cluster = Cluster::new(&[]);
    cluster.pod(pod("p", json!({})));
    assert_eq!(cluster.rejection(), "no nodes available to schedule pods");
    assert_eq!(cluster.run(), []);
    cluster.node(node("a"));
    assert_eq!(cluster.run(), [bound("p", "a")]);
}

#[test]
fn the_emptier_node_wins() {
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    cluster.pod(merged(asking("x", json!({"cpu": "2", "memory": "4Gi"})), json!({"spec": {"nodeName": "a"}})));
    cluster.pod(asking("p", json!({"cpu": "1", "memory": "2Gi"})));
    assert_eq!(cluster.run(), [bound("p", "b")]);
}

#[test]
fn the_node_that_the_pod_evens_out_wins() {
    let big = |name| node_with(name, json!({"status": {"allocatable": {"cpu": "10", "memory": "10Gi"}}}));
    let mut cluster = Cluster::new(&[big("a"), big("b")]);
    cluster.pod(merged(asking("x", json!({"cpu": "2", "memory": "6Gi"})), json!({"spec": {"nodeName": "a"}})));
    cluster.pod(merged(asking("y", json!({"cpu": "6", "memory": "2Gi"})), json!({"spec": {"nodeName": "b"}})));
    cluster.pod(asking("p", json!({"cpu": "2", "memory": "100Mi"})));
    assert_eq!(cluster.run(), [bound("p", "a")]);
}

#[test]
fn the_node_that_has_the_image_wins() {
    let image = json!({"status": {"images": [{"names": ["app:1"], "sizeBytes": 90_000_000_000_i64}]}});
    let mut cluster = Cluster::new(&[node("a"), node_with("b", image), node("c")]);
    cluster.pod(pod("p", json!({})));
    assert_eq!(cluster.run(), [bound("p", "b")]);
}

#[test]
fn a_preferred_label_outweighs_load_and_a_disliked_taint_costs() {
    let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let mut cluster = Cluster::new(&[node_with("a", ssd), node("b")]);
    cluster.pod(merged(asking("x", json!({"cpu": "2", "memory": "4Gi"})), json!({"spec": {"nodeName": "a"}})));
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]);
    cluster.pod(pod(
        "p",
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}),
    ));
    assert_eq!(cluster.run(), [bound("p", "a")]);

    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let mut cluster = Cluster::new(&[node_with("a", taint), node("b")]);
    cluster.pod(merged(asking("x", json!({"cpu": "2", "memory": "4Gi"})), json!({"spec": {"nodeName": "b"}})));
    cluster.pod(pod("p", json!({})));
    assert_eq!(cluster.run(), [bound("p", "b")]);
}

#[test]
fn a_port_is_taken_once_per_address_and_protocol() {
    let with_port = |name: &str, port: Value| pod(name, json!({"containers": [{"name": "c", "ports": [port]}]}));
    let mut cluster = Cluster::new(&[node("a")]);
    cluster.pod(with_port("tcp", json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"})));
    cluster.pod(with_port("udp", json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"})));
    cluster.pod(with_port("other", json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"})));
    assert_eq!(cluster.run(), [bound("tcp", "a"), bound("udp", "a"), bound("other", "a")]);
    let all = with_port("all", json!({"containerPort": 1, "hostPort": 80}));
    cluster.pod(all);
    assert!(
        cluster
            .rejection()
            .starts_with("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. ")
    );
    cluster.delete(with_port("tcp", json!({})));
    assert_eq!(cluster.run(), []);
    cluster.delete(with_port("other", json!({})));
    assert_eq!(cluster.run(), [bound("all", "a")]);
}

#[test]
fn only_the_event_that_helps_wakes_a_pod() {
    let mut cluster = Cluster::new(&[node("a"), node_with("b", json!({"spec": {"unschedulable": true}}))]);
    cluster.pod(asking("p", json!({"cpu": "5"})));
    cluster.rejection();
    cluster.now = MS(20_000);
    cluster.node(node_with("a", json!({"metadata": {"labels": {"x": "y"}}})));
    assert_eq!(cluster.run(), []);
    cluster.node(node_with("a", json!({"status": {"allocatable": {"cpu": "4500m"}}})));
    assert_eq!(cluster.run(), []);
    cluster.node(node_with("a", json!({"status": {"allocatable": {"cpu": "6"}}})));
    assert_eq!(cluster.run(), [bound("p", "a")]);
}

#[test]
fn a_rejection_is_reported_again_only_when_it_changes_or_much_later() {
    let mut cluster = Cluster::new(&[node("a")]);
    let running = |name: &str| merged(asking(name, json!({"cpu": "2"})), json!({"spec": {"nodeName": "a"}}));
    cluster.pod(running("x"));
    cluster.pod(running("y"));
    cluster.pod(asking("p", json!({"cpu": "3"})));
    cluster.rejection();
    cluster.delete(running("x"));
    assert_eq!(cluster.run(), []);
    cluster.now = MS(400_000);
    cluster.rejection();
    cluster.delete(running("y"));
    assert_eq!(cluster.run(), [bound("p", "a")]);
}

#[test]
fn a_pod_that_ends_makes_room() {
    let mut cluster = Cluster::new(&[node("a")]);
    cluster.pod(merged(asking("x", json!({"cpu": "3"})), json!({"spec": {"nodeName": "a"}})));
    cluster.pod(asking("p", json!({"cpu": "3"})));
    assert!(cluster.rejection().contains("1 No preemption victims found for incoming pod."));
    cluster.pod(merged(
        asking("x", json!({"cpu": "3"})),
        json!({"spec": {"nodeName": "a"}, "status": {"phase": "Succeeded"}}),
    ));
    assert_eq!(cluster.run(), [bound("p", "a")]);
}

#[test]
fn gated_foreign_and_dying_pods_are_not_scheduled() {
    let mut cluster = Cluster::new(&[node("a")]);
    cluster.pod(pod("gated", json!({"schedulingGates": [{"name": "g"}]})));
    cluster.pod(pod("foreign", json!({"schedulerName": "someone-else"})));
    assert_eq!(cluster.run(), []);
    cluster.pod(pod("gated", json!({"schedulingGates": []})));
    assert_eq!(cluster.run(), [bound("gated", "a")]);
    cluster.pod(pod("dying", json!({"nodeSelector": {"x": "y"}})));
    cluster.rejection();
    cluster.pod(merged(
        pod("dying", json!({"nodeSelector": {"x": "y"}})),
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ));
    cluster.node(node_with("b", json!({"metadata": {"labels": {"x": "y"}}})));
    assert_eq!(cluster.run(), [Seen::Skipped("dying".into())]);
}

#[test]
fn names_in_the_affinity_narrow_the_nodes() {
    let affinity = |name: &str, cpu: &str| {
        let fields = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        merged(
            asking("p", json!({"cpu": cpu})),
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": fields}}}}}),
        )
    };
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    cluster.pod(affinity("b", "5"));
    assert_eq!(
        cluster.rejection(),
        format!(
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
             {USELESS}2 nodes are available: 2 Preemption is not helpful for scheduling."
        )
    );
    cluster.pod(affinity("b", "1"));
    cluster.now = MS(400_000);
    assert_eq!(cluster.run(), [bound("p", "b")]);
}

#[test]
fn a_failed_binding_frees_the_place_and_is_tried_again() {
    let mut cluster = Cluster::new(&[node("a")]);
    cluster.pod(asking("p", json!({"cpu": "3"})));
    assert!(matches!(cluster.core.next(cluster.now), Some(Step::Bind { .. })));
    cluster.pod(asking("q", json!({"cpu": "3"})));
    let report = cluster.core.bound("p", Err("the server is on fire".into()), cluster.now).unwrap();
    assert_eq!(report.message, "running Bind plugin \"DefaultBinder\": the server is on fire");
    assert_eq!(report.reason, "SchedulerError");
    assert_eq!(cluster.run(), [bound("q", "a")]);
    cluster.delete(asking("q", json!({})));
    assert_eq!(cluster.core.deadline(), Some(MS(1000)));
    cluster.now = MS(1000);
    assert_eq!(cluster.run(), [bound("p", "a")]);
}

#[test]
fn the_cheapest_victims_make_room_and_the_node_is_kept_for_the_winner() {
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    let running = |name: &str, node: &str, cpu: &str, priority: i32| {
        merged(asking(name, json!({"cpu": cpu})), json!({"spec": {"nodeName": node, "priority": priority}}))
    };
    cluster.pod(running("a1", "a", "2", 1));
    cluster.pod(running("a2", "a", "2", 1));
    cluster.pod(running("b1", "b", "3", 1));
    cluster.pod(merged(asking("high", json!({"cpu": "3"})), json!({"spec": {"priority": 10}})));
    assert_eq!(cluster.run(), [Seen::Preempts("high".into(), vec!["b1".into()], "b".into())]);
    cluster.pod(merged(asking("low", json!({"cpu": "2"})), json!({"spec": {"priority": 0}})));
    assert!(cluster.rejection().starts_with("0/2 nodes are available: 2 Insufficient cpu."));
    cluster.delete(running("b1", "b", "3", 1));
    assert_eq!(cluster.run().first(), Some(&bound("high", "b")));
}

#[test]
fn a_pod_that_must_not_preempt_says_so() {
    let mut cluster = Cluster::new(&[node("a")]);
    cluster.pod(merged(asking("x", json!({"cpu": "3"})), json!({"spec": {"nodeName": "a"}})));
    cluster
        .pod(merged(asking("p", json!({"cpu": "3"})), json!({"spec": {"priority": 5, "preemptionPolicy": "Never"}})));
    assert_eq!(
        cluster.rejection(),
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
    );
}

fn storage(cluster: &mut Cluster, volumes: &[(&str, &str)], bound: bool) {
    let volumes_of = |name: &str, node: &str| {
        json!({
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
                ]}]}},
            },
            "status": {"phase": "Available"},
        })
    };
    let class = json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    let class = StorageClass::new(serde_json::from_value(class).unwrap());
    let change = cluster.core.objects_mut().volumes.apply_class("local".into(), class).unwrap();
    cluster.core.storage_changed(change, cluster.now);
    for (name, node) in volumes {
        let volume = Volume::new(serde_json::from_value(volumes_of(name, node)).unwrap());
        let change = cluster.core.objects_mut().volumes.apply_volume(volume).unwrap();
        cluster.core.storage_changed(change, cluster.now);
    }
    let annotations = if bound { json!({"pv.kubernetes.io/bind-completed": "yes"}) } else { json!({}) };
    let claim = json!({
        "metadata": {"name": "data", "namespace": "ns", "uid": "data", "annotations": annotations},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "volumeName": if bound { volumes[0].0 } else { "" },
            "resources": {"requests": {"storage": "1Gi"}}},
    });
    let claim = Claim::new(serde_json::from_value(claim).unwrap());
    let change = cluster.core.objects_mut().volumes.apply_claim(claim).unwrap();
    cluster.core.storage_changed(change, cluster.now);
}

fn mounting(name: &str) -> Value {
    pod(name, json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}))
}

#[test]
fn a_pod_waits_for_its_claim_then_for_its_volume_and_is_bound_to_the_volumes_node() {
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    cluster.pod(mounting("p"));
    assert_eq!(cluster.rejection(), "0/2 nodes are available: persistentvolumeclaim \"data\" not found. not found");
    cluster.now = MS(20_000);
    storage(&mut cluster, &[("v1", "b")], false);
    let Some(Step::PrepareVolumes { node, plan, .. }) = cluster.core.next(cluster.now) else { panic!("no plan") };
    assert_eq!((&*node, plan.bindings.len(), plan.provisions.len()), ("b", 1, 0));
    assert!(cluster.core.volumes_requested("p", Ok(()), cluster.now).is_none());
    assert_eq!(cluster.run(), []);
    let claim = json!({
        "metadata": {"name": "data", "namespace": "ns", "uid": "data", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"storageClassName": "local", "volumeName": "v1"},
    });
    let claim = Claim::new(serde_json::from_value(claim).unwrap());
    let change = cluster.core.objects_mut().volumes.apply_claim(claim).unwrap();
    cluster.core.storage_changed(change, cluster.now);
    assert_eq!(cluster.run(), [bound("p", "b")]);
}

#[test]
fn a_decided_volume_is_not_given_twice_and_comes_back_when_binding_it_fails() {
    let mut cluster = Cluster::new(&[node("a")]);
    storage(&mut cluster, &[("v1", "a")], false);
    cluster.pod(mounting("p"));
    assert!(matches!(cluster.core.next(cluster.now), Some(Step::PrepareVolumes { .. })));
    let report = cluster.core.volumes_requested("p", Err("conflict".into()), cluster.now).unwrap();
    assert_eq!(report.message, "running PreBind plugin \"VolumeBinding\": conflict");
    cluster.now = MS(1000);
    assert!(matches!(cluster.core.next(cluster.now), Some(Step::PrepareVolumes { .. })));
    cluster.now = MS(602_000);
    let Some(Step::Report(report)) = cluster.core.next(cluster.now) else { panic!("no report") };
    assert!(report.message.ends_with("context deadline exceeded"));
}

#[test]
fn a_bound_volume_pins_its_pod_to_its_node() {
    let mut cluster = Cluster::new(&[node("a"), node("b"), node("c")]);
    storage(&mut cluster, &[("v1", "b")], true);
    cluster.pod(mounting("p"));
    assert_eq!(cluster.run(), [bound("p", "b")]);
}

fn labelled(name: &str, app: &str, spec: Value) -> Value {
    merged(pod(name, spec), json!({"metadata": {"labels": {"app": app}}}))
}

fn zone(name: &str, zone: &str) -> Value {
    node_with(name, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}))
}

#[test]
fn replicas_that_refuse_each_other_spread_and_the_last_waits_for_a_place() {
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    let terms = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]);
    let replica = |name: &str| {
        labelled(
            name,
            "db",
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}),
        )
    };
    for name in ["x", "y", "z"] {
        cluster.pod(replica(name));
    }
    let seen = cluster.run();
    let mut nodes: Vec<_> = seen
        .iter()
        .filter_map(|seen| if let Seen::Bound(_, node) = seen { Some(node.clone()) } else { None })
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["a", "b"]);
    assert!(matches!(seen.last(), Some(Seen::Rejected(name, message))
        if name == "z" && message.starts_with("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.")));
    // A plain pod of the same label is kept away as well.
    cluster.pod(labelled("plain", "db", json!({})));
    assert!(
        cluster
            .rejection()
            .starts_with("0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.")
    );
    cluster.delete(replica("x"));
    assert!(matches!(cluster.run().first(), Some(Seen::Bound(name, _)) if name == "z"));
}

#[test]
fn a_hard_constraint_keeps_the_zones_even() {
    let mut cluster = Cluster::new(&[zone("a", "1"), zone("b", "1"), zone("c", "2")]);
    let constraint = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let mut in_zones = [0, 0];
    for number in 0..6 {
        cluster.pod(labelled(&format!("p{number}"), "web", json!({"topologySpreadConstraints": constraint})));
        match cluster.run().as_slice() {
            [Seen::Bound(_, node)] => in_zones[usize::from(node == "c")] += 1,
            other => panic!("expected a binding, got {other:?}"),
        }
        assert!((in_zones[0] - in_zones[1] as i32).abs() <= 1);
    }
    assert_eq!(in_zones, [3, 3]);
}

/// Whatever order events come in, kept work must equal work from scratch.
#[test]
fn kept_work_equals_work_done_anew() {
    let mut random = 7_u64;
    let mut below = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut nodes: BTreeMap<String, Value> = BTreeMap::new();
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    let mut cluster = Cluster::new(&[]);
    for step in 0..600 {
        let name = format!("n{}", below(12));
        match below(6) {
            0 | 1 => {
                let cpu = 1 + below(8);
                let mut node = node_with(
                    &name,
                    json!({"status": {"allocatable": {"cpu": cpu.to_string(), "example.com/gpu": below(3).to_string()}}}),
                );
                match below(5) {
                    0 => json_merge(&mut node, json!({"spec": {"unschedulable": true}})),
                    1 => {
                        json_merge(&mut node, json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}))
                    }
                    2 => json_merge(&mut node, json!({"metadata": {"labels": {"disk": "ssd"}}})),
                    3 => json_merge(
                        &mut node,
                        json!({"status": {"images": [{"names": ["app:1"], "sizeBytes": 900_000_000}]}}),
                    ),
                    _ => {}
                }
                cluster.node(node.clone());
                nodes.insert(name, node);
            }
            2 if below(3) == 0 => {
                cluster.core.delete_node(&name, cluster.now);
                nodes.remove(&name);
            }
            3 => {
                let name = format!("p{}", below(60));
                if let Some(pod) = pods.remove(&name) {
                    cluster.delete(pod);
                }
            }
            _ => {
                let name = format!("p{}", below(60));
                let requests =
                    json!({"cpu": format!("{}m", 100 * (1 + below(9))), "example.com/gpu": (below(4) / 3).to_string()});
                let pod = merged(asking(&name, requests), json!({"spec": {"nodeName": format!("n{}", below(12))}}));
                cluster.pod(pod.clone());
                pods.insert(name, pod);
            }
        }
        if step % 5 == 0 {
            for cpu in ["300m", "2"] {
                let probe = asking("probe", json!({"cpu": cpu, "example.com/gpu": "1"}));
                let kept = probe_outcome(&mut cluster, &probe);
                let mut anew = Cluster::new(&nodes.values().cloned().collect::<Vec<_>>());
                for pod in pods.values() {
                    anew.pod(pod.clone());
                }
                let fresh = probe_outcome(&mut anew, &probe);
                assert_eq!(kept.0, fresh.0, "step {step}");
                assert_eq!(cluster.core.snapshot.pod_count(), anew.core.snapshot.pod_count());
            }
        }
    }
}

/// The totals by node name, or the message.
fn probe_outcome(cluster: &mut Cluster, probe: &Value) -> (Vec<String>, usize) {
    let pod: Pod = serde_json::from_value(probe.clone()).unwrap();
    let class = cluster.core.classes.classify(&pod);
    let candidate = Candidate { uid: "probe".into(), class, nominated: None };
    let core = &mut cluster.core;
    match core.evaluator.decide(&mut core.snapshot, &core.objects, &core.nominations, &candidate) {
        Ok(_) => {
            let mut scored: Vec<String> = core
                .evaluator
                .last_totals()
                .map(|(node, total)| format!("{} {total}", core.snapshot.columns.name[node.index()]))
                .collect();
            scored.sort();
            (scored, 0)
        }
        Err(diagnosis) => (vec![diagnosis.message()], 1),
    }
}
