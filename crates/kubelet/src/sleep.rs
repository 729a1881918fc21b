//! Sleep: a pod that a policy or a label lets sleep goes down a ladder of rungs
//! while it is idle, and comes up at its first packet. The kernel completes the
//! handshake and queues the request meanwhile, so nothing is lost and nothing
//! stands in the path. Workloads at zero replicas are not the node's to decide.
//!
//! [`rules`] says what holds for a pod, [`ladder`] which rung is next,
//! [`machine`] holds the states, [`sleeper`] acts, [`report`] tells the policy.

mod ladder;
mod machine;
mod metrics;
mod policies;
mod report;
mod rules;
mod sleeper;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use api::elastic::SleepPolicy;
use api::types::api::core::v1 as core;
use client::{Client, ObjectKey};
use containers::runtime::Runtime;
use network::activity::{Activity, Watcher};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use crate::spec;
use ladder::Learned;
use policies::{Policies, PoliciesTask};
use report::Reports;

pub use metrics::SleepMetrics;
pub(crate) use rules::Rules;
pub use sleeper::Awake;
pub(crate) use sleeper::{About, Sleeper};

/// Apps whose wakes are remembered.
const LEARNED_APPS: usize = 10_000;

/// Sees the traffic of pods. [`Activity`] is the real one.
pub trait Traffic: Send + Sync + 'static {
    /// Starts remembering when the address last had traffic.
    fn track(&self, address: IpAddr) -> Result<(), TrafficError>;
    /// Forgets the address and reports nothing of it any more.
    fn untrack(&self, address: IpAddr) -> Result<(), TrafficError>;
    /// How long ago the address last had traffic.
    fn since_last(&self, address: IpAddr) -> Result<Duration, TrafficError>;
    /// The first packet from now on is reported.
    fn arm(&self, address: IpAddr) -> Result<(), TrafficError>;
    /// Nothing is reported any more; true if nothing was.
    fn disarm(&self, address: IpAddr) -> Result<bool, TrafficError>;
    /// Addresses that were armed, also by a former run, and had no packet since.
    fn armed(&self) -> Result<BTreeSet<IpAddr>, TrafficError>;
}

/// Why traffic could not be seen.
#[derive(thiserror::Error, Debug)]
#[error("pod traffic can't be watched")]
pub struct TrafficError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl TrafficError {
    /// From any cause.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

impl Traffic for Activity {
    fn track(&self, address: IpAddr) -> Result<(), TrafficError> {
        Activity::track(self, address).map_err(TrafficError::new)
    }
    fn untrack(&self, address: IpAddr) -> Result<(), TrafficError> {
        Activity::untrack(self, address).map_err(TrafficError::new)
    }
    fn since_last(&self, address: IpAddr) -> Result<Duration, TrafficError> {
        Activity::since_last(self, address).map_err(TrafficError::new)
    }
    fn arm(&self, address: IpAddr) -> Result<(), TrafficError> {
        Activity::arm(self, address).map_err(TrafficError::new)
    }
    fn disarm(&self, address: IpAddr) -> Result<bool, TrafficError> {
        Activity::disarm(self, address).map_err(TrafficError::new)
    }
    fn armed(&self) -> Result<BTreeSet<IpAddr>, TrafficError> {
        Activity::armed(self).map_err(TrafficError::new)
    }
}

/// The node's sleepers. Cheap to clone.
#[derive(Clone)]
pub struct Sleep {
    shared: Arc<Shared>,
}

struct Shared {
    traffic: watch::Sender<Option<Arc<dyn Traffic>>>,
    sleepers: Mutex<HashMap<IpAddr, Arc<Sleeper>>>,
    /// By the uid of what owns the pods, so that a new pod of an app starts with
    /// what the old one taught.
    learned: Mutex<HashMap<String, Arc<Mutex<Learned>>>>,
    /// Whether memory can be paged out, once somebody asked.
    paging: OnceCell<Result<(), String>>,
    policies: Policies,
    reports: Reports,
    metrics: SleepMetrics,
}

/// Keeps policies current and writes reports.
pub(crate) struct SleepTask {
    sleep: Sleep,
    policies: PoliciesTask,
    client: Client,
    node_name: String,
}

impl Sleep {
    pub(crate) fn new(client: &Client, node_name: &str) -> (Self, SleepTask) {
        let (policies, task) = Policies::new(client);
        let shared = Shared {
            traffic: watch::channel(None).0,
            sleepers: Mutex::default(),
            learned: Mutex::default(),
            paging: OnceCell::new(),
            policies,
            reports: Reports::default(),
            metrics: SleepMetrics::default(),
        };
        let sleep = Self { shared: Arc::new(shared) };
        let task =
            SleepTask { sleep: sleep.clone(), policies: task, client: client.clone(), node_name: node_name.to_owned() };
        (sleep, task)
    }

    /// Hears of packets for [`Activity::open`]: thaws the sleeper on the calling
    /// thread.
    pub fn watcher(&self) -> Arc<dyn Watcher> {
        Arc::new(Heard(Arc::downgrade(&self.shared)))
    }

    /// Pods may fall asleep from now on. Before this no pod does.
    pub fn enable(&self, traffic: Arc<dyn Traffic>) {
        self.shared.traffic.send_replace(Some(traffic));
    }

    /// Figures since the agent started.
    pub fn metrics(&self) -> &SleepMetrics {
        &self.shared.metrics
    }

    /// The rules for a pod: `None` while they are not known yet, `Some(None)`
    /// if it stays awake.
    pub(crate) fn rules(&self, pod: &core::Pod) -> Option<Option<Rules>> {
        self.shared.policies.rules(pod)
    }

    /// What the pods of this pod's app taught.
    pub(crate) fn learned(&self, pod: &core::Pod) -> Arc<Mutex<Learned>> {
        let owner = client::informer::controller_of(pod).map_or(spec::uid(pod), |owner| owner.uid.as_str());
        let mut learned = lock(&self.shared.learned);
        if learned.len() >= LEARNED_APPS {
            learned.retain(|_, app| Arc::strong_count(app) > 1);
        }
        Arc::clone(learned.entry(owner.to_owned()).or_default())
    }

    /// The policy of this key, as last seen.
    fn policy(&self, key: &ObjectKey) -> Option<Arc<SleepPolicy>> {
        self.shared.policies.policy(key)
    }

    /// Rungs that this node turned out not to offer, with the reason.
    fn not_offered(&self) -> Vec<String> {
        let paging = self.shared.paging.get().and_then(|offered| offered.as_ref().err());
        paging.map(|reason| format!("PagedOut: {reason}")).into_iter().collect()
    }

    fn reports(&self) -> &Reports {
        &self.shared.reports
    }

    /// Whether memory can be paged out here; else the reason. The first question
    /// may set up swap.
    async fn paging(&self, runtime: &Arc<dyn Runtime>) -> &Result<(), String> {
        let ask = || async {
            let offered = runtime.offer_paging().await;
            if let Err(reason) = &offered {
                tracing::warn!(reason, "a policy allows PagedOut and this node does not offer it");
            }
            offered
        };
        self.shared.paging.get_or_init(ask).await
    }

    /// Waits until traffic can be seen.
    async fn traffic(&self) -> Option<Arc<dyn Traffic>> {
        let mut receiver = self.shared.traffic.subscribe();
        let found = receiver.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }

    fn sleeper(&self, address: IpAddr) -> Option<Arc<Sleeper>> {
        lock(&self.shared.sleepers).get(&address).cloned()
    }

    fn insert(&self, address: IpAddr, sleeper: Arc<Sleeper>) {
        lock(&self.shared.sleepers).insert(address, sleeper);
    }

    fn remove(&self, address: IpAddr) {
        lock(&self.shared.sleepers).remove(&address);
    }
}

impl SleepTask {
    /// Until `shutdown`. `changed` is called with each namespace whose rules may
    /// be others now.
    pub(crate) async fn run(self, changed: impl Fn(&str), shutdown: CancellationToken) {
        let Self { sleep, policies, client, node_name } = self;
        let shared = &sleep.shared;
        tokio::join!(
            policies.run(shutdown.clone()),
            shared.policies.follow(changed, &shutdown),
            shared.reports.write(&client, &node_name, &sleep, &shutdown),
        );
    }
}

/// What the receiving thread calls. It does not keep the sleepers alive.
struct Heard(Weak<Shared>);

impl Heard {
    fn sleeper(&self, address: IpAddr) -> Option<(Sleep, Arc<Sleeper>)> {
        let sleep = Sleep { shared: self.0.upgrade()? };
        let sleeper = sleep.sleeper(address)?;
        Some((sleep, sleeper))
    }
}

impl Watcher for Heard {
    fn woken(&self, address: IpAddr) {
        if let Some((sleep, sleeper)) = self.sleeper(address) {
            sleeper.packet(&sleep);
        }
    }

    fn answered(&self, address: IpAddr, after: Duration) {
        if let Some((sleep, sleeper)) = self.sleeper(address) {
            sleeper.answered(&sleep, after);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key of a policy of this name in the pod's namespace.
pub(crate) fn policy_key(pod: &core::Pod, name: &str) -> ObjectKey {
    ObjectKey::new(spec::namespace(pod), name)
}
