//! The HorizontalPodAutoscaler: as many replicas as its metrics ask for, in
//! upstream's arithmetic (`pkg/controller/podautoscaler`, 1.36). It makes no
//! pods; it writes a number through the scale subresource of any kind.
//!
//! The core is a function: [`decide`](decide::decide) from autoscaler, scale,
//! pods, samples, history and clock to replicas, conditions, metric statuses
//! and events. Around it, `look` reads what the function needs and writes what
//! it says, `triggers` knows what calls for a look, `pace` when it is due.

mod decide;

mod arithmetic;
mod behavior;
mod conditions;
mod grouping;
mod history;
mod metric;
mod normalize;
mod requests;
mod samples;

mod look;
mod memory;
mod pace;
mod run;
mod scale;
mod sources;
mod triggers;

#[cfg(test)]
mod fixtures;

pub use run::{Autoscaler, AutoscalerConfig};
