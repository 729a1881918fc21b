//! What all pods of the node share. It owns no task and decides nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use api::types::api::core::v1 as core;
use client::{Client, Informer};
use containers::runtime::{DnsConfig, Runtime, SandboxId};
use tokio::sync::Semaphore;

use crate::config::KubeletConfig;
use crate::events::Events;
use crate::image::Puller;
use crate::mailbox::{Mailbox, PodEvent};
use crate::references::References;
use crate::sleep::{Sleep, Sleeper};
use crate::tokens::Tokens;
use crate::users::UserRanges;

/// Most pods that are being started or stopped at one time. Each step mostly
/// waits for the kernel; more at once only makes each slower.
const MAX_BUSY_PODS: usize = 16;

/// Shared by all workers.
pub(crate) struct Context {
    pub(crate) config: KubeletConfig,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Prefix of container ids in the API.
    pub(crate) runtime_name: String,
    pub(crate) events: Events,
    pub(crate) references: References,
    pub(crate) tokens: Tokens,
    pub(crate) puller: Puller,
    pub(crate) users: UserRanges,
    pub(crate) services: Informer<core::Service>,
    /// This node's own object alone.
    pub(crate) node: Informer<core::Node>,
    /// The machine's own resolver settings.
    pub(crate) host_dns: DnsConfig,
    /// The machine's memory.
    pub(crate) memory_bytes: i64,
    /// What the machine offers, in thousandths of a unit.
    pub(crate) allocatable: RwLock<BTreeMap<String, i64>>,
    pub(crate) pods: Arc<Registry>,
    /// Turns at the runtime.
    pub(crate) busy: Semaphore,
    pub(crate) sleep: Sleep,
}

impl Context {
    pub(crate) fn turns() -> Semaphore {
        Semaphore::new(MAX_BUSY_PODS)
    }

    /// Addresses of the machine, the primary first.
    pub(crate) fn host_ips(&self) -> &[IpAddr] {
        &self.config.node_ips
    }

    /// What the machine offers, in thousandths of a unit.
    pub(crate) fn allocatable(&self) -> BTreeMap<String, i64> {
        // Nothing panics while it is held.
        self.allocatable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Directory of a pod's logs.
    pub(crate) fn log_dir(&self, pod: &core::Pod) -> PathBuf {
        use crate::spec;
        let name = format!("{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod));
        self.config.log_dir.join(name)
    }
}

/// What is known of a pod outside of its worker.
#[derive(Clone)]
pub(crate) struct PodEntry {
    /// Where its worker takes events.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The pod with the status that the agent last made.
    pub(crate) pod: Arc<core::Pod>,
    /// While the pod may sleep.
    pub(crate) sleeper: Option<Arc<Sleeper>>,
    /// It asks for more than there was; told when another gives something back.
    pub(crate) waits_for_room: bool,
}

#[derive(Default)]
struct Tables {
    pods: HashMap<String, PodEntry>,
    sandboxes: HashMap<SandboxId, String>,
}

/// Pods of this node by uid, and whose a sandbox is.
#[derive(Default)]
pub(crate) struct Registry {
    tables: Mutex<Tables>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Nothing panics while it is held.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, uid: &str, mailbox: Arc<Mailbox>, pod: Arc<core::Pod>) {
        self.lock().pods.insert(uid.to_owned(), PodEntry { mailbox, pod, sleeper: None, waits_for_room: false });
    }

    pub(crate) fn update(&self, uid: &str, pod: Arc<core::Pod>) {
        if let Some(entry) = self.lock().pods.get_mut(uid) {
            entry.pod = pod;
        }
    }

    /// Notes `pod` if `check`, which is shown the other pods that take up room,
    /// has nothing against it; else what it has. No other pod is let in
    /// meanwhile.
    pub(crate) fn allot<R>(
        &self,
        uid: &str,
        pod: Arc<core::Pod>,
        check: impl FnOnce(&core::Pod, &[Arc<core::Pod>]) -> Option<R>,
    ) -> Option<R> {
        let mut tables = self.lock();
        let others: Vec<Arc<core::Pod>> =
            tables.pods.iter().filter(|(other, _)| *other != uid).map(|(_, e)| e.pod.clone()).collect();
        let refused = check(&pod, &others);
        if let Some(entry) = tables.pods.get_mut(uid) {
            entry.waits_for_room = refused.is_some();
            if refused.is_none() {
                entry.pod = pod;
            }
        }
        refused
    }

    pub(crate) fn set_waits_for_room(&self, uid: &str, waits: bool) {
        if let Some(entry) = self.lock().pods.get_mut(uid) {
            entry.waits_for_room = waits;
        }
    }

    /// Tells those who wait that resources were given back, the most important
    /// first.
    pub(crate) fn room(&self) {
        let mut waiting: Vec<(i32, Arc<Mailbox>)> = self
            .lock()
            .pods
            .values()
            .filter(|e| e.waits_for_room)
            .map(|e| (crate::spec::spec(&e.pod).priority.unwrap_or(0), e.mailbox.clone()))
            .collect();
        waiting.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        for (_, mailbox) in waiting {
            mailbox.post(PodEvent::Room);
        }
    }

    pub(crate) fn set_sleeper(&self, uid: &str, sleeper: Option<Arc<Sleeper>>) {
        if let Some(entry) = self.lock().pods.get_mut(uid) {
            entry.sleeper = sleeper;
        }
    }

    pub(crate) fn remove(&self, uid: &str) {
        let mut tables = self.lock();
        tables.pods.remove(uid);
        tables.sandboxes.retain(|_, owner| owner != uid);
        drop(tables);
        self.room();
    }

    pub(crate) fn mailbox(&self, uid: &str) -> Option<Arc<Mailbox>> {
        self.lock().pods.get(uid).map(|e| e.mailbox.clone())
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<PodEntry> {
        self.lock().pods.get(uid).cloned()
    }

    pub(crate) fn all(&self) -> Vec<PodEntry> {
        self.lock().pods.values().cloned().collect()
    }

    pub(crate) fn owns(&self, sandbox: &SandboxId, uid: &str) {
        self.lock().sandboxes.insert(sandbox.clone(), uid.to_owned());
    }

    pub(crate) fn owner(&self, sandbox: &SandboxId) -> Option<Arc<Mailbox>> {
        let tables = self.lock();
        let uid = tables.sandboxes.get(sandbox)?;
        tables.pods.get(uid).map(|e| e.mailbox.clone())
    }
}
