//! ConfigMaps and Secrets that pods refer to: watched one by one while a pod
//! of this node refers to them, so that the agent may see no others and a
//! change reaches the pod at once. It never writes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::types::Metadata;
use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Client, ClientError, Informer, ObjectKey, WatchParams};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::spec;

/// Why an object can't be had. Prints as upstream prints it.
#[derive(thiserror::Error, Debug)]
pub(crate) enum ReferenceError {
    /// It does not exist.
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        resource: &'static str,
        /// Its name.
        name: String,
    },
    /// The API said something else.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ReferenceError {
    /// True if it does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
enum Kind {
    ConfigMap,
    Secret,
}

type Key = (Kind, String, String);

enum Copy {
    ConfigMap(Informer<core::ConfigMap>),
    Secret(Informer<core::Secret>),
}

struct Watched {
    copy: Copy,
    pods: HashSet<String>,
    stop: CancellationToken,
}

/// Called with the uid of a pod when something it refers to changed.
pub(crate) type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// The objects that pods of this node refer to.
pub(crate) struct References {
    client: Client,
    watched: Arc<Mutex<HashMap<Key, Watched>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    on_change: OnChange,
}

impl References {
    /// Nothing is watched yet. Watches run on `tasks` until `shutdown`.
    pub(crate) fn new(client: Client, tasks: TaskTracker, shutdown: CancellationToken, on_change: OnChange) -> Self {
        Self { client, watched: Arc::default(), tasks, shutdown, on_change }
    }

    /// Watches what this pod refers to. Calling again replaces the set.
    pub(crate) fn register(&self, pod: &core::Pod) {
        let uid = spec::uid(pod);
        let wanted = keys(pod);
        let mut watched = lock(&self.watched);
        for key in &wanted {
            watched.entry(key.clone()).or_insert_with(|| self.watch(key)).pods.insert(uid.to_owned());
        }
        drop_unused(&mut watched, uid, &wanted);
    }

    /// Forgets a pod.
    pub(crate) fn unregister(&self, uid: &str) {
        drop_unused(&mut lock(&self.watched), uid, &BTreeSet::new());
    }

    /// A ConfigMap; from the local copy where that is complete.
    pub(crate) async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<core::ConfigMap>, ReferenceError> {
        let local = match lock(&self.watched).get(&(Kind::ConfigMap, namespace.into(), name.into())).map(|w| &w.copy) {
            Some(Copy::ConfigMap(informer)) if informer.is_synced() => {
                Some(informer.get(&ObjectKey::new(namespace, name)))
            }
            _ => None,
        };
        let missing = || ReferenceError::NotFound { resource: "configmap", name: name.into() };
        match local {
            Some(found) => found.ok_or_else(missing),
            None => self
                .client
                .namespaced::<core::ConfigMap>(namespace)
                .get_opt(name)
                .await?
                .map(Arc::new)
                .ok_or_else(missing),
        }
    }

    /// A Secret; from the local copy where that is complete.
    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<core::Secret>, ReferenceError> {
        let local = match lock(&self.watched).get(&(Kind::Secret, namespace.into(), name.into())).map(|w| &w.copy) {
            Some(Copy::Secret(informer)) if informer.is_synced() => {
                Some(informer.get(&ObjectKey::new(namespace, name)))
            }
            _ => None,
        };
        let missing = || ReferenceError::NotFound { resource: "secret", name: name.into() };
        match local {
            Some(found) => found.ok_or_else(missing),
            None => {
                self.client.namespaced::<core::Secret>(namespace).get_opt(name).await?.map(Arc::new).ok_or_else(missing)
            }
        }
    }

    fn watch(&self, key: &Key) -> Watched {
        let (kind, namespace, name) = key;
        let params = WatchParams::fields(format!("metadata.name={name}"));
        let stop = self.shutdown.child_token();
        let copy = match kind {
            Kind::ConfigMap => {
                let (informer, task) = Informer::new(self.client.namespaced::<core::ConfigMap>(namespace), params);
                self.tasks.spawn(task.run(stop.clone()));
                self.tasks.spawn(notify(
                    informer.subscribe(),
                    key.clone(),
                    self.watched.clone(),
                    self.on_change.clone(),
                    stop.clone(),
                ));
                Copy::ConfigMap(informer)
            }
            Kind::Secret => {
                let (informer, task) = Informer::new(self.client.namespaced::<core::Secret>(namespace), params);
                self.tasks.spawn(task.run(stop.clone()));
                self.tasks.spawn(notify(
                    informer.subscribe(),
                    key.clone(),
                    self.watched.clone(),
                    self.on_change.clone(),
                    stop.clone(),
                ));
                Copy::Secret(informer)
            }
        };
        Watched { copy, pods: HashSet::new(), stop }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held; a poisoned lock still guards whole data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn drop_unused(watched: &mut HashMap<Key, Watched>, uid: &str, wanted: &BTreeSet<Key>) {
    watched.retain(|key, entry| {
        if !wanted.contains(key) {
            entry.pods.remove(uid);
        }
        if entry.pods.is_empty() {
            entry.stop.cancel();
        }
        !entry.pods.is_empty()
    });
}

async fn notify<K: Metadata<Ty = ObjectMeta> + Send + Sync + 'static>(
    mut changes: client::Subscription<K>,
    key: Key,
    watched: Arc<Mutex<HashMap<Key, Watched>>>,
    on_change: OnChange,
    stop: CancellationToken,
) {
    while let Some(Some(_)) = stop.run_until_cancelled(changes.next()).await {
        let pods: Vec<String> = lock(&watched).get(&key).map(|w| w.pods.iter().cloned().collect()).unwrap_or_default();
        for pod in pods {
            on_change(&pod);
        }
    }
}

/// What a pod refers to: variables, volumes and pull secrets.
fn keys(pod: &core::Pod) -> BTreeSet<Key> {
    let namespace = spec::namespace(pod).to_owned();
    let mut keys = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            keys.insert((kind, namespace.clone(), name.to_owned()));
        }
    };
    let ephemeral: Vec<_> = spec::ephemeral_containers(pod).iter().map(spec::ephemeral_as_container).collect();
    for container in spec::init_containers(pod).iter().chain(spec::main_containers(pod)).chain(&ephemeral) {
        for from in container.env_from.iter().flatten() {
            if let Some(map) = &from.config_map_ref {
                add(Kind::ConfigMap, &map.name);
            }
            if let Some(secret) = &from.secret_ref {
                add(Kind::Secret, &secret.name);
            }
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            if let Some(key) = &source.config_map_key_ref {
                add(Kind::ConfigMap, &key.name);
            }
            if let Some(key) = &source.secret_key_ref {
                add(Kind::Secret, &key.name);
            }
        }
    }
    for volume in spec::spec(pod).volumes.iter().flatten() {
        if let Some(map) = &volume.config_map {
            add(Kind::ConfigMap, &map.name);
        }
        if let Some(secret) = &volume.secret {
            add(Kind::Secret, secret.secret_name.as_deref().unwrap_or_default());
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(map) = &source.config_map {
                add(Kind::ConfigMap, &map.name);
            }
            if let Some(secret) = &source.secret {
                add(Kind::Secret, &secret.name);
            }
        }
    }
    for secret in spec::spec(pod).image_pull_secrets.iter().flatten() {
        add(Kind::Secret, &secret.name);
    }
    keys
}
