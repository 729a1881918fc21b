//! What is on disk about sandboxes and containers, so that the next agent
//! finds them: `sandbox.json`, `container.json`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::runtime::{ContainerConfig, SandboxConfig};

/// Format of both files; others are left alone and reported.
pub(super) const FORMAT: u32 = 1;

/// A sandbox.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct SandboxRecord {
    pub(super) format: u32,
    pub(super) id: String,
    pub(super) config: SandboxConfig,
    /// Nanoseconds since the epoch.
    pub(super) created_ns: u64,
    pub(super) ips: Vec<IpAddr>,
    /// `cgroup_parent` did not exist before and goes with the sandbox.
    pub(super) made_cgroup: bool,
    /// Of the shim.
    pub(super) pid: u32,
    /// Set by stop.
    pub(super) stopped: bool,
}

/// A container.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct ContainerRecord {
    pub(super) format: u32,
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) config: ContainerConfig,
    /// Nanoseconds since the epoch.
    pub(super) created_ns: u64,
    pub(super) image_id: String,
    /// `name@sha256:…` of its registry; empty when it came from none.
    #[serde(default)]
    pub(super) image_digest: String,
    /// Layer directories in use.
    pub(super) layers: Vec<String>,
    /// Relative to the hierarchies' roots.
    pub(super) cgroup: String,
    pub(super) stop_signal: i32,
    pub(super) stop_signal_name: String,
    pub(super) log_path: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// Nanoseconds since the epoch of now.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The instant of a recorded number.
pub(super) fn instant(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
