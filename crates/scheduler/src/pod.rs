//! A pod reduced to what decisions depend on. The shape is what node-by-node
//! rules see; the class adds what rules between pods see. Pods of one workload
//! share both, and so their filter and score work.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::node_selector::{NodeSelection, NodeTerm};
use api::selector::{Labels, Selector};
use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::node::{Effect, Taint};
use crate::resources::{Usage, is_sidecar};
use crate::table::{Entry, Table};

/// Taint of a cordoned node.
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Address that stands for every address of a node.
const ANY_ADDRESS: &str = "0.0.0.0";

/// Namespace and name of a pod.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PodKey {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl PodKey {
    /// Of an API object.
    pub fn of(pod: &core::Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What rules about one node and one pod read.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Shape {
    /// Resources, shared with the pods that take just that.
    pub usage: Arc<Usage>,
    /// `spec.nodeName`, empty for a pod that waits for a node.
    pub node_name: String,
    /// Node selector and required node affinity.
    pub selection: NodeSelection,
    /// Preferred node affinity with its weights.
    pub preferred: Vec<(i32, NodeTerm)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Ports on the node.
    pub ports: Vec<HostPort>,
    /// Image names with a tag, one for each container and image volume.
    pub images: Vec<String>,
    /// Containers and init containers.
    pub container_count: usize,
}

/// One toleration.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Toleration {
    /// Empty: every key.
    pub key: String,
    /// True for `Exists`: the value does not matter. `None` for an operator
    /// that is not enabled: tolerates nothing.
    pub exists: Option<bool>,
    /// Compared for `Equal`.
    pub value: String,
    /// `None`: every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    fn new(toleration: &core::Toleration) -> Self {
        Self {
            key: toleration.key.clone().unwrap_or_default(),
            exists: match toleration.operator.as_deref() {
                Some("Exists") => Some(true),
                None | Some("" | "Equal") => Some(false),
                Some(_) => None,
            },
            value: toleration.value.clone().unwrap_or_default(),
            effect: toleration.effect.as_deref().filter(|effect| !effect.is_empty()).map(Effect::parse),
        }
    }

    /// True if it tolerates the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && self.exists.is_some_and(|exists| exists || self.value == taint.value)
    }
}

impl Shape {
    /// True if one of the tolerations tolerates the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    }

    /// True if a taint keeps the pod away.
    pub fn is_repelled(&self, taints: &[Taint]) -> bool {
        taints.iter().any(|taint| taint.effect.forbids_scheduling() && !self.tolerates(taint))
    }

    /// True if the pod may go to a cordoned node.
    pub fn tolerates_unschedulable(&self) -> bool {
        let taint = Taint { key: UNSCHEDULABLE_TAINT.into(), value: String::new(), effect: Effect::NoSchedule };
        self.tolerates(&taint)
    }
}

/// A port taken on a node.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostPort {
    /// Number.
    pub port: i32,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// `0.0.0.0` for every address.
    pub address: String,
}

impl HostPort {
    /// True if both can't be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY_ADDRESS || other.address == ANY_ADDRESS)
    }
}

/// What rules between pods read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClassFacts {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.labels`.
    pub labels: Arc<Labels>,
    /// Shared among classes.
    pub shape: SharedShape,
    /// `spec.priority`, 0 if absent.
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Pod affinity and anti-affinity, if any.
    pub affinity: Option<Box<PodAffinity>>,
    /// `spec.topologySpreadConstraints`.
    pub spread: Vec<SpreadConstraint>,
    /// Controlling owner.
    pub owner: Option<Owner>,
    /// Names of persistent volume claims, those of ephemeral volumes included.
    pub claims: Vec<ClaimRef>,
    /// Disks that are mounted directly and cannot be shared freely.
    pub disks: Vec<Disk>,
    /// Asks for resource claims.
    pub resource_claims: bool,
}

/// A claim that a pod mounts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClaimRef {
    /// Name of the claim, in the pod's namespace.
    pub name: String,
    /// Uid of the pod that an ephemeral volume makes it for; none if it was
    /// made by somebody.
    pub made_for: Option<String>,
}

impl ClaimRef {
    /// True if it is made for the pod by an ephemeral volume.
    pub fn is_ephemeral(&self) -> bool {
        self.made_for.is_some()
    }
}

/// A disk that is mounted without a claim.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Disk {
    /// A disk of Google's, shared only read-only.
    Gce {
        /// Its name.
        name: String,
        /// Mounted read-only.
        read_only: bool,
    },
    /// A disk of Amazon's, never shared.
    Aws(String),
    /// An iSCSI target, shared only read-only.
    Iscsi {
        /// Qualified name.
        target: String,
        /// Mounted read-only.
        read_only: bool,
    },
    /// A Ceph image, shared only read-only.
    Rbd {
        /// Monitors; one in common makes it the same cluster.
        monitors: Vec<String>,
        /// Pool and image.
        image: (String, String),
        /// Mounted read-only.
        read_only: bool,
    },
}

impl Disk {
    fn of_volume(volume: &core::Volume) -> Option<Self> {
        let read_only = |flag: Option<bool>| flag.unwrap_or(false);
        if let Some(disk) = &volume.gce_persistent_disk {
            return Some(Self::Gce { name: disk.pd_name.clone(), read_only: read_only(disk.read_only) });
        }
        if let Some(disk) = &volume.aws_elastic_block_store {
            return Some(Self::Aws(disk.volume_id.clone()));
        }
        if let Some(disk) = &volume.iscsi {
            return Some(Self::Iscsi { target: disk.iqn.clone(), read_only: read_only(disk.read_only) });
        }
        let disk = volume.rbd.as_ref()?;
        Some(Self::Rbd {
            monitors: disk.monitors.clone(),
            image: (disk.pool.clone().unwrap_or_else(|| "rbd".into()), disk.image.clone()),
            read_only: read_only(disk.read_only),
        })
    }

    /// True if both can't be mounted on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gce { name, read_only }, Self::Gce { name: other, read_only: other_read_only }) => {
                name == other && !(*read_only && *other_read_only)
            }
            (Self::Aws(id), Self::Aws(other)) => id == other,
            (Self::Iscsi { target, read_only }, Self::Iscsi { target: other, read_only: other_read_only }) => {
                target == other && !(*read_only && *other_read_only)
            }
            (
                Self::Rbd { monitors, image, read_only },
                Self::Rbd { monitors: others, image: other, read_only: other_read_only },
            ) => {
                image == other
                    && !(*read_only && *other_read_only)
                    && monitors.iter().any(|monitor| others.contains(monitor))
            }
            _ => false,
        }
    }
}

/// The controller of a pod.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    /// `apps/v1`.
    pub api_version: String,
    /// `ReplicaSet`.
    pub kind: String,
    /// Name in the pod's namespace.
    pub name: String,
}

/// A [`Shape`] compared by its number.
#[derive(Clone, Debug)]
pub struct SharedShape(pub Arc<Entry<Shape>>);

impl PartialEq for SharedShape {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for SharedShape {}

impl std::hash::Hash for SharedShape {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

/// A class, shared by all pods that are alike.
pub type Class = Arc<Entry<ClassFacts>>;

/// Terms between pods.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct PodAffinity {
    /// Must be near pods that match each of these.
    pub required: Vec<PodTerm>,
    /// Better near these.
    pub preferred: Vec<(i32, PodTerm)>,
    /// Must not be near these.
    pub anti_required: Vec<PodTerm>,
    /// Better not near these.
    pub anti_preferred: Vec<(i32, PodTerm)>,
}

/// Pods that an affinity speaks of, and how near is near.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PodTerm {
    /// Namespaces by name.
    pub namespaces: BTreeSet<String>,
    /// Namespaces by label.
    pub namespace_selector: Selector,
    /// Pods by label.
    pub selector: Selector,
    /// Nodes with an equal value of this label are near each other.
    pub topology_key: String,
}

impl PodTerm {
    fn new(term: &core::PodAffinityTerm, namespace: &str) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: selector(term.namespace_selector.as_ref()),
            selector: selector(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// True if it speaks of a pod in this namespace with these labels.
    pub fn matches(&self, namespace: &str, namespace_labels: &Labels, labels: &Labels) -> bool {
        (self.namespaces.contains(namespace) || self.namespace_selector.matches(namespace_labels))
            && self.selector.matches(labels)
    }
}

/// A selector that is not well formed selects nothing.
fn selector(selector: Option<&LabelSelector>) -> Selector {
    Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing())
}

/// One topology spread constraint.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SpreadConstraint {
    /// Greatest difference between two domains.
    pub max_skew: i32,
    /// Label that makes the domains.
    pub topology_key: String,
    /// `DoNotSchedule`; otherwise it only scores.
    pub hard: bool,
    /// Pods that count.
    pub selector: Selector,
    /// With fewer domains the least count is 0.
    pub min_domains: i32,
    /// Only nodes that the pod's affinity admits count.
    pub honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates count.
    pub honor_taints: bool,
}

impl SpreadConstraint {
    fn new(constraint: &core::TopologySpreadConstraint, labels: &Labels) -> Self {
        let mut merged = Selector::everything();
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                merged.require_equal(key, value);
            }
        }
        merged.and(&selector(constraint.label_selector.as_ref()));
        Self {
            max_skew: constraint.max_skew,
            topology_key: constraint.topology_key.clone(),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            selector: merged,
            min_domains: constraint.min_domains.unwrap_or(1),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

/// Shapes and classes in use.
#[derive(Debug, Default)]
pub struct Classes {
    shapes: Table<Shape>,
    classes: Table<ClassFacts>,
}

impl Classes {
    /// The class of a pod.
    pub fn classify(&mut self, pod: &core::Pod) -> Class {
        let empty = core::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let namespace: Arc<str> = pod.metadata.namespace.as_deref().unwrap_or_default().into();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let shape = SharedShape(self.shapes.intern(shape_of(spec)));
        let facts = ClassFacts {
            affinity: affinity_of(spec, &namespace).map(Box::new),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| SpreadConstraint::new(constraint, &labels))
                .collect(),
            namespace,
            labels: Arc::new(labels),
            shape,
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            owner: owner_of(pod),
            claims: claims_of(pod, spec),
            disks: spec.volumes.iter().flatten().filter_map(Disk::of_volume).collect(),
            resource_claims: spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()),
        };
        self.classes.intern(facts)
    }
}

fn shape_of(spec: &core::PodSpec) -> Shape {
    let containers = || spec.containers.iter();
    let init_containers = || spec.init_containers.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = affinity
        .iter()
        .flat_map(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let volume_images = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    let images = init_containers().chain(containers()).filter_map(|container| container.image.as_deref());
    let mut ports: Vec<HostPort> = init_containers()
        .filter(|container| is_sidecar(container))
        .chain(containers())
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
        .map(|port| HostPort {
            port: port.host_port.unwrap_or(0),
            protocol: port.protocol.clone().filter(|protocol| !protocol.is_empty()).unwrap_or_else(|| "TCP".into()),
            address: port.host_ip.clone().filter(|address| !address.is_empty()).unwrap_or_else(|| ANY_ADDRESS.into()),
        })
        .collect();
    ports.sort();
    ports.dedup();
    Shape {
        usage: Arc::new(Usage::of_pending(spec)),
        node_name: spec.node_name.clone().unwrap_or_default(),
        selection: NodeSelection::of_pod(spec),
        preferred: preferred
            .filter(|term| term.weight != 0)
            .map(|term| (term.weight, NodeTerm::new(&term.preference)))
            .collect(),
        tolerations: spec.tolerations.iter().flatten().map(Toleration::new).collect(),
        ports,
        images: images.chain(volume_images).map(tagged).collect(),
        container_count: containers().count() + init_containers().count(),
    }
}

/// An image name as nodes report it: without a tag it means `latest`.
fn tagged(name: &str) -> String {
    let after_path = name.rfind('/').map_or(0, |slash| slash + 1);
    if name[after_path..].contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

fn affinity_of(spec: &core::PodSpec, namespace: &str) -> Option<PodAffinity> {
    let affinity = spec.affinity.as_ref()?;
    let near = affinity.pod_affinity.as_ref();
    let far = affinity.pod_anti_affinity.as_ref();
    let weighted =
        |term: &core::WeightedPodAffinityTerm| (term.weight, PodTerm::new(&term.pod_affinity_term, namespace));
    let plain = |term: &core::PodAffinityTerm| PodTerm::new(term, namespace);
    let result = PodAffinity {
        required: near
            .iter()
            .flat_map(|near| near.required_during_scheduling_ignored_during_execution.iter().flatten())
            .map(plain)
            .collect(),
        preferred: near
            .iter()
            .flat_map(|near| near.preferred_during_scheduling_ignored_during_execution.iter().flatten())
            .map(weighted)
            .collect(),
        anti_required: far
            .iter()
            .flat_map(|far| far.required_during_scheduling_ignored_during_execution.iter().flatten())
            .map(plain)
            .collect(),
        anti_preferred: far
            .iter()
            .flat_map(|far| far.preferred_during_scheduling_ignored_during_execution.iter().flatten())
            .map(weighted)
            .collect(),
    };
    (result != PodAffinity::default()).then_some(result)
}

fn owner_of(pod: &core::Pod) -> Option<Owner> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    Some(Owner { api_version: owner.api_version.clone(), kind: owner.kind.clone(), name: owner.name.clone() })
}

fn claims_of(pod: &core::Pod, spec: &core::PodSpec) -> Vec<ClaimRef> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(ClaimRef { name: claim.claim_name.clone(), made_for: None }),
            (None, Some(_)) => {
                Some(ClaimRef { name: format!("{pod_name}-{}", volume.name), made_for: Some(uid.to_owned()) })
            }
            (None, None) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> core::Pod {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn pods_that_differ_in_name_only_share_class_and_shape() {
        let mut classes = Classes::default();
        let mut classify = |name: &str, labels: serde_json::Value| {
            classes.classify(&pod(serde_json::json!({
                "metadata": {"name": name, "namespace": "ns", "labels": labels},
                "spec": {"containers": [{"name": "c", "image": "app"}]},
            })))
        };
        let one = classify("one", serde_json::json!({"app": "a"}));
        assert_eq!(one.id, classify("two", serde_json::json!({"app": "a"})).id);
        let other = classify("three", serde_json::json!({"app": "b"}));
        assert_ne!(one.id, other.id);
        assert_eq!(one.shape, other.shape);
        assert_eq!(one.shape.0.images, ["app:latest"]);
    }

    #[test]
    fn a_toleration_matches_by_key_value_and_effect() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: Effect::NoSchedule };
        for (json, expected) in [
            (serde_json::json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (serde_json::json!({"key": "k", "value": "v"}), true),
            (serde_json::json!({"key": "k", "value": "w"}), false),
            (serde_json::json!({"operator": "Exists"}), true),
            (serde_json::json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (serde_json::json!({"key": "other", "operator": "Exists"}), false),
        ] {
            let toleration = Toleration::new(&serde_json::from_value(json.clone()).unwrap());
            assert_eq!(toleration.tolerates(&taint), expected, "{json}");
        }
    }

    #[test]
    fn an_image_without_a_tag_means_latest() {
        for (name, expected) in
            [("a", "a:latest"), ("a:1", "a:1"), ("h:5000/a", "h:5000/a:latest"), ("h:5000/a:1", "h:5000/a:1")]
        {
            assert_eq!(tagged(name), expected);
        }
    }
}
