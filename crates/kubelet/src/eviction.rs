//! Shortage of memory, disk and process ids. Ending pods is their workers' work.

pub(crate) mod usage;

use crate::config::KubeletConfig;
use crate::machine;

/// What the node is short of.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

/// Measures now.
pub(crate) fn pressure(config: &KubeletConfig) -> Pressure {
    let available = u64::try_from(machine::memory_info("MemAvailable")).unwrap_or(0);
    let disk = machine::disk(config).is_some_and(|d| {
        let free = |part: u64, whole: u64| {
            whole > 0 && part.saturating_mul(100) < whole.saturating_mul(u64::from(config.eviction_disk_percent))
        };
        free(d.available_bytes, d.total_bytes)
    });
    Pressure { memory: available < config.eviction_memory_bytes, disk, pids: false }
}
