//! The objects that every cluster has from its first second. Created where they
//! are missing, never overwritten.

use api::status::Status;
use serde_json::{Value, json};

use crate::access::UserInfo;
use crate::config::StartError;
use crate::pipeline::call::stamp;
use crate::pipeline::create::{self, Creation};
use crate::pipeline::write::read_failed;
use crate::state::Core;

/// Creates what is missing.
pub(crate) async fn run(core: &Core) -> Result<(), StartError> {
    let repaired = core.hooks.repair(core).await;
    repaired.map_err(|status| StartError::Bootstrap {
        object: "service allocations".to_owned(),
        source: Box::new(status),
    })?;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(core, "", "namespaces", "", object).await?;
    }
    kubernetes_service(core).await?;
    let restored = crate::custom::restore(core).await;
    restored.map_err(|status| StartError::Bootstrap { object: "custom kinds".to_owned(), source: Box::new(status) })?;
    for (name, value, description) in [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
        });
        ensure(core, "scheduling.k8s.io", "priorityclasses", "", object).await?;
    }
    Ok(())
}

/// The service by which pods find this server, with its endpoints.
async fn kubernetes_service(core: &Core) -> Result<(), StartError> {
    const PORT_NAME: &str = "https";
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let (address, port) = core.settings.advertise;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": core.hooks.first_address().to_string(),
            "sessionAffinity": "None",
            "ports": [{"name": PORT_NAME, "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    });
    ensure(core, "", "services", "default", service).await?;
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": PORT_NAME, "protocol": "TCP", "port": port}],
        }],
    });
    ensure(core, "", "endpoints", "default", endpoints).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": PORT_NAME, "protocol": "TCP", "port": port}],
    });
    ensure(core, "discovery.k8s.io", "endpointslices", "default", slice).await
}

/// Creates an object unless one of its name exists.
pub(crate) async fn ensure(
    core: &Core,
    group: &str,
    plural: &str,
    namespace: &str,
    mut object: Value,
) -> Result<(), StartError> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let failed = |status: Status| StartError::Bootstrap { object: format!("{kind} {name}"), source: Box::new(status) };
    let resource =
        core.catalog.by_resource(group, plural).ok_or_else(|| failed(Status::internal("not in the table of kinds")))?;
    // Asked first: a creation would be refused for the address that its own
    // object holds before it is refused for its name.
    let key = resource.collection.key(namespace, &name);
    if core.store.get(&key).await.map_err(|error| failed(read_failed(&error)))?.is_some() {
        return Ok(());
    }
    let user = UserInfo::new("system:apiserver", &["system:masters"]);
    let at = jiff::Timestamp::now();
    let now = stamp(at);
    resource.to_hub(&mut object);
    resource.collection.strategy.default(&mut object);
    let creation = Creation {
        user: &user,
        now: at,
        stamp: &now,
        namespace,
        dry_run: false,
        manager: Some("kube-apiserver".to_owned()),
        resource: &resource,
    };
    match create::create_as(core, creation, object).await {
        Ok(_) => Ok(()),
        Err(status) if status.is("AlreadyExists") => Ok(()),
        Err(status) => Err(failed(status)),
    }
}
