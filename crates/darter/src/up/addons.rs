//! What every cluster is born with beside the API server's own objects: the
//! DNS Service, the kinds of sleep, the rights of our parts. Applied at each
//! start, so an upgrade brings them up to date.

use std::net::IpAddr;

use serde_json::json;

use super::UpError;
use super::control::Control;

/// Who owns these fields.
const MANAGER: &str = "darter";
/// Who may do what with the kinds of `elastic.darter.dev`.
const ELASTIC_RIGHTS: &str = include_str!("elastic.yaml");

/// Applies them.
pub(super) async fn apply(control: &Control) -> Result<(), UpError> {
    let manifest = include_str!("addons.yaml").replace("${DNS_ADDRESS}", &control.service_address(10).to_string());
    for text in [api::elastic::DEFINITIONS, ELASTIC_RIGHTS, manifest.as_str()] {
        cli::apply::manifest(&control.admin(), text, MANAGER)
            .await
            .map_err(UpError::start("the cluster's own objects"))?;
    }
    Ok(())
}

/// This node answers for the cluster's DNS, at `address`.
pub(super) async fn publish_dns(control: &Control, node: &str, address: IpAddr) -> Result<(), UpError> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("kube-dns-{node}"),
            "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "darter",
            },
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "nodeName": node,
            "conditions": {"ready": true, "serving": true, "terminating": false}}],
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    });
    let text = slice.to_string();
    cli::apply::manifest(&control.admin(), &text, MANAGER).await.map_err(UpError::start("the DNS Service"))
}
