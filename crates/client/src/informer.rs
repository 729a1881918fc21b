//! A local copy of one collection, and subscriptions to its changes. It never
//! asks the server by itself for a single object.

mod state;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::reflector::{Object, Reflector};
use crate::watch::WatchParams;

use self::state::{Copied, State};
pub use self::subscription::Subscription;

/// Time for an own write to show in the local copy. It takes milliseconds
/// unless the watch has to be made anew.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);

/// Namespace and name. Ordered by namespace, then name; the namespace of a
/// cluster-scoped object is empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// A cluster-scoped object's key.
    pub fn cluster(name: impl Into<Arc<str>>) -> Self {
        Self::new("", name)
    }

    /// The key of an object; absent parts are empty.
    pub fn of<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Self {
        let metadata = object.metadata();
        Self::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }

    /// The key of the object that owns this one as its controller, if that is
    /// of this kind.
    pub fn of_controller<K: Metadata<Ty = ObjectMeta>>(object: &K, api_version: &str, kind: &str) -> Option<Self> {
        let owner = controller_of(object)?;
        (owner.kind == kind && group(&owner.api_version) == group(api_version))
            .then(|| Self::new(object.metadata().namespace.as_deref().unwrap_or_default(), owner.name.as_str()))
    }
}

impl std::fmt::Display for ObjectKey {
    /// `namespace/name`, or the name alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The owner reference with `controller: true`.
pub fn controller_of<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Option<&OwnerReference> {
    object.metadata().owner_references.as_deref()?.iter().find(|owner| owner.controller == Some(true))
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// What changed between two looks at an object. Changes that happen faster
/// than they are read become one: only the newest state is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta<K> {
    /// Not seen before.
    Added(Arc<K>),
    /// Seen before, changed since.
    Updated {
        /// As it was given last.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// Gone; as it was given last.
    Deleted(Arc<K>),
}

impl<K> Delta<K> {
    /// The newest state known.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Delta::Added(object) | Delta::Deleted(object) | Delta::Updated { new: object, .. } => object,
        }
    }

    /// The state before, if there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Delta::Updated { old, .. } => Some(old),
            Delta::Added(_) | Delta::Deleted(_) => None,
        }
    }
}

/// A local copy of one collection. Cloning shares it.
pub struct Informer<K> {
    state: Arc<State<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone() }
    }
}

/// Keeps an [`Informer`] current. Its owner runs it.
#[must_use = "an informer is empty until its task runs"]
pub struct InformerTask {
    run: Box<dyn FnOnce(CancellationToken) -> futures_util::future::BoxFuture<'static, ()> + Send>,
}

impl InformerTask {
    /// Follows the collection until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        (self.run)(shutdown).await;
    }
}

impl<K: Object> Informer<K> {
    /// An empty copy and the task that fills it.
    pub fn new(api: Api<K>, params: WatchParams) -> (Informer<K>, InformerTask) {
        let state = Arc::new(State::default());
        let reflector = Reflector::new(api, params, Copied(state.clone()));
        let task = InformerTask { run: Box::new(move |shutdown| Box::pin(reflector.run(shutdown))) };
        (Informer { state }, task)
    }

    /// Like [`Informer::new`], with each object passed through `trim` before
    /// it is kept: drop there what nobody reads.
    pub fn trimmed(api: Api<K>, params: WatchParams, trim: fn(&mut K)) -> (Informer<K>, InformerTask) {
        let state = Arc::new(State::default());
        let reflector = Reflector::new(api, params, state::Trimmed { copied: Copied(state.clone()), trim });
        let task = InformerTask { run: Box::new(move |shutdown| Box::pin(reflector.run(shutdown))) };
        (Informer { state }, task)
    }
}

impl<K: Metadata<Ty = ObjectMeta>> Informer<K> {
    /// A copy that nothing fills but the caller, for tests of what reads it.
    pub fn fixed(objects: Vec<K>) -> Informer<K> {
        let state = Arc::new(State::default());
        state.replace(objects);
        Informer { state }
    }
}

/// Revisions of one server are numbers that grow; one that is not counts as
/// the oldest.
fn revision(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// The local copy does not show an own write yet, longer than is normal.
#[derive(thiserror::Error, Debug)]
#[error("the local copy does not show an own write after {CATCH_UP_LIMIT:?}")]
pub struct Behind;

impl<K> Informer<K> {
    /// Notes that the caller wrote an object of this collection and got this
    /// revision for it; see [`Informer::caught_up`].
    pub fn wrote(&self, resource_version: Option<&str>) {
        self.state.wrote(revision(resource_version.unwrap_or_default()));
    }

    /// Resolves once the copy shows every write that was noted. Whoever counts
    /// objects and makes more of them calls this first, or it counts its own
    /// new ones not yet.
    pub async fn caught_up(&self) -> Result<(), Behind> {
        tokio::time::timeout(CATCH_UP_LIMIT, self.state.caught_up()).await.map_err(|_| Behind)
    }

    /// Resolves once the initial state is there.
    pub async fn synced(&self) {
        self.state.synced().await;
    }

    /// True once the initial state is there.
    pub fn is_synced(&self) -> bool {
        self.state.is_synced()
    }

    /// The object of this key, as last seen.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.state.get(key)
    }

    /// All objects, by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.list()
    }

    /// The objects of one namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.state.in_namespace(namespace)
    }

    /// Changes from now on; first an `Added` for everything that is there.
    pub fn subscribe(&self) -> Subscription<K> {
        Subscription::new(self.state.clone())
    }
}
