//! Sleep, first rung: a pod that asked for it is frozen when idle and thawed
//! by its first packet.

use std::sync::atomic::{AtomicU64, Ordering};

/// Wake latencies of this node.
#[derive(Default)]
pub struct SleepMetrics {
    wakes: AtomicU64,
}

impl SleepMetrics {
    /// Wakes since the agent started.
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }
}

/// Sleep of one pod.
pub(crate) struct PodSleep {}

impl PodSleep {
    pub(crate) fn is_frozen(&self) -> bool {
        false
    }
}
