//! Following what decides whether pods sleep: policies, and labels of
//! namespaces. What follows from them for a pod is [`super::rules`]'.

use api::elastic::SleepPolicy;
use api::types::api::core::v1 as core;
use client::zones::Zones;
use client::{Client, Delta, Informer, InformerTask, ObjectKey, WatchParams};
use tokio_util::sync::CancellationToken;

use super::rules::{self, Rules};
use crate::spec;

/// The cluster's rules of sleep.
pub(super) struct Policies {
    policies: Informer<SleepPolicy>,
    namespaces: Informer<core::Namespace>,
    zones: Zones,
}

/// Keeps [`Policies`] current.
pub(super) struct PoliciesTask {
    tasks: [InformerTask; 2],
}

impl Policies {
    pub(super) fn new(client: &Client) -> (Self, PoliciesTask) {
        let (policies, first) = Informer::trimmed(client.all::<SleepPolicy>(), WatchParams::default(), |policy| {
            policy.metadata.managed_fields = None;
        });
        let (namespaces, second) =
            Informer::trimmed(client.all(), WatchParams::default(), |space: &mut core::Namespace| {
                space.metadata.managed_fields = None;
                space.metadata.annotations = None;
                space.spec = None;
                space.status = None;
            });
        (Self { policies, namespaces, zones: Zones::default() }, PoliciesTask { tasks: [first, second] })
    }

    /// The rules for a pod: `None` until the policies are known, `Some(None)`
    /// if it stays awake.
    pub(super) fn rules(&self, pod: &core::Pod) -> Option<Option<Rules>> {
        if !self.policies.is_synced() || !self.namespaces.is_synced() {
            return None;
        }
        let namespace = spec::namespace(pod);
        let labels = self.namespaces.get(&ObjectKey::cluster(namespace));
        let labels = labels.as_ref().and_then(|object| object.metadata.labels.as_ref());
        let policies = self.policies.in_namespace(namespace);
        Some(rules::resolve(pod, labels, &policies, &|name| self.zones.get(name)))
    }

    pub(super) fn policy(&self, key: &ObjectKey) -> Option<std::sync::Arc<SleepPolicy>> {
        self.policies.get(key)
    }

    /// Calls `changed` with the namespace whose rules may be others now; first
    /// with each that has some.
    pub(super) async fn follow(&self, changed: impl Fn(&str), shutdown: &CancellationToken) {
        let mut policies = self.policies.subscribe();
        let mut namespaces = self.namespaces.subscribe();
        let namespace_of = |delta: &Delta<SleepPolicy>| delta.object().metadata.namespace.clone().unwrap_or_default();
        loop {
            let namespace = tokio::select! {
                () = shutdown.cancelled() => return,
                delta = policies.next() => match delta {
                    // What nodes report changes nothing here.
                    Some(delta) if delta.old().is_some_and(|old| old.spec == delta.object().spec) => continue,
                    Some(delta) => namespace_of(&delta),
                    None => return,
                },
                delta = namespaces.next() => match delta {
                    Some(delta) => delta.object().metadata.name.clone().unwrap_or_default(),
                    None => return,
                },
            };
            changed(&namespace);
        }
    }
}

impl PoliciesTask {
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let [first, second] = self.tasks;
        tokio::join!(first.run(shutdown.clone()), second.run(shutdown));
    }
}
