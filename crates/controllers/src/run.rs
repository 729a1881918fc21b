//! Which controllers run, and running them.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::Client;
use client::events::Recorder;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::informers::Informers;
use crate::{
    deployment, endpoints, endpointslice, gc, namespace, nodeipam, nodelifecycle, nodettl, podgc, replicaset, rootca,
};
use crate::{resourcequota, serviceaccount, tainteviction, tokens};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $start:expr;)*) => {
        /// A controller's name, upstream's where there is one.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Name {
            $($(#[$doc])* $name,)*
        }

        impl Name {
            /// Every controller.
            pub const ALL: &[Name] = &[$(Name::$name),*];

            /// As written on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Name::$name => $text,)*
                }
            }

            /// The controller of this name.
            pub fn parse(text: &str) -> Option<Name> {
                Name::ALL.iter().copied().find(|name| name.as_str() == text)
            }

            fn start(self, context: &Context, config: &ControllersConfig, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
                let start: fn(&Context, &ControllersConfig, CancellationToken) -> BoxFuture<'static, ()> = match self {
                    $(Name::$name => $start,)*
                };
                start(context, config, shutdown)
            }
        }
    };
}

names! {
    /// Endpoints of Services.
    Endpoints = "endpoints-controller", |context, _, shutdown| endpoints::controller(context).run(shutdown).boxed();
    /// EndpointSlices of Services.
    EndpointSlice = "endpointslice-controller", |context, _, shutdown| endpointslice::controller(context).run(shutdown).boxed();
    /// Deployments.
    Deployment = "deployment-controller", |context, _, shutdown| deployment::controller(context).run(shutdown).boxed();
    /// What has no owner any more.
    GarbageCollector = "garbage-collector-controller", |context, _, shutdown| gc::run(context.clone(), shutdown).boxed();
    /// Namespaces that are to be deleted.
    Namespace = "namespace-controller", |context, _, shutdown| namespace::controller(context).run(shutdown).boxed();
    /// Networks of nodes.
    NodeIpam = "node-ipam-controller", |context, config, shutdown| {
        let controller = config
            .cluster_cidr
            .as_deref()
            .and_then(|cidr| nodeipam::controller(context, cidr, config.node_cidr_mask));
        match controller {
            Some(controller) => controller.run(shutdown).boxed(),
            None => std::future::ready(()).boxed(),
        }
    };
    /// Health and taints of nodes.
    NodeLifecycle = "node-lifecycle-controller", |context, _, shutdown| nodelifecycle::controller(context).run(shutdown).boxed();
    /// Pods that nobody else removes.
    PodGc = "pod-garbage-collector-controller", |context, _, shutdown| podgc::controller(context).run(shutdown).boxed();
    /// Pods on nodes with taints that they do not tolerate.
    TaintEviction = "taint-eviction-controller", |context, _, shutdown| tainteviction::controller(context).run(shutdown).boxed();
    /// The nodes' annotation for caching.
    Ttl = "ttl-controller", |context, _, shutdown| nodettl::controller(context).run(shutdown).boxed();
    /// The root CA ConfigMap of namespaces.
    RootCa = "root-ca-certificate-publisher-controller", |context, config, shutdown| match &config.root_ca {
        Some(root_ca) => rootca::controller(context, root_ca).run(shutdown).boxed(),
        None => std::future::ready(()).boxed(),
    };
    /// The default service account of namespaces.
    ServiceAccount = "serviceaccount-controller", |context, _, shutdown| serviceaccount::controller(context).run(shutdown).boxed();
    /// Secrets with tokens of service accounts.
    ServiceAccountToken = "serviceaccount-token-controller", |context, config, shutdown| match &config.token_signer {
        Some(signer) => {
            let contents = tokens::Contents { signer: signer.clone(), root_ca: config.root_ca.clone() };
            tokens::controller(context, contents).run(shutdown).boxed()
        }
        None => std::future::ready(()).boxed(),
    };
    /// What is used of quotas.
    ResourceQuota = "resourcequota-controller", |context, _, shutdown| resourcequota::run(context.clone(), shutdown).boxed();
    /// ReplicaSets.
    ReplicaSet = "replicaset-controller", |context, _, shutdown| replicaset::controller(context).run(shutdown).boxed();
}

/// Signs tokens with the key that the API server trusts.
pub trait TokenSigner: Send + Sync + 'static {
    /// A JSON web token with these claims, in its compact form.
    fn sign(&self, claims: &serde_json::Value) -> Result<String, Box<dyn std::error::Error + Send + Sync>>;
}

/// What the controllers need to know beyond what the API says.
#[derive(Clone)]
pub struct ControllersConfig {
    /// Which run.
    pub enabled: BTreeSet<Name>,
    /// DNS domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// PEM of the authority that signed the API server's certificate; absent:
    /// no `kube-root-ca.crt` is published.
    pub root_ca: Option<String>,
    /// Signs the tokens of token Secrets; absent: they are not filled in.
    pub token_signer: Option<Arc<dyn TokenSigner>>,
    /// Network from which nodes get theirs, `10.244.0.0/16`; absent: nodes
    /// bring their own.
    pub cluster_cidr: Option<String>,
    /// Bits of a node's network mask within it.
    pub node_cidr_mask: u8,
}

impl Default for ControllersConfig {
    fn default() -> Self {
        Self {
            enabled: Name::ALL.iter().copied().collect(),
            cluster_domain: "cluster.local".into(),
            root_ca: None,
            token_signer: None,
            cluster_cidr: None,
            node_cidr_mask: 24,
        }
    }
}

/// All enabled controllers with what they share.
pub struct Controllers {
    client: Client,
    config: ControllersConfig,
}

impl Controllers {
    /// Nothing happens before [`Controllers::run`].
    pub fn new(client: Client, config: ControllersConfig) -> Self {
        Self { client, config }
    }

    /// Runs until `shutdown`, then waits for the writes under way. Where
    /// several processes run controllers, run it inside `client::leader`.
    pub async fn run(self, shutdown: CancellationToken) {
        let (informers, tasks) = Informers::new(&self.client);
        let (recorder, recorder_task) = Recorder::new(self.client.clone(), "controllers", None);
        let context = Context { client: self.client, informers: Arc::new(informers), recorder };
        let mut running = JoinSet::new();
        for task in tasks {
            running.spawn(task.run(shutdown.clone()));
        }
        running.spawn(recorder_task.run(shutdown.clone()));
        for name in &self.config.enabled {
            running.spawn(name.start(&context, &self.config, shutdown.clone()));
        }
        drop(context);
        while let Some(ended) = running.join_next().await {
            // A panic in a controller is our mistake: the others must not go
            // on as if nothing had happened.
            if let Err(error) = ended {
                tracing::error!(err = %error, "a controller ended abnormally, stopping all");
                shutdown.cancel();
            }
        }
    }
}
