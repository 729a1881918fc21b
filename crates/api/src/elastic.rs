//! Darter's own kinds, group `elastic.darter.dev`: what a user says about sleep
//! ([`SleepPolicy`]) and what the cluster keeps about workloads that are at zero
//! ([`Sleeper`]). Values and rules; who sleeps when is decided elsewhere.
//!
//! Clients see the schemas of [`DEFINITIONS`], which `darter up` installs; a test
//! beside the API server holds that they and these types say the same.

pub mod duration;
mod histogram;
mod keep_warm;
mod policy;
mod rule;
mod sleeper;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use histogram::{BOUNDS_US, WakeBucket, WakeHistogram};
pub use keep_warm::{WarmWindow, Weekday, WindowError};
pub use policy::{
    ActivityRules, FirstResponse, Freed, IdleConnections, NodeSleep, RungCounts, RungWakes, SleepPolicy,
    SleepPolicySpec, SleepPolicyStatus, Transition, WakeFigures,
};
pub use rule::{Rule, rule};
pub use sleeper::{Hold, Phase, Sleeper, SleeperNode, SleeperSpec, SleeperStatus, TargetRef};

/// The CRDs of these kinds, YAML: their schemas, columns and texts.
pub const DEFINITIONS: &str = include_str!("elastic/definitions.yaml");

/// Group of all kinds here.
pub const GROUP: &str = "elastic.darter.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";

/// Label of a pod or a namespace: sleep after so long without activity, for
/// example `30s`; `never` on a pod keeps it awake whatever a policy says.
pub const IDLE_AFTER_LABEL: &str = "elastic.darter.dev/idle-after";
/// Value of [`IDLE_AFTER_LABEL`] that opts out.
pub const NEVER: &str = "never";
/// Pod annotation: the rung that the pod is on, as [`Rung`] writes it.
pub const RUNG_ANNOTATION: &str = "elastic.darter.dev/rung";
/// Pod annotation: since when, RFC 3339.
pub const RUNG_SINCE_ANNOTATION: &str = "elastic.darter.dev/rung-since";

/// How deep a pod sleeps: each rung is cheaper to keep than the one before it
/// and slower to leave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Rung {
    /// Runs as its specification says.
    #[default]
    Hot,
    /// Runs, with its share of the CPU shrunk.
    Cool,
    /// Stopped by the kernel's freezer, memory kept.
    Frozen,
    /// Frozen, its memory in compressed swap.
    PagedOut,
    /// No pod; the workload has no replicas and its image is kept.
    Gone,
}

impl Rung {
    /// All, from awake to gone.
    pub const ALL: [Rung; 5] = [Rung::Hot, Rung::Cool, Rung::Frozen, Rung::PagedOut, Rung::Gone];

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Rung::Hot => "Hot",
            Rung::Cool => "Cool",
            Rung::Frozen => "Frozen",
            Rung::PagedOut => "PagedOut",
            Rung::Gone => "Gone",
        }
    }

    /// The rung of this name.
    pub fn parse(text: &str) -> Option<Rung> {
        Rung::ALL.into_iter().find(|rung| rung.as_str() == text)
    }

    /// Nothing of the pod runs on it.
    pub fn is_asleep(self) -> bool {
        self >= Rung::Frozen
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Implements the traits by which the typed client reads and writes a kind.
macro_rules! namespaced_kind {
    ($kind:ident, $plural:literal) => {
        impl k8s_openapi::Resource for $kind {
            const API_VERSION: &'static str = "elastic.darter.dev/v1alpha1";
            const GROUP: &'static str = crate::elastic::GROUP;
            const KIND: &'static str = stringify!($kind);
            const VERSION: &'static str = crate::elastic::VERSION;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::NamespaceResourceScope;
        }

        impl k8s_openapi::Metadata for $kind {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }
    };
}
use namespaced_kind;
