//! What a node may do: read what the pods on it need, write what is its own.
//! The graph knows which pod needs what; that a node writes only its own
//! objects is admission's to check (`NodeRestriction`).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use api::selector::FieldSelector;
use serde_json::Value;
use store::Store;

use super::feed::{Change, Feed};
use super::rules::PolicyRule;
use super::{Verdict, bootstrap, prefix};
use crate::access::{Attributes, UserInfo};
use crate::object::{self, Meta};
use crate::resource::Catalog;

/// The group of all nodes.
const NODES: &str = "system:nodes";
/// A node's user name is this and the node's name.
const NODE_USER: &str = "system:node:";
/// Where the leases of nodes are.
const LEASES: &str = "kube-node-lease";
/// Marks pods that a node made itself; they must not widen its rights.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The node that a user is; `Some("")` for a node that does not say which.
pub(crate) fn name_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_USER)?;
    user.in_group(NODES).then_some(name)
}

/// What pods refer to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Need {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

/// Kind, namespace, name.
type Target = (Need, String, String);
/// Namespace and name.
type Place = (String, String);

#[derive(Default)]
struct Volume {
    claim: Option<Place>,
    secrets: Vec<Place>,
}

#[derive(Default)]
struct Graph {
    /// By pod: its node and what it needs, itself included.
    pods: HashMap<Place, (String, HashSet<Target>)>,
    /// How many pods of each node need it.
    needed: HashMap<Target, HashMap<String, usize>>,
    volumes: HashMap<String, Volume>,
    /// Volumes by the secrets that mounting them takes.
    secrets: HashMap<Place, HashSet<String>>,
    /// By the key of an object that names its node.
    owned: HashMap<String, String>,
}

impl Graph {
    fn put_pod(&mut self, pod: &Value) {
        let place = (pod.namespace().to_owned(), pod.name().to_owned());
        self.remove_pod(&place);
        let node = object::text(pod, "spec.nodeName");
        if node.is_empty() {
            return;
        }
        let needs = needs(pod);
        for target in &needs {
            *self.needed.entry(target.clone()).or_default().entry(node.to_owned()).or_default() += 1;
        }
        self.pods.insert(place, (node.to_owned(), needs));
    }

    fn remove_pod(&mut self, place: &Place) {
        let Some((node, needs)) = self.pods.remove(place) else { return };
        for target in needs {
            let Some(nodes) = self.needed.get_mut(&target) else { continue };
            if let Some(count) = nodes.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.needed.remove(&target);
            }
        }
    }

    fn put_volume(&mut self, volume: &Value) {
        self.remove_volume(volume.name());
        let reference = object::at(volume, "spec.claimRef");
        let claim = reference.is_object().then(|| (text(reference, "namespace"), text(reference, "name")));
        let mut secrets = Vec::new();
        let fallback = claim.as_ref().map(|(namespace, _)| namespace.clone()).unwrap_or_default();
        visit_secrets(object::at(volume, "spec"), &mut |reference| {
            let namespace = text(reference, "namespace");
            let namespace = if namespace.is_empty() { fallback.clone() } else { namespace };
            secrets.push((namespace, text(reference, "name")));
        });
        for secret in &secrets {
            self.secrets.entry(secret.clone()).or_default().insert(volume.name().to_owned());
        }
        self.volumes.insert(volume.name().to_owned(), Volume { claim, secrets });
    }

    fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        for secret in volume.secrets {
            if let Some(volumes) = self.secrets.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.secrets.remove(&secret);
                }
            }
        }
    }

    fn needs(&self, node: &str, need: Need, namespace: &str, name: &str) -> bool {
        let target = (need, namespace.to_owned(), name.to_owned());
        self.needed.get(&target).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn needs_volume(&self, node: &str, name: &str) -> bool {
        let claim = self.volumes.get(name).and_then(|volume| volume.claim.as_ref());
        claim.is_some_and(|(namespace, name)| self.needs(node, Need::Claim, namespace, name))
    }

    fn needs_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        let volumes = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        self.needs(node, Need::Secret, namespace, name)
            || volumes.is_some_and(|volumes| volumes.iter().any(|volume| self.needs_volume(node, volume)))
    }
}

fn text(value: &Value, field: &str) -> String {
    object::text(value, field).to_owned()
}

/// Everything that a pod refers to in its namespace, and the pod.
fn needs(pod: &Value) -> HashSet<Target> {
    let namespace = pod.namespace();
    let mut needs = HashSet::new();
    let mut need = |kind, name: &str| {
        if !name.is_empty() {
            needs.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    need(Need::Pod, pod.name());
    if pod.annotation(MIRROR).is_none() {
        visit_references(pod, &mut need);
    }
    needs
}

fn visit_references(pod: &Value, need: &mut impl FnMut(Need, &str)) {
    need(Need::ServiceAccount, object::text(pod, "spec.serviceAccountName"));
    for secret in object::items(pod, "spec.imagePullSecrets") {
        need(Need::Secret, object::text(secret, "name"));
    }
    let lists = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];
    for container in lists.iter().flat_map(|list| object::items(pod, list)) {
        for source in object::items(container, "envFrom") {
            need(Need::Secret, object::text(source, "secretRef.name"));
            need(Need::ConfigMap, object::text(source, "configMapRef.name"));
        }
        for variable in object::items(container, "env") {
            need(Need::Secret, object::text(variable, "valueFrom.secretKeyRef.name"));
            need(Need::ConfigMap, object::text(variable, "valueFrom.configMapKeyRef.name"));
        }
    }
    for volume in object::items(pod, "spec.volumes") {
        need(Need::Secret, object::text(volume, "secret.secretName"));
        need(Need::ConfigMap, object::text(volume, "configMap.name"));
        need(Need::Claim, object::text(volume, "persistentVolumeClaim.claimName"));
        if volume.get("ephemeral").is_some_and(Value::is_object) {
            need(Need::Claim, &format!("{}-{}", pod.name(), object::text(volume, "name")));
        }
        for source in object::items(volume, "projected.sources") {
            need(Need::Secret, object::text(source, "secret.name"));
            need(Need::ConfigMap, object::text(source, "configMap.name"));
        }
        let mut secret = |reference: &Value| need(Need::Secret, object::text(reference, "name"));
        visit_secrets(volume, &mut secret);
    }
    for claim in object::items(pod, "spec.resourceClaims") {
        need(Need::ResourceClaim, object::text(claim, "resourceClaimName"));
    }
    for status in object::items(pod, "status.resourceClaimStatuses") {
        need(Need::ResourceClaim, object::text(status, "resourceClaimName"));
    }
    need(Need::ResourceClaim, object::text(pod, "status.extendedResourceClaimStatus.resourceClaimName"));
}

/// The first kind of object that a pod refers to, in the words of the refusal
/// of mirror pods; `None` if it refers to none.
pub(crate) fn reference_in(pod: &Value) -> Option<&'static str> {
    const VOLUMES: [(&str, &str); 7] = [
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const SOURCES: [(&str, &str); 5] = [
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let mut kinds = Vec::new();
    visit_references(pod, &mut |need, name| {
        if !name.is_empty() {
            kinds.push(need);
        }
    });
    let named = [
        (Need::ServiceAccount, "serviceaccounts"),
        (Need::Secret, "secrets"),
        (Need::ConfigMap, "configmaps"),
        (Need::ResourceClaim, "resourceclaims"),
    ];
    let direct = named.iter().find(|(need, _)| kinds.contains(need)).map(|(_, name)| *name);
    let has = |value: &Value, field: &str| value.get(field).is_some_and(Value::is_object);
    let volumes = object::items(pod, "spec.volumes");
    direct.or_else(|| {
        volumes.iter().find_map(|volume| {
            let plain = VOLUMES.iter().find(|(field, _)| has(volume, field));
            let projected = object::items(volume, "projected.sources");
            plain
                .or_else(|| projected.iter().find_map(|source| SOURCES.iter().find(|(field, _)| has(source, field))))
                .map(|(_, name)| *name)
        })
    })
}

/// The references to secrets in the volume sources that name them alike.
fn visit_secrets(source: &Value, visit: &mut impl FnMut(&Value)) {
    const REFERENCES: [&str; 6] = [
        "secretRef",
        "nodePublishSecretRef",
        "nodeStageSecretRef",
        "nodeExpandSecretRef",
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
    ];
    for value in source.as_object().into_iter().flat_map(|map| map.values()).filter(|value| value.is_object()) {
        for reference in REFERENCES.iter().filter_map(|name| value.get(*name)).filter(|one| one.is_object()) {
            visit(reference);
        }
        // Azure's volume names its secret in its own way.
        if let (Some(Value::String(name)), Some(_)) = (value.get("secretName"), value.get("shareName")) {
            let namespace = value.get("secretNamespace").cloned().unwrap_or_default();
            visit(&serde_json::json!({"name": name, "namespace": namespace}));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Pods,
    Volumes,
    Owned,
}

/// See the module.
pub(super) struct NodeGraph {
    store: Arc<dyn Store>,
    state: Mutex<(Vec<(Source, String, Feed)>, Graph)>,
    rules: Vec<PolicyRule>,
    attachments: String,
    slices: String,
}

impl NodeGraph {
    pub(super) fn new(store: Arc<dyn Store>, catalog: &Catalog) -> Self {
        let attachments = prefix(catalog, "storage.k8s.io", "volumeattachments");
        let slices = prefix(catalog, "resource.k8s.io", "resourceslices");
        let feed = |source, prefix: String| {
            let feed = Feed::new(&prefix);
            (source, prefix, feed)
        };
        let feeds = vec![
            feed(Source::Pods, prefix(catalog, "", "pods")),
            feed(Source::Volumes, prefix(catalog, "", "persistentvolumes")),
            feed(Source::Owned, attachments.clone()),
            feed(Source::Owned, slices.clone()),
        ];
        let rules = bootstrap::rules_of_cluster_role("system:node");
        Self { store, state: Mutex::new((feeds, Graph::default())), rules, attachments, slices }
    }

    /// The decision for a node; silent about everyone else.
    pub(super) fn verdict(&self, asked: &Attributes<'_>) -> Verdict {
        let Some(node) = name_of(asked.user) else { return refuse("") };
        if node.is_empty() {
            return refuse(format!("unknown node for user \"{}\"", asked.user.name));
        }
        if !asked.is_resource {
            return self.by_rules(asked);
        }
        match (asked.group, asked.resource) {
            ("", "secrets") => self.read(node, asked, |graph| graph.needs_secret(node, asked.namespace, asked.name)),
            ("", "configmaps") => self.read(node, asked, needs_one(node, Need::ConfigMap, asked)),
            ("", "persistentvolumeclaims") if asked.subresource == "status" => match asked.verb {
                "update" | "patch" => self.related(node, asked, needs_one(node, Need::Claim, asked)),
                _ => refuse("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get(node, asked, needs_one(node, Need::Claim, asked)),
            ("", "persistentvolumes") => self.get(node, asked, |graph| graph.needs_volume(node, asked.name)),
            ("resource.k8s.io", "resourceclaims") => self.get(node, asked, needs_one(node, Need::ResourceClaim, asked)),
            ("storage.k8s.io", "volumeattachments") => self.get(node, asked, self.owns(node, &self.attachments, asked)),
            ("", "serviceaccounts") => self.service_account(node, asked),
            ("coordination.k8s.io", "leases") => lease(node, asked),
            ("storage.k8s.io", "csinodes") => csi_node(node, asked),
            ("resource.k8s.io", "resourceslices") => self.slice(node, asked),
            ("", "nodes") => own_node(node, asked),
            ("", "pods") => self.pod(node, asked),
            _ => self.by_rules(asked),
        }
    }

    fn by_rules(&self, asked: &Attributes<'_>) -> Verdict {
        if self.rules.iter().any(|rule| rule.allows(asked)) { allow() } else { refuse("") }
    }

    fn related(&self, node: &str, asked: &Attributes<'_>, needs: impl FnOnce(&Graph) -> bool) -> Verdict {
        if asked.name.is_empty() {
            return refuse("No Object name found");
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (feeds, graph) = &mut *state;
        advance(&self.store, feeds, graph);
        if needs(graph) {
            return allow();
        }
        refuse(format!("no relationship found between node '{node}' and this object"))
    }

    fn get(&self, node: &str, asked: &Attributes<'_>, needs: impl FnOnce(&Graph) -> bool) -> Verdict {
        if asked.verb != "get" {
            return refuse("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.related(node, asked, needs)
    }

    fn read(&self, node: &str, asked: &Attributes<'_>, needs: impl FnOnce(&Graph) -> bool) -> Verdict {
        if !matches!(asked.verb, "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.related(node, asked, needs)
    }

    fn owns<'a>(&self, node: &'a str, prefix: &str, asked: &Attributes<'_>) -> impl FnOnce(&Graph) -> bool + use<'a> {
        let key = format!("{prefix}{}", asked.name);
        move |graph| graph.owned.get(&key).is_some_and(|owner| owner == node)
    }

    fn service_account(&self, node: &str, asked: &Attributes<'_>) -> Verdict {
        let needs = needs_one(node, Need::ServiceAccount, asked);
        if asked.verb == "get" && asked.subresource.is_empty() {
            return self.read(node, asked, needs);
        }
        if asked.verb != "create" || asked.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if asked.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.related(node, asked, needs)
    }

    fn slice(&self, node: &str, asked: &Attributes<'_>) -> Verdict {
        if !asked.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match asked.verb {
            "create" => allow(),
            "get" | "update" | "patch" | "delete" => self.related(node, asked, self.owns(node, &self.slices, asked)),
            "watch" | "list" | "deletecollection" if selects(asked, "spec.nodeName", node) => allow(),
            "watch" | "list" | "deletecollection" => {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, asked: &Attributes<'_>) -> Verdict {
        let needs = needs_one(node, Need::Pod, asked);
        match (asked.subresource, asked.verb) {
            ("", "get") => self.get(node, asked, needs),
            ("", "list" | "watch") if selects(asked, "spec.nodeName", node) => allow(),
            ("", "list" | "watch") if !asked.name.is_empty() => self.related(node, asked, needs),
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            // Admission limits these to the node's own pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
            _ => refuse(""),
        }
    }
}

fn needs_one<'a>(node: &'a str, need: Need, asked: &Attributes<'a>) -> impl FnOnce(&Graph) -> bool + use<'a> {
    let (namespace, name) = (asked.namespace, asked.name);
    move |graph| graph.needs(node, need, namespace, name)
}

fn advance(store: &Arc<dyn Store>, feeds: &mut [(Source, String, Feed)], graph: &mut Graph) {
    for (source, prefix, feed) in feeds {
        let known = feed.advance(store, |change| match change {
            Change::Reset => match source {
                Source::Pods => {
                    graph.pods.clear();
                    graph.needed.clear();
                }
                Source::Volumes => {
                    graph.volumes.clear();
                    graph.secrets.clear();
                }
                Source::Owned => graph.owned.retain(|key, _| !key.starts_with(prefix.as_str())),
            },
            Change::Put(entry) => {
                // What cannot be read gives no node a right.
                let value = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
                match source {
                    Source::Pods => graph.put_pod(&value),
                    Source::Volumes => graph.put_volume(&value),
                    Source::Owned => {
                        graph.owned.insert(entry.key.to_string(), text(&value, "spec.nodeName"));
                    }
                }
            }
            Change::Gone(entry) => {
                let rest = entry.key.strip_prefix(prefix.as_str()).unwrap_or_default();
                match source {
                    Source::Pods => {
                        let (namespace, name) = rest.split_once('/').unwrap_or_default();
                        graph.remove_pod(&(namespace.to_owned(), name.to_owned()));
                    }
                    Source::Volumes => graph.remove_volume(rest),
                    Source::Owned => {
                        graph.owned.remove(&*entry.key);
                    }
                }
            }
        });
        if !known {
            tracing::warn!(prefix = %prefix, "the store did not answer: deciding by what is known");
        }
    }
}

fn lease(node: &str, asked: &Attributes<'_>) -> Verdict {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return refuse(format!("can only access leases in the \"{LEASES}\" system namespace"));
    }
    if asked.verb != "create" && asked.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    allow()
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Verdict {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    allow()
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Verdict {
    match (asked.subresource, asked.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
        ("", "get" | "list" | "watch") if asked.name == node => allow(),
        ("", "get" | "list" | "watch") if asked.name.is_empty() => {
            refuse(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            refuse(format!("node '{node}' cannot read '{}', only its own Node object", asked.name))
        }
        _ => refuse(""),
    }
}

fn selects(asked: &Attributes<'_>, field: &str, value: &str) -> bool {
    FieldSelector::parse(asked.field_selector).is_ok_and(|selector| selector.exact(field) == Some(value))
}

fn allow() -> Verdict {
    Verdict { allowed: true, reason: String::new() }
}

fn refuse(reason: impl Into<String>) -> Verdict {
    Verdict { allowed: false, reason: reason.into() }
}
