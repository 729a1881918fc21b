//! What the decision needs, read from local copies of the cluster. Nothing is
//! asked of the server and nothing is written here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use api::elastic::{RUNG_ANNOTATION, RUNG_SINCE_ANNOTATION, Rule, Rung, SleepPolicy, Sleeper, TargetRef, rule};
use api::selector::{Labels, Selector};
use api::types::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use api::types::api::core::v1::{Node, Pod, Service};
use api::types::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::informer::controller_of;
use client::zones::Zones;
use client::{Client, Informer, InformerTask, ObjectKey, WatchParams};
use jiff::Timestamp;

use super::plan::{self, Asleep, Facts, Policy};

/// Kinds that can be taken to zero: all have replicas and the scale subresource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Kind {
    Deployment,
    ReplicaSet,
    StatefulSet,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Deployment, Kind::ReplicaSet, Kind::StatefulSet];
    /// Their API version.
    pub(super) const API_VERSION: &str = "apps/v1";

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Deployment => "Deployment",
            Kind::ReplicaSet => "ReplicaSet",
            Kind::StatefulSet => "StatefulSet",
        }
    }

    /// As in paths.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Kind::Deployment => "deployments",
            Kind::ReplicaSet => "replicasets",
            Kind::StatefulSet => "statefulsets",
        }
    }

    fn parse(kind: &str, api_version: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|one| one.as_str() == kind && api_version == Kind::API_VERSION)
    }
}

/// A workload.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Key {
    pub(super) namespace: Arc<str>,
    pub(super) kind: Kind,
    pub(super) name: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind.as_str(), self.name)
    }
}

impl Key {
    fn new(namespace: &str, kind: Kind, name: &str) -> Self {
        Self { namespace: namespace.into(), kind, name: name.into() }
    }

    pub(super) fn of_sleeper(sleeper: &Sleeper) -> Option<Self> {
        let target = &sleeper.spec.target_ref;
        let kind = Kind::parse(&target.kind, &target.api_version)?;
        Some(Self::new(sleeper.metadata.namespace.as_deref()?, kind, &target.name))
    }

    pub(super) fn of_object(kind: Kind, metadata: &ObjectMeta) -> Option<Self> {
        Some(Self::new(metadata.namespace.as_deref()?, kind, metadata.name.as_deref()?))
    }

    /// The Sleeper's key.
    pub(super) fn sleeper(&self) -> ObjectKey {
        ObjectKey::new(&*self.namespace, format!("{}.{}", self.kind.as_str().to_lowercase(), self.name))
    }

    pub(super) fn target(&self) -> TargetRef {
        TargetRef {
            api_version: Kind::API_VERSION.into(),
            kind: self.kind.as_str().into(),
            name: self.name.to_string(),
        }
    }
}

/// A workload as its object says.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) metadata: ObjectMeta,
    pub(super) replicas: i32,
    pub(super) labels: Labels,
}

/// Local copies.
pub(super) struct Copies {
    pub(super) policies: Informer<SleepPolicy>,
    pub(super) sleepers: Informer<Sleeper>,
    pub(super) pods: Informer<Pod>,
    pub(super) services: Informer<Service>,
    pub(super) nodes: Informer<Node>,
    pub(super) deployments: Informer<Deployment>,
    pub(super) replica_sets: Informer<ReplicaSet>,
    pub(super) stateful_sets: Informer<StatefulSet>,
    zones: Zones,
}

fn trim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
}

impl Copies {
    /// And the tasks that keep them.
    pub(super) fn new(client: &Client) -> (Self, Vec<InformerTask>) {
        let everything = WatchParams::default;
        let (policies, a) = Informer::trimmed(client.all::<SleepPolicy>(), everything(), |p| trim(&mut p.metadata));
        let (sleepers, b) = Informer::trimmed(client.all::<Sleeper>(), everything(), |s| trim(&mut s.metadata));
        let (pods, c) = Informer::trimmed(client.all::<Pod>(), everything(), |pod| {
            trim(&mut pod.metadata);
            pod.spec = None;
            if let Some(status) = pod.status.take() {
                let kept = api::types::api::core::v1::PodStatus { conditions: status.conditions, ..Default::default() };
                pod.status = Some(kept);
            }
        });
        let (services, d) = Informer::trimmed(client.all::<Service>(), everything(), |s| {
            trim(&mut s.metadata);
            s.status = None;
        });
        let (nodes, e) = Informer::trimmed(client.all::<Node>(), everything(), |node| {
            trim(&mut node.metadata);
            node.spec = None;
            if let Some(status) = node.status.take() {
                let kept =
                    api::types::api::core::v1::NodeStatus { conditions: status.conditions, ..Default::default() };
                node.status = Some(kept);
            }
        });
        let (deployments, f) = Informer::trimmed(client.all::<Deployment>(), everything(), |one| {
            trim(&mut one.metadata);
            one.status = None;
            if let Some(spec) = &mut one.spec {
                spec.template.spec = None;
            }
        });
        let (replica_sets, g) = Informer::trimmed(client.all::<ReplicaSet>(), everything(), |one| {
            trim(&mut one.metadata);
            one.status = None;
            if let Some(template) = one.spec.as_mut().and_then(|spec| spec.template.as_mut()) {
                template.spec = None;
            }
        });
        let (stateful_sets, h) = Informer::trimmed(client.all::<StatefulSet>(), everything(), |one| {
            trim(&mut one.metadata);
            one.status = None;
            if let Some(spec) = &mut one.spec {
                spec.template.spec = None;
            }
        });
        let zones = Zones::default();
        let copies =
            Self { policies, sleepers, pods, services, nodes, deployments, replica_sets, stateful_sets, zones };
        (copies, vec![a, b, c, d, e, f, g, h])
    }

    /// The workload that a pod is of, if it can be taken to zero.
    pub(super) fn workload_of(&self, pod: &Pod) -> Option<Key> {
        let namespace = pod.metadata.namespace.as_deref()?;
        let owner = controller_of(pod)?;
        let kind = Kind::parse(&owner.kind, &owner.api_version)?;
        if kind == Kind::ReplicaSet
            && let Some(set) = self.replica_sets.get(&ObjectKey::new(namespace, owner.name.as_str()))
            && let Some(above) = controller_of(&*set)
        {
            // Owned by something that would undo what is done to the set.
            let kind = Kind::parse(&above.kind, &above.api_version)?;
            return Some(Key::new(namespace, kind, &above.name));
        }
        Some(Key::new(namespace, kind, &owner.name))
    }

    /// Workloads of a namespace that have pods or a Sleeper.
    pub(super) fn workloads(&self, namespace: &str) -> BTreeSet<Key> {
        let pods = self.pods.in_namespace(namespace);
        let sleepers = self.sleepers.in_namespace(namespace);
        let asleep = sleepers.iter().filter_map(|sleeper| Key::of_sleeper(sleeper));
        pods.iter().filter_map(|pod| self.workload_of(pod)).chain(asleep).collect()
    }

    pub(super) fn workload(&self, key: &Key) -> Option<Workload> {
        let object = ObjectKey::new(&*key.namespace, &*key.name);
        let labels = |metadata: Option<&ObjectMeta>| metadata.and_then(|m| m.labels.clone()).unwrap_or_default();
        match key.kind {
            Kind::Deployment => self.deployments.get(&object).map(|one| Workload {
                metadata: one.metadata.clone(),
                replicas: one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
                labels: labels(one.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref())),
            }),
            Kind::ReplicaSet => self.replica_sets.get(&object).map(|one| Workload {
                metadata: one.metadata.clone(),
                replicas: one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
                labels: labels(one.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.metadata.as_ref())),
            }),
            Kind::StatefulSet => self.stateful_sets.get(&object).map(|one| Workload {
                metadata: one.metadata.clone(),
                replicas: one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
                labels: labels(one.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref())),
            }),
        }
    }

    /// True if nothing about sleep is said in the namespace.
    pub(super) fn is_silent(&self, namespace: &str) -> bool {
        self.policies.in_namespace(namespace).is_empty() && self.sleepers.in_namespace(namespace).is_empty()
    }

    /// Everything about one workload.
    pub(super) fn facts(&self, key: &Key, workload: &Workload, now: Timestamp) -> Facts {
        let (services, headless) = self.services(&key.namespace, &workload.labels);
        let pods = self.pods.in_namespace(&key.namespace);
        Facts {
            now,
            replicas: workload.replicas,
            pods: pods.iter().filter(|pod| self.workload_of(pod).as_ref() == Some(key)).map(|pod| seen(pod)).collect(),
            policy: self.policy(&key.namespace, &workload.labels, now),
            asleep: self.sleepers.get(&key.sleeper()).map(|sleeper| asleep(&sleeper)),
            services,
            headless,
            nodes: self.nodes.list().iter().filter(|n| is_ready(n)).filter_map(|n| n.metadata.name.clone()).collect(),
        }
    }

    /// The policy that holds for pods of these labels, if it allows zero.
    fn policy(&self, namespace: &str, labels: &Labels, now: Timestamp) -> Option<Policy> {
        let policies = self.policies.in_namespace(namespace);
        let Rule::Policy(policy) = rule(labels, None, &policies) else { return None };
        if policy.spec.lowest_rung() < Rung::Gone {
            return None;
        }
        let (mut warm, mut next_window) = (false, None::<Timestamp>);
        for window in &policy.spec.keep_warm {
            let zone = self.zones.get(window.time_zone.as_deref());
            // The schema refuses what can't be read.
            let Ok((inside, boundary)) = window.at(&zone, now) else { continue };
            warm |= inside;
            next_window = next_window.into_iter().chain(boundary).min();
        }
        Some(Policy {
            name: policy.metadata.name.clone()?,
            idle_after: policy.spec.idle_after,
            objective: policy.spec.first_response.map(|response| response.p99),
            warm,
            next_window,
        })
    }

    /// Services with an address that select these labels, and whether one
    /// without does.
    fn services(&self, namespace: &str, labels: &Labels) -> (Vec<String>, bool) {
        let (mut found, mut headless) = (Vec::new(), false);
        for service in self.services.in_namespace(namespace) {
            let Some(spec) = &service.spec else { continue };
            let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty());
            if !selector.is_some_and(|selector| Selector::from_map(selector).matches(labels)) {
                continue;
            }
            match spec.cluster_ip.as_deref() {
                Some("None") => headless = true,
                Some(address) if !address.is_empty() => found.extend(service.metadata.name.clone()),
                _ => {}
            }
        }
        found.sort();
        (found, headless)
    }
}

pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn seen(pod: &Pod) -> plan::Pod {
    let note = |name: &str| pod.metadata.annotations.as_ref().and_then(|notes| notes.get(name)).map(String::as_str);
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    plan::Pod {
        rung: note(RUNG_ANNOTATION).and_then(Rung::parse).unwrap_or_default(),
        since: note(RUNG_SINCE_ANNOTATION).and_then(|since| since.parse().ok()),
        ready: conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        ending: pod.metadata.deletion_timestamp.is_some(),
    }
}

fn asleep(sleeper: &Sleeper) -> Asleep {
    let status = sleeper.status.clone().unwrap_or_default();
    let made = sleeper.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Asleep {
        phase: status.phase,
        since: status.since.map(|time| time.0).or(made).unwrap_or(Timestamp::MIN),
        reason: status.reason.unwrap_or_default(),
        hold: sleeper.spec.hold,
        replicas: sleeper.spec.replicas,
        services: sleeper.spec.services.clone(),
        nodes: status.nodes,
    }
}
