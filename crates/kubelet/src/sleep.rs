//! Sleep, first rung: a pod that asked for it by a label is frozen when it has
//! had no packets for long enough, and thawed by its first one. The kernel
//! completes the handshake and queues the request meanwhile, so nothing is lost
//! and nothing stands in the path. Other rungs are not decided here.

mod machine;
mod metrics;
mod sleeper;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::types::api::core::v1 as core;
use network::activity::{Activity, OnWake};
use tokio::sync::watch;

use crate::spec;

pub use metrics::{SleepMetrics, WakeHistogram};
pub use sleeper::Awake;
pub(crate) use sleeper::Sleeper;

/// Pod label: freeze after so long without packets, for example `30s`.
pub const IDLE_AFTER_LABEL: &str = "elastic.darter.dev/idle-after";
/// Pod annotation: the rung that the pod is on, `hot` or `frozen`.
pub const RUNG_ANNOTATION: &str = "elastic.darter.dev/rung";
/// Pod annotation: since when, RFC 3339.
pub const RUNG_SINCE_ANNOTATION: &str = "elastic.darter.dev/rung-since";

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
    metrics: SleepMetrics,
}

impl Sleep {
    pub(crate) fn new() -> Self {
        let shared =
            Shared { traffic: watch::channel(None).0, sleepers: Mutex::default(), metrics: SleepMetrics::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The callback for [`Activity::open`]: thaws the sleeper on the calling
    /// thread.
    pub fn on_wake(&self) -> OnWake {
        let shared = Arc::downgrade(&self.shared);
        Arc::new(move |address| {
            let Some(shared) = shared.upgrade() else { return };
            let sleeper = lock(&shared.sleepers).get(&address).cloned();
            if let Some(sleeper) = sleeper {
                sleeper.packet(&shared.metrics);
            }
        })
    }

    /// Pods may fall asleep from now on. Before this no pod does.
    pub fn enable(&self, traffic: Arc<dyn Traffic>) {
        self.shared.traffic.send_replace(Some(traffic));
    }

    /// Figures since the agent started.
    pub fn metrics(&self) -> &SleepMetrics {
        &self.shared.metrics
    }

    /// Waits until traffic can be seen.
    async fn traffic(&self) -> Option<Arc<dyn Traffic>> {
        let mut receiver = self.shared.traffic.subscribe();
        let found = receiver.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }

    fn insert(&self, address: IpAddr, sleeper: Arc<Sleeper>) {
        lock(&self.shared.sleepers).insert(address, sleeper);
    }

    fn remove(&self, address: IpAddr) {
        lock(&self.shared.sleepers).remove(&address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the pod asks for; `None` if it does not want to sleep, or can't: on
/// the machine's network it has no address of its own.
pub(crate) fn idle_after(pod: &core::Pod) -> Option<Duration> {
    if spec::host_network(pod) {
        return None;
    }
    parse_duration(spec::label(pod, IDLE_AFTER_LABEL)?)
}

/// Longest idle time that is accepted: a week.
const MAX_IDLE_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// `1h30m`, `90s`, `250ms`, without signs or fractions.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, scale) = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        total = total.checked_add(number.checked_mul(scale)?)?;
        rest = &rest[unit.len()..];
    }
    (total > 0 && total <= MAX_IDLE_MS).then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_are_parsed_and_nonsense_is_refused() {
        for (text, ms) in [("30s", 30_000), ("250ms", 250), ("1h30m", 5_400_000), ("2m1s5ms", 121_005)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "0s", "10", "s", "-1s", "1.5s", "1d", "99999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
