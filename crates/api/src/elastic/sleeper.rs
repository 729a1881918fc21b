//! `Sleeper`: a workload that a policy took to zero replicas, or is taking there
//! or back. It tells the nodes whose new connections to hold, takes their word
//! that one waits, and remembers what to bring back. Made and removed by the
//! cluster, one a workload, named `KIND.NAME` in lower case.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use super::WakeHistogram;

/// See the module.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sleeper {
    /// Standard metadata; owned by the workload.
    pub metadata: ObjectMeta,
    /// What the nodes must do.
    pub spec: SleeperSpec,
    /// What they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SleeperStatus>,
}

super::namespaced_kind!(Sleeper, "sleepers");

/// The workload, by what its `scale` subresource is reached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// How nodes treat new connections to the workload's Services.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Hold {
    /// Hold while no endpoint is ready, and let go to the first that is.
    WhenUnserved,
    /// Hold though endpoints are there: they are about to go.
    Always,
}

/// What the nodes must do.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SleeperSpec {
    /// The workload.
    pub target_ref: TargetRef,
    /// The policy that took it here.
    pub policy: String,
    /// Replicas that a wake brings back.
    pub replicas: i32,
    /// Its Services.
    #[serde(default)]
    pub services: Vec<String>,
    /// How new connections to them are treated; absent: like any other's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Where the workload is on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum Phase {
    /// Replicas are there; connections are held while they are let go.
    #[default]
    Falling,
    /// Zero replicas.
    Gone,
    /// Replicas were asked for; the first has to become ready.
    Rising,
    /// Serves.
    Awake,
}

/// What nodes and controller know.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SleeperStatus {
    /// Where the workload is.
    #[serde(default)]
    pub phase: Phase,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why it got there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What each node does; each writes its own entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<SleeperNode>,
}

/// One node's part.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SleeperNode {
    /// The node.
    pub name: String,
    /// What its kernel does now with the Services' new connections; absent:
    /// nothing is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holding: Option<Hold>,
    /// A client waits here since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Time>,
    /// Its wakes from zero so far, from the first held packet to its release, as
    /// counts that add up over nodes.
    #[serde(default)]
    pub wakes: WakeHistogram,
}
