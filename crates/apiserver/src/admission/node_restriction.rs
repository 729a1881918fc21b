//! NodeRestriction: a node writes its own objects and the pods on it, nothing
//! else, and cannot label or taint itself into other work.

use std::collections::BTreeSet;

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::access::Attributes;
use crate::authz;
use crate::object::{self, Meta};
use crate::pipeline::write;

/// Marks a pod that stands for one the node runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Labels of Kubernetes' own domains that a node may set on itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/arch",
];
/// Domains whose labels, and those of whose subdomains, are a node's to set.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// The domain whose labels no node may set.
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

pub(super) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn handles(&self, request: &Request<'_>) -> bool {
        authz::node_name(request.user).is_some()
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { check(request, object).await })
    }

    /// Deletions have no object to change, so this is the only call for them.
    fn validate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            match request.operation {
                Operation::Delete => check(request, object).await,
                _ => Ok(()),
            }
        })
    }
}

async fn check(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = authz::node_name(request.user) else { return Ok(()) };
    if node.is_empty() {
        return Err(request.forbid(&format!("could not determine node from user \"{}\"", request.user.name)));
    }
    let name = &request.resource.collection.group_resource;
    match (name.group.as_str(), name.resource.as_str(), request.subresource) {
        ("", "pods", "") => pod(request, node, object).await,
        ("", "pods", "status") => pod_status(request, node, object),
        ("", "pods", "eviction") => eviction(request, node).await,
        ("", "pods", other) => {
            let why = format!("unexpected pod subresource \"{other}\", only 'status' and 'eviction' are allowed");
            Err(request.forbid(&why))
        }
        ("", "nodes", _) => own_node(request, node, object),
        ("", "persistentvolumeclaims", "status") => claim_status(request, node, object),
        ("", "persistentvolumeclaims", _) => Err(request.forbid("may only update PVC status")),
        ("", "serviceaccounts", "token") => token(request, node, object).await,
        ("coordination.k8s.io", "leases", _) => lease(request, node, object),
        ("storage.k8s.io", "csinodes", _) => csi_node(request, node, object),
        ("resource.k8s.io", "resourceslices", _) => slice(request, node, object),
        ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(request, node, object),
        _ => Ok(()),
    }
}

async fn find(request: &Request<'_>, plural: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let collection = request.core.collection("", plural)?;
    let found = write::current(request.core, &collection.key(namespace, name)).await?;
    found.map(|current| current.object).ok_or_else(|| Status::not_found(&collection.group_resource, name))
}

async fn pod(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), Status> {
    match request.operation {
        Operation::Create => mirror_pod(request, node, pod).await,
        Operation::Delete => {
            let own = request.old.is_some_and(|old| object::text(old, "spec.nodeName") == node);
            let why = format!("node \"{node}\" can only delete pods with spec.nodeName set to itself");
            if own { Ok(()) } else { Err(request.forbid(&why)) }
        }
        Operation::Update | Operation::Connect => {
            let operation = format!("{:?}", request.operation).to_uppercase();
            let why =
                format!("unexpected operation \"{operation}\", node \"{node}\" can only create and delete mirror pods");
            Err(request.forbid(&why))
        }
    }
}

async fn mirror_pod(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), Status> {
    let refuse = |why: String| Err(request.forbid(&why));
    if pod.annotation(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if object::text(pod, "spec.nodeName") != node {
        return refuse(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owner = match object::items(pod, "metadata.ownerReferences") {
        [] => return refuse(format!("node \"{node}\" can only create pods with an owner reference set to itself")),
        [owner] => owner,
        _ => {
            return refuse(format!("node \"{node}\" can only create pods with a single owner reference set to itself"));
        }
    };
    let text = |field| object::text(owner, field);
    if text("apiVersion") != "v1" || text("kind") != "Node" || text("name") != node {
        return refuse(format!("node \"{node}\" can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return refuse(format!("node \"{node}\" can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
    }
    let own = find(request, "nodes", "", node).await?;
    if text("uid") != own.uid() {
        return refuse(format!("node {node} UID mismatch: expected {} got {}", text("uid"), own.uid()));
    }
    match authz::reference_in(pod) {
        Some(what) => refuse(format!("node \"{node}\" can not create pods that reference {what}")),
        None => Ok(()),
    }
}

fn pod_status(request: &Request<'_>, node: &str, new: &Value) -> Result<(), Status> {
    let refuse = |why: String| Err(request.forbid(&why));
    let (Operation::Update, Some(old)) = (request.operation, request.old) else {
        return refuse(format!("unexpected operation \"{:?}\"", request.operation));
    };
    if object::text(old, "spec.nodeName") != node {
        return refuse(format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"));
    }
    if empty_as_null(old.meta("labels")) != empty_as_null(new.meta("labels")) {
        return refuse(format!("node \"{node}\" cannot update labels through pod status"));
    }
    let claims = |pod: &Value| object::at(pod, "status.resourceClaimStatuses").clone();
    if empty_as_null(&claims(old)) != empty_as_null(&claims(new)) {
        return refuse(format!("node \"{node}\" cannot update resource claim statues"));
    }
    if object::at(old, "status.extendedResourceClaimStatus") != object::at(new, "status.extendedResourceClaimStatus") {
        return refuse(format!("node \"{node}\" cannot update extended resource claim status"));
    }
    Ok(())
}

/// Go knows no difference between empty and absent.
fn empty_as_null(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.is_empty() => Value::Null,
        Value::Array(list) if list.is_empty() => Value::Null,
        other => other.clone(),
    }
}

async fn eviction(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let pod = find(request, "pods", request.namespace, request.name).await?;
    if object::text(&pod, "spec.nodeName") != node {
        return Err(request.forbid(&format!("node {node} can only evict pods with spec.nodeName set to itself")));
    }
    Ok(())
}

fn own_node(request: &Request<'_>, node: &str, new: &Value) -> Result<(), Status> {
    let refuse = |why: String| Err(request.forbid(&why));
    let named = if request.name.is_empty() { new.name() } else { request.name };
    if named != node {
        return refuse(format!("node \"{node}\" is not allowed to modify node \"{named}\""));
    }
    match (request.operation, request.old) {
        (Operation::Create, _) => {
            if object::at(new, "spec.configSource").is_object() {
                return refuse(format!("node \"{node}\" is not allowed to create pods with a non-nil configSource"));
            }
            let forbidden = forbidden_labels(new.meta("labels"), &Value::Null);
            if !forbidden.is_empty() {
                return refuse(format!("node \"{node}\" is not allowed to set the following labels: {forbidden}"));
            }
        }
        (Operation::Update, Some(old)) => {
            let differs = |path| empty_as_null(object::at(new, path)) != empty_as_null(object::at(old, path));
            if object::at(new, "spec.configSource").is_object() && differs("spec.configSource") {
                return refuse(format!(
                    "node \"{node}\" is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if differs("spec.taints") {
                return refuse(format!("node \"{node}\" is not allowed to modify taints"));
            }
            if differs("metadata.ownerReferences") {
                return refuse(format!("node \"{node}\" is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(new.meta("labels"), old.meta("labels"));
            if !forbidden.is_empty() {
                return refuse(format!("is not allowed to modify labels: {forbidden}"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// The changed labels that are not a node's to change, in order.
fn forbidden_labels(new: &Value, old: &Value) -> String {
    let keys =
        |labels: &Value| labels.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let all: BTreeSet<String> = keys(new).into_iter().chain(keys(old)).collect();
    let changed = all.into_iter().filter(|key| new.get(key) != old.get(key));
    changed.filter(|key| forbidden_label(key)).collect::<Vec<_>>().join(", ")
}

fn forbidden_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |outer: &str| domain == outer || domain.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'));
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let own = OWN_LABELS.contains(&key) || OWN_DOMAINS.iter().any(|domain| within(domain));
    within(RESTRICTED_DOMAIN) || (kubernetes && !own)
}

fn claim_status(request: &Request<'_>, node: &str, new: &Value) -> Result<(), Status> {
    let (Operation::Update, Some(old)) = (request.operation, request.old) else {
        return Err(request.forbid(&format!("unexpected operation \"{:?}\"", request.operation)));
    };
    let bare = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["managedFields", "resourceVersion"] {
            object::metadata(&mut claim).remove(field);
        }
        let status = object::map_mut(&mut claim, "status");
        for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
            status.remove(field);
        }
        claim
    };
    if bare(old) != bare(new) {
        let why =
            format!("node \"{node}\" is not allowed to update fields other than status.quantity and status.conditions");
        return Err(request.forbid(&why));
    }
    Ok(())
}

async fn token(request: &Request<'_>, node: &str, asked: &Value) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let refuse = |why: String| Err(request.forbid(&why));
    let text = |field| object::text(asked, field);
    let (kind, version, name) =
        (text("spec.boundObjectRef.kind"), text("spec.boundObjectRef.apiVersion"), text("spec.boundObjectRef.name"));
    if kind != "Pod" || version != "v1" || name.is_empty() {
        return refuse("node requested token not bound to a pod".to_owned());
    }
    let uid = text("spec.boundObjectRef.uid");
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid".to_owned());
    }
    let pod = find(request, "pods", request.namespace, name).await?;
    if uid != pod.uid() {
        return refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        ));
    }
    if object::text(&pod, "spec.nodeName") != node {
        return refuse("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    audience(request, asked, &pod).await.or_else(refuse)
}

/// A node asks only for audiences that the pod's volumes name, or that it may
/// ask for by a rule of its own.
async fn audience(request: &Request<'_>, asked: &Value, pod: &Value) -> Result<(), String> {
    let audience = match object::items(asked, "spec.audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let projected =
        object::items(pod, "spec.volumes").iter().flat_map(|volume| object::items(volume, "projected.sources"));
    let mut named = projected
        .filter(|source| source.get("serviceAccountToken").is_some_and(Value::is_object))
        .any(|source| object::text(source, "serviceAccountToken.audience") == audience);
    for volume in object::items(pod, "spec.volumes") {
        named = named || driver_names(request, pod, volume, audience).await;
    }
    let may = Attributes {
        user: request.user,
        verb: "request-serviceaccounts-token-audience",
        namespace: request.namespace,
        group: "",
        version: "v1",
        resource: audience,
        subresource: "",
        name: request.name,
        path: "",
        is_resource: true,
        field_selector: "",
    };
    if named || request.core.authorizer.verdict(&may).allowed {
        return Ok(());
    }
    Err(format!(
        "audience \"{audience}\" not found in pod spec volume, {} is not authorized to request tokens for this audience",
        request.user.name
    ))
}

/// Whether the CSI driver behind a volume asks for tokens of the audience. One
/// that cannot be found asks for none.
async fn driver_names(request: &Request<'_>, pod: &Value, volume: &Value, audience: &str) -> bool {
    let claim = object::text(volume, "persistentVolumeClaim.claimName");
    let ephemeral = object::at(volume, "ephemeral.volumeClaimTemplate").is_object();
    let claim = if ephemeral { format!("{}-{}", pod.name(), object::text(volume, "name")) } else { claim.to_owned() };
    let mut driver = object::text(volume, "csi.driver").to_owned();
    if !claim.is_empty() {
        let Ok(claim) = find(request, "persistentvolumeclaims", request.namespace, &claim).await else { return false };
        let name = object::text(&claim, "spec.volumeName");
        let Ok(volume) = find(request, "persistentvolumes", "", name).await else { return false };
        driver = object::text(&volume, "spec.csi.driver").to_owned();
    }
    if driver.is_empty() {
        return false;
    }
    let Ok(drivers) = request.core.collection("storage.k8s.io", "csidrivers") else { return false };
    match write::current(request.core, &drivers.key("", &driver)).await {
        Ok(Some(driver)) => {
            let requests = object::items(&driver.object, "spec.tokenRequests");
            requests.iter().any(|one| object::text(one, "audience") == audience)
        }
        _ => false,
    }
}

fn lease(request: &Request<'_>, node: &str, new: &Value) -> Result<(), Status> {
    if request.namespace != LEASES {
        return Err(request.forbid(&format!("can only access leases in the \"{LEASES}\" system namespace")));
    }
    let named = if request.name.is_empty() { new.name() } else { request.name };
    if named != node {
        return Err(request.forbid("can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}

fn csi_node(request: &Request<'_>, node: &str, new: &Value) -> Result<(), Status> {
    let named = if request.name.is_empty() { new.name() } else { request.name };
    if named != node {
        return Err(request.forbid("can only access CSINode with the same name as the requesting node"));
    }
    Ok(())
}

fn slice(request: &Request<'_>, node: &str, new: &Value) -> Result<(), Status> {
    let (object, done) = match (request.operation, request.old) {
        (Operation::Create, _) => (new, "create"),
        (Operation::Delete, Some(old)) => (old, "delete"),
        _ => return Ok(()),
    };
    if object::text(object, "spec.nodeName") != node {
        return Err(
            request.forbid(&format!("can only {done} ResourceSlice with the same NodeName as the requesting node"))
        );
    }
    Ok(())
}

/// Requests for the kubelet's own kinds of certificate must be for this node.
fn signing_request(request: &Request<'_>, node: &str, new: &Value) -> Result<(), Status> {
    use base64::Engine as _;
    const SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    if request.operation != Operation::Create || !SIGNERS.contains(&object::text(new, "spec.signerName")) {
        return Ok(());
    }
    let pem = base64::engine::general_purpose::STANDARD.decode(object::text(new, "spec.request"));
    let pem = pem.map_err(|error| request.forbid(&format!("unable to parse csr: {error}")))?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem)
        .map_err(|error| request.forbid(&format!("unable to parse csr: {error}")))?;
    use x509_parser::prelude::FromDer as _;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| request.forbid(&format!("unable to parse csr: {error}")))?;
    let subject = &parsed.certification_request_info.subject;
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    if name != request.user.name {
        return Err(request.forbid(&format!("can only create a node CSR with CN=system:node:{node}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_sets_its_own_labels_and_no_others() {
        for own in ["kubernetes.io/hostname", "node.kubernetes.io/x", "a.kubelet.kubernetes.io/x", "example.com/x", "x"]
        {
            assert!(!forbidden_label(own), "{own}");
        }
        for other in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/x",
            "team.node-restriction.kubernetes.io/x",
            "kubernetes.io/x",
            "k8s.io/x",
        ] {
            assert!(forbidden_label(other), "{other}");
        }
        let (old, new) = (json!({"k8s.io/a": "1", "k8s.io/b": "1"}), json!({"k8s.io/a": "1", "k8s.io/c": "1"}));
        assert_eq!(forbidden_labels(&new, &old), "k8s.io/b, k8s.io/c");
    }
}
