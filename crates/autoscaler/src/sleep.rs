//! The part of sleep that no node can decide alone: taking a workload to zero
//! replicas and back, and summing up what nodes report into a policy's status.
//! Nodes freeze, thaw and hold packets; nothing here touches a pod.
//!
//! [`plan`] is a function from facts and a clock to steps; [`facts`] reads them
//! from local copies, [`apply`] carries the steps out, [`summary`] adds up.

mod apply;
mod facts;
mod plan;
mod run;
mod summary;

pub use run::SleepController;
