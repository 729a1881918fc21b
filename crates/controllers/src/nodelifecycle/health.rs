//! When each node was last heard of, by this process's clock: a node's own
//! clock is not trusted. Lost at a restart, which only gives silent nodes
//! another period.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use tokio::time::{Duration, Instant};

/// Bounded by the nodes that exist.
#[derive(Default)]
pub(super) struct Health {
    nodes: Mutex<HashMap<String, Heard>>,
    /// Per zone, when the next node may get its NoExecute taint.
    evictions: Mutex<HashMap<String, Instant>>,
}

#[derive(Clone)]
struct Heard {
    uid: Option<String>,
    lease: Option<MicroTime>,
    heartbeat: Option<Time>,
    at: Instant,
}

/// What is known of a node after a look.
pub(super) struct Seen {
    /// It was not known before.
    pub(super) is_new: bool,
    /// When it was last heard of.
    pub(super) at: Instant,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the node shows. A newer lease or heartbeat is a sign of life.
    pub(super) fn look(&self, node: &Node, lease: Option<&Lease>) -> Seen {
        let name = node.metadata.name.clone().unwrap_or_default();
        let lease = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let heartbeat = ready.into_iter().find(|condition| condition.type_ == "Ready");
        let heartbeat = heartbeat.and_then(|condition| condition.last_heartbeat_time.clone());
        let mut nodes = self.lock();
        let known = nodes.get(&name).filter(|heard| heard.uid == node.metadata.uid).cloned();
        let at = match &known {
            Some(heard) if lease <= heard.lease && heartbeat == heard.heartbeat => heard.at,
            _ => Instant::now(),
        };
        nodes.insert(name, Heard { uid: node.metadata.uid.clone(), lease, heartbeat, at });
        Seen { is_new: known.is_none(), at }
    }

    /// The node is gone; its uid if it was known.
    pub(super) fn forget(&self, name: &str) -> Option<String> {
        self.lock().remove(name).and_then(|heard| heard.uid)
    }

    /// Whether a node of this zone may be tainted for eviction now; if so, the
    /// next one has to wait for `interval`. Else the time to wait.
    pub(super) fn may_evict(&self, zone: &str, interval: Duration) -> Result<(), Duration> {
        let mut evictions = self.evictions.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match evictions.get(zone) {
            Some(next) if *next > now => Err(*next - now),
            _ => {
                evictions.insert(zone.to_owned(), now + interval);
                Ok(())
            }
        }
    }
}
