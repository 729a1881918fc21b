//! The local copies that controllers share, one a kind.

use client::{Client, Informer, InformerTask, WatchParams};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Where node agents renew their leases.
pub(crate) const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";
/// The ConfigMap with the API server's certificate authority.
pub(crate) const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";

macro_rules! informers {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $api:expr, $params:expr;)*) => {
        /// See the module.
        pub(crate) struct Informers {
            $($(#[$doc])* pub(crate) $field: Informer<$kind>,)*
        }

        impl Informers {
            /// Empty copies and the tasks that fill them.
            pub(crate) fn new(client: &Client) -> (Informers, Vec<InformerTask>) {
                let mut tasks = Vec::new();
                $(
                    let ($field, task) = Informer::new($api(client), $params);
                    tasks.push(task);
                )*
                (Informers { $($field,)* }, tasks)
            }
        }
    };
}

informers! {
    claims: PersistentVolumeClaim = Client::all, WatchParams::default();
    config_maps: ConfigMap = Client::all, WatchParams::fields(format!("metadata.name={ROOT_CA_CONFIG_MAP}"));
    deployments: Deployment = Client::all, WatchParams::default();
    endpoints: Endpoints = Client::all, WatchParams::default();
    endpoint_slices: EndpointSlice = Client::all, WatchParams::default();
    leases: Lease = |client: &Client| client.namespaced(NODE_LEASE_NAMESPACE), WatchParams::default();
    namespaces: Namespace = Client::all, WatchParams::default();
    nodes: Node = Client::all, WatchParams::default();
    pods: Pod = Client::all, WatchParams::default();
    replica_sets: ReplicaSet = Client::all, WatchParams::default();
    resource_quotas: ResourceQuota = Client::all, WatchParams::default();
    service_accounts: ServiceAccount = Client::all, WatchParams::default();
    services: Service = Client::all, WatchParams::default();
    token_secrets: Secret = Client::all, WatchParams::fields(format!("type={}", crate::tokens::SECRET_TYPE));
}
