//! NodeUnschedulable: no pod for a cordoned node, unless it tolerates that.

use crate::event::Event;
use crate::plugin::{Plugin, Rejection, Sieve, View, Waiting};
use crate::pod::Shape;
use crate::snapshot::Snapshot;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filters(&self, shape: &Shape) -> bool {
        !shape.tolerates_unschedulable()
    }

    fn filter(&self, snapshot: &Snapshot, _shape: &Shape, sieve: &mut Sieve<'_>) {
        let cordoned = snapshot.unschedulable();
        if !cordoned.is_empty() {
            sieve.keep(|node| {
                cordoned.contains(node.index()).then(|| Rejection::unresolvable("node(s) were unschedulable"))
            });
        }
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        match event {
            Event::NodeAdded(node) => !node.unschedulable,
            Event::NodeUpdated { old, new } => old.unschedulable && !new.unschedulable,
            Event::PodUpdated { new, .. } => &*new.uid == pod.uid && new.class.shape.0.tolerates_unschedulable(),
            _ => false,
        }
    }
}
