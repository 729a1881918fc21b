//! Brings what happens in the cluster into the core: one reflector a kind, no
//! copies of objects beside the core's own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::selector::Selector;
use api::types::api::apps::v1::{ReplicaSet, StatefulSet};
use api::types::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use api::types::api::policy::v1::PodDisruptionBudget;
use api::types::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use client::reflector::{Object, Reflector, Sink};
use client::{Client, ObjectKey, WatchParams};
use parking::Locked;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::objects::{self, Budget, StorageChange, Workload};

mod parking {
    //! A mutex whose holder cannot have left the core half changed: a panic
    //! under it ends the process's task tree, so poison is passed on.

    use std::sync::{Mutex, MutexGuard};

    /// The core behind its lock.
    #[derive(Debug)]
    pub(crate) struct Locked<T>(Mutex<T>);

    impl<T> Locked<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("nobody panics while holding the core")
        }
    }
}

/// The core, shared between the reflectors and the run loop. Critical sections
/// are short: one event, or one decision.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Locked<Core>,
    started: Instant,
    /// Something happened that the run loop should look at.
    pub(crate) changed: Notify,
    /// Collections whose first state is not there yet.
    missing: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(core: Core) -> Arc<Self> {
        Arc::new(Self {
            core: Locked::new(core),
            started: Instant::now(),
            changed: Notify::new(),
            missing: AtomicUsize::new(0),
        })
    }

    /// Time since the start, the core's clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The instant of a time on the core's clock.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.started + time
    }

    /// True once every collection has been read.
    pub(crate) fn is_synced(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        act(&mut self.core.lock())
    }
}

/// Spawns a reflector for each kind that decisions depend on.
pub(crate) fn spawn(shared: &Arc<Shared>, client: &Client, shutdown: &CancellationToken) -> JoinSet<()> {
    let mut spawner = Spawner { shared, client, shutdown, tasks: JoinSet::new() };
    let unfinished = "status.phase!=Succeeded,status.phase!=Failed";
    spawner.follow::<Pod>(WatchParams::fields(unfinished));
    spawner.follow::<Node>(WatchParams::default());
    spawner.follow::<Namespace>(WatchParams::default());
    spawner.follow::<Service>(WatchParams::default());
    spawner.follow::<ReplicationController>(WatchParams::default());
    spawner.follow::<ReplicaSet>(WatchParams::default());
    spawner.follow::<StatefulSet>(WatchParams::default());
    spawner.follow::<PodDisruptionBudget>(WatchParams::default());
    spawner.follow::<PersistentVolumeClaim>(WatchParams::default());
    spawner.follow::<PersistentVolume>(WatchParams::default());
    spawner.follow::<StorageClass>(WatchParams::default());
    spawner.follow::<CSINode>(WatchParams::default());
    spawner.follow::<CSIDriver>(WatchParams::default());
    spawner.follow::<CSIStorageCapacity>(WatchParams::default());
    spawner.follow::<VolumeAttachment>(WatchParams::default());
    spawner.tasks
}

struct Spawner<'a> {
    shared: &'a Arc<Shared>,
    client: &'a Client,
    shutdown: &'a CancellationToken,
    tasks: JoinSet<()>,
}

impl Spawner<'_> {
    fn follow<K: Followed>(&mut self, params: WatchParams) {
        self.shared.missing.fetch_add(1, Ordering::AcqRel);
        let sink = Following { shared: self.shared.clone(), known: HashSet::new(), synced: false };
        let reflector = Reflector::new(self.client.all::<K>(), params, sink);
        self.tasks.spawn(reflector.run(self.shutdown.clone()));
    }
}

/// A kind that the core takes in.
trait Followed: Object + api::types::Resource {
    /// What tells that two states are of one object.
    fn identity(&self) -> ObjectKey {
        ObjectKey::of(self)
    }

    /// New or changed.
    fn apply(self, core: &mut Core, now: Duration);

    /// Gone.
    fn forget(core: &mut Core, identity: &ObjectKey, now: Duration);
}

struct Following {
    shared: Arc<Shared>,
    known: HashSet<ObjectKey>,
    synced: bool,
}

impl<K: Followed> Sink<K> for Following {
    fn replaced(&mut self, objects: Vec<K>) {
        let now = self.shared.now();
        let listed: HashSet<ObjectKey> = objects.iter().map(K::identity).collect();
        self.shared.with(|core| {
            for gone in self.known.difference(&listed) {
                K::forget(core, gone, now);
            }
            for object in objects {
                object.apply(core, now);
            }
        });
        self.known = listed;
        if !std::mem::replace(&mut self.synced, true) {
            self.shared.missing.fetch_sub(1, Ordering::AcqRel);
        }
        self.shared.changed.notify_one();
    }

    fn applied(&mut self, object: K) {
        self.known.insert(object.identity());
        let now = self.shared.now();
        self.shared.with(|core| object.apply(core, now));
        self.shared.changed.notify_one();
    }

    fn deleted(&mut self, object: K) {
        let identity = object.identity();
        self.known.remove(&identity);
        let now = self.shared.now();
        self.shared.with(|core| K::forget(core, &identity, now));
        self.shared.changed.notify_one();
    }
}

impl Followed for Pod {
    /// By uid: a pod of the same name may be another one.
    fn identity(&self) -> ObjectKey {
        ObjectKey::cluster(self.metadata.uid.as_deref().unwrap_or_default())
    }

    fn apply(mut self, core: &mut Core, now: Duration) {
        self.metadata.managed_fields = None;
        core.apply_pod(Arc::new(self), now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, now: Duration) {
        core.delete_pod(&identity.name, now);
    }
}

impl Followed for Node {
    fn apply(self, core: &mut Core, now: Duration) {
        core.apply_node(&self, now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, now: Duration) {
        core.delete_node(&identity.name, now);
    }
}

impl Followed for Namespace {
    fn apply(self, core: &mut Core, _now: Duration) {
        let name = self.metadata.name.unwrap_or_default();
        core.objects_mut().set_namespace(&name, Some(self.metadata.labels.unwrap_or_default()));
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().set_namespace(&identity.name, None);
    }
}

impl Followed for Service {
    fn apply(self, core: &mut Core, _now: Duration) {
        let key = self.identity();
        core.objects_mut().set_service(&key.namespace, &key.name, self.spec.and_then(|spec| spec.selector));
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().set_service(&identity.namespace, &identity.name, None);
    }
}

impl Followed for ReplicationController {
    fn apply(self, core: &mut Core, _now: Duration) {
        let key = self.identity();
        let selector = self.spec.and_then(|spec| spec.selector).map(|labels| Selector::from_map(&labels));
        core.objects_mut().set_workload(Workload::ReplicationController, &key.namespace, &key.name, selector);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().set_workload(Workload::ReplicationController, &identity.namespace, &identity.name, None);
    }
}

impl Followed for ReplicaSet {
    fn apply(self, core: &mut Core, _now: Duration) {
        let key = self.identity();
        let selector = self.spec.and_then(|spec| Selector::from_label_selector(Some(&spec.selector)).ok());
        core.objects_mut().set_workload(Workload::ReplicaSet, &key.namespace, &key.name, selector);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().set_workload(Workload::ReplicaSet, &identity.namespace, &identity.name, None);
    }
}

impl Followed for StatefulSet {
    fn apply(self, core: &mut Core, _now: Duration) {
        let key = self.identity();
        let selector = self.spec.and_then(|spec| Selector::from_label_selector(Some(&spec.selector)).ok());
        core.objects_mut().set_workload(Workload::StatefulSet, &key.namespace, &key.name, selector);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().set_workload(Workload::StatefulSet, &identity.namespace, &identity.name, None);
    }
}

impl Followed for PodDisruptionBudget {
    fn apply(self, core: &mut Core, _now: Duration) {
        let key = self.identity();
        let selector = Selector::from_label_selector(self.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        let status = self.status.unwrap_or_default();
        let budget = selector.ok().map(|selector| Budget {
            selector,
            allowed: status.disruptions_allowed.unwrap_or(0),
            disrupted: status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect(),
        });
        core.objects_mut().set_budget(&key.namespace, &key.name, budget);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().set_budget(&identity.namespace, &identity.name, None);
    }
}

fn tell(core: &mut Core, change: Option<StorageChange>, now: Duration) {
    if let Some(change) = change {
        core.storage_changed(change, now);
    }
}

impl Followed for PersistentVolumeClaim {
    fn apply(self, core: &mut Core, now: Duration) {
        let change = core.objects_mut().volumes.apply_claim(objects::Claim::new(self));
        tell(core, change, now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().volumes.forget_claim(&(identity.namespace.clone(), identity.name.clone()));
    }
}

impl Followed for PersistentVolume {
    fn apply(self, core: &mut Core, now: Duration) {
        let change = core.objects_mut().volumes.apply_volume(objects::Volume::new(self));
        tell(core, change, now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().volumes.forget_volume(&identity.name);
    }
}

impl Followed for StorageClass {
    fn apply(self, core: &mut Core, now: Duration) {
        let name = self.metadata.name.clone().unwrap_or_default();
        let change = core.objects_mut().volumes.apply_class(name, objects::StorageClass::new(self));
        tell(core, change, now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().volumes.forget_class(&identity.name);
    }
}

impl Followed for CSINode {
    fn apply(self, core: &mut Core, now: Duration) {
        let drivers = self.spec.drivers.into_iter();
        let limit = |count: Option<i32>| count.map(i64::from);
        let limits = drivers
            .map(|driver| (driver.name, limit(driver.allocatable.and_then(|allocatable| allocatable.count))))
            .collect();
        let name = self.metadata.name.unwrap_or_default();
        let change = core.objects_mut().volumes.apply_csi_node(&name, limits);
        tell(core, change, now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().volumes.forget_csi_node(&identity.name);
    }
}

impl Followed for CSIDriver {
    fn apply(self, core: &mut Core, now: Duration) {
        let name = self.metadata.name.unwrap_or_default();
        let states_room = self.spec.storage_capacity.unwrap_or(false);
        let change = core.objects_mut().volumes.apply_driver(name, states_room);
        tell(core, change, now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().volumes.forget_driver(&identity.name);
    }
}

impl Followed for CSIStorageCapacity {
    fn apply(self, core: &mut Core, now: Duration) {
        let key = self.identity();
        let capacity = objects::Capacity::new(self);
        let change = core.objects_mut().volumes.apply_capacity((key.namespace, key.name), capacity);
        tell(core, change, now);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, _now: Duration) {
        core.objects_mut().volumes.forget_capacity(&(identity.namespace.clone(), identity.name.clone()));
    }
}

impl Followed for VolumeAttachment {
    fn apply(self, core: &mut Core, _now: Duration) {
        let name = self.metadata.name.unwrap_or_default();
        let spec = self.spec;
        core.objects_mut().volumes.apply_attachment(&name, &spec.node_name, spec.source.persistent_volume_name);
    }

    fn forget(core: &mut Core, identity: &ObjectKey, now: Duration) {
        let change = core.objects_mut().volumes.forget_attachment(&identity.name);
        tell(core, change, now);
    }
}
