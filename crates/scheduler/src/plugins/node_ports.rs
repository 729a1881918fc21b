//! NodePorts: two pods that take the same port of the node, on the same
//! address or one of them on all, can't be together.

use crate::event::Event;
use crate::plugin::{Plugin, Rejection, Sieve, View, Waiting};
use crate::pod::{HostPort, Shape};
use crate::snapshot::Snapshot;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NodePorts;

fn conflict(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    taken.iter().any(|taken| wanted.iter().any(|wanted| wanted.conflicts(taken)))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filters(&self, shape: &Shape) -> bool {
        !shape.ports.is_empty()
    }

    fn filter(&self, snapshot: &Snapshot, shape: &Shape, sieve: &mut Sieve<'_>) {
        sieve.keep(|node| {
            conflict(&shape.ports, &snapshot.columns.ports[node.index()])
                .then(|| Rejection::resolvable("node(s) didn't have free ports for the requested pod ports"))
        });
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::PodDeleted(deleted) => {
                deleted.has_place && conflict(&pod.class.shape.0.ports, &deleted.class.shape.0.ports)
            }
            _ => false,
        }
    }
}
