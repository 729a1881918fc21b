//! Places pods on nodes: queue, snapshot, cycle, plugins. Speaks only the
//! Kubernetes API, so it runs against any cluster; it never starts anything.
//!
//! [`core::Core`] is the scheduler as a pure state machine: events in, steps
//! out. It keeps the cluster in columns ([`snapshot`]), waiting pods in a
//! [`queue`], and decides by the rules under [`plugins`], each in its own file
//! under upstream's name. [`Scheduler`] is the thin loop that runs it against an
//! API server.

mod act;
mod follow;
mod run;

pub mod bits;
pub mod core;
pub mod evaluate;
pub mod event;
pub mod intern;
pub mod metrics;
pub mod node;
pub mod nominations;
pub mod objects;
pub mod plugin;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod resources;
pub mod snapshot;
pub mod table;

pub use run::{Scheduler, SchedulerConfig, SchedulerMetrics};
