//! Signals in, decisions out: how many pods, how large, on which rung of sleep,
//! on how many nodes. A pure core; it never freezes or starts anything itself.
//!
//! [`hpa`] is the HorizontalPodAutoscaler, [`sleep`] takes workloads to zero
//! replicas and back.

pub mod hpa;
pub mod sleep;
