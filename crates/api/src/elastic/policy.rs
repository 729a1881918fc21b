//! `SleepPolicy`: which pods may sleep, how deep, and how fast they must answer.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use super::{Rung, WakeHistogram, WarmWindow, duration};

/// Lets the pods that it selects sleep when they are idle.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SleepPolicy {
    /// Standard metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: SleepPolicySpec,
    /// What is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SleepPolicyStatus>,
}

super::namespaced_kind!(SleepPolicy, "sleeppolicies");

/// What is wanted.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SleepPolicySpec {
    /// Pods of the policy's namespace; absent or empty: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// A pod sleeps after so long without activity.
    #[serde(with = "duration")]
    pub idle_after: Duration,
    /// The deepest rung allowed; [`SleepPolicySpec::lowest_rung`] has the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest_rung: Option<Rung>,
    /// How fast a sleeper must answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_response: Option<FirstResponse>,
    /// Times in which nothing sleeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_warm: Vec<WarmWindow>,
    /// What counts as activity beside packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<ActivityRules>,
}

impl SleepPolicySpec {
    /// The deepest rung allowed: `Frozen` unless the policy names one.
    pub fn lowest_rung(&self) -> Rung {
        self.lowest_rung.unwrap_or(Rung::Frozen)
    }
}

/// The wake-time objective.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirstResponse {
    /// From the first packet to the first byte of the answer, for 99 of 100 wakes.
    #[serde(with = "duration")]
    pub p99: Duration,
}

/// What keeps a pod awake beside packets with data.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActivityRules {
    /// Open connections that carry nothing.
    #[serde(default)]
    pub idle_connections: IdleConnections,
    /// CPU use above this is activity: work that no client waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_above: Option<Quantity>,
}

/// What open connections that carry nothing mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum IdleConnections {
    /// The pod stays awake while one is open.
    #[default]
    KeepAwake,
    /// They are ignored; data on one wakes the pod like any packet.
    Ignore,
}

/// What is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SleepPolicyStatus {
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods by rung, over all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<RungCounts>,
    /// Measured wakes by the rung that was left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wakes: Vec<WakeFigures>,
    /// What sleep frees now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed: Option<Freed>,
    /// The latest change of any pod's rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition: Option<Transition>,
    /// What each node reports; each writes its own entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeSleep>,
    /// `Ready`, `ObjectiveMet`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Pods by rung. `gone` counts replicas that are not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RungCounts {
    /// Awake.
    #[serde(default)]
    pub hot: u32,
    /// Awake with less.
    #[serde(default)]
    pub cool: u32,
    /// Frozen.
    #[serde(default)]
    pub frozen: u32,
    /// Memory in swap.
    #[serde(default)]
    pub paged_out: u32,
    /// Not there.
    #[serde(default)]
    pub gone: u32,
}

impl RungCounts {
    /// The count of a rung.
    pub fn of(&mut self, rung: Rung) -> &mut u32 {
        match rung {
            Rung::Hot => &mut self.hot,
            Rung::Cool => &mut self.cool,
            Rung::Frozen => &mut self.frozen,
            Rung::PagedOut => &mut self.paged_out,
            Rung::Gone => &mut self.gone,
        }
    }

    /// Adds another's.
    pub fn add(&mut self, mut other: Self) {
        for rung in Rung::ALL {
            *self.of(rung) += *other.of(rung);
        }
    }
}

/// Quantiles of the wakes from one rung.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WakeFigures {
    /// The rung that was left.
    pub rung: Rung,
    /// Wakes.
    pub count: u64,
    /// Half took at most this long.
    #[serde(with = "duration")]
    pub p50: Duration,
    /// Nine of ten.
    #[serde(with = "duration")]
    pub p90: Duration,
    /// 99 of 100.
    #[serde(with = "duration")]
    pub p99: Duration,
}

/// What sleep frees.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freed {
    /// CPU that sleepers request and do not use.
    #[serde(default)]
    pub cpu: Quantity,
    /// Memory that was pushed out, or that pods at zero request.
    #[serde(default)]
    pub memory: Quantity,
}

/// A change of rung.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// When.
    pub time: Time,
    /// The pod, or `KIND/NAME` of a workload.
    pub of: String,
    /// Left.
    pub from: Rung,
    /// Reached.
    pub to: Rung,
    /// Why, one word: `Idle`, `Packet`, `Session`, `ObjectiveMissed`, ...
    pub reason: String,
}

/// What one node reports of a policy's pods on it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSleep {
    /// The node.
    pub name: String,
    /// Its pods by rung.
    #[serde(default)]
    pub pods: RungCounts,
    /// Its wakes, as counts that add up over nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wakes: Vec<RungWakes>,
    /// CPU requested by its sleepers, in thousandths.
    #[serde(default)]
    pub freed_cpu_milli: u64,
    /// Memory that its sleepers have in swap, bytes.
    #[serde(default)]
    pub freed_memory_bytes: u64,
    /// Its latest change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition: Option<Transition>,
    /// Rungs that it cannot offer, with the reason, as `PagedOut: no swap`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_offered: Vec<String>,
}

/// Wakes from one rung.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RungWakes {
    /// The rung that was left.
    pub rung: Rung,
    /// How long they took.
    pub buckets: WakeHistogram,
}
