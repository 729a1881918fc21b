//! NodeName: a pod that names its node fits no other.

use crate::event::Event;
use crate::plugin::{Plugin, Rejection, Sieve, View, Waiting};
use crate::pod::Shape;
use crate::snapshot::Snapshot;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filters(&self, shape: &Shape) -> bool {
        !shape.node_name.is_empty()
    }

    fn filter(&self, snapshot: &Snapshot, shape: &Shape, sieve: &mut Sieve<'_>) {
        sieve.keep(|node| {
            (*snapshot.columns.name[node.index()] != *shape.node_name)
                .then(|| Rejection::unresolvable("node(s) didn't match the requested node name"))
        });
    }

    fn hint(&self, _view: View<'_>, _pod: &Waiting<'_>, event: &Event) -> bool {
        matches!(event, Event::NodeAdded(_))
    }
}
