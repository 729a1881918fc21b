//! SchedulingGates: a pod with gates waits outside the queue until the last
//! one is removed. The condition that says so is the API server's.

use crate::event::Event;
use crate::plugin::{Plugin, View, Waiting};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct SchedulingGates;

/// True if the pod must not be tried.
pub fn is_gated(pod: &api::types::api::core::v1::Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()))
}

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        matches!(event, Event::PodUpdated { new, .. } if &*new.uid == pod.uid)
    }
}
