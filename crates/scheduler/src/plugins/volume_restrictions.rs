//! VolumeRestrictions: a claim for one pod only (`ReadWriteOncePod`) has no
//! second one, and some disks cannot be on one node twice.

use std::collections::HashMap;

use crate::event::Event;
use crate::objects::StorageChange;
use crate::plugin::{Live, Plugin, Rejection, View, Waiting};
use crate::pod::{ClassFacts, Disk};
use crate::snapshot::NodeId;

const ONE_POD: &str = "ReadWriteOncePod";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn live(&self, view: View<'_>, class: &ClassFacts) -> Result<Option<Box<dyn Live>>, Rejection> {
        let mut exclusive = Vec::new();
        for claim in class.claims.iter().filter(|claim| !claim.is_ephemeral()) {
            let Some(found) = view.objects.volumes.claim(&class.namespace, &claim.name) else {
                return Err(super::claim_not_found(&claim.name));
            };
            if found.access_modes.iter().any(|mode| mode == ONE_POD) {
                exclusive.push(claim.name.clone());
            }
        }
        if exclusive.is_empty() && class.disks.is_empty() {
            return Ok(None);
        }
        let mut state = Restricted { exclusive, users: 0, conflicting: HashMap::new() };
        for placement in view.snapshot.placements() {
            for (node, count) in &placement.nodes {
                state.shift(class, &placement.class, *node, i64::from(*count));
            }
        }
        Ok(Some(Box::new(state)))
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::PodDeleted(deleted) => {
                deleted.class.namespace == pod.class.namespace
                    && (pod.class.claims.iter().any(|claim| deleted.class.claims.contains(claim))
                        || in_conflict(&pod.class.disks, &deleted.class.disks))
            }
            Event::Storage(StorageChange::Claim { key, added: true }) => super::mounts(pod.class, key),
            _ => false,
        }
    }
}

fn in_conflict(wanted: &[Disk], present: &[Disk]) -> bool {
    wanted.iter().any(|wanted| present.iter().any(|present| wanted.conflicts(present)))
}

#[derive(Clone, Debug)]
struct Restricted {
    /// Claims of the pod that allow one pod only.
    exclusive: Vec<String>,
    /// Uses of these by pods on nodes.
    users: i64,
    /// Pods with a disk that conflicts, by node.
    conflicting: HashMap<NodeId, i64>,
}

impl Restricted {
    fn shift(&mut self, class: &ClassFacts, other: &ClassFacts, node: NodeId, by: i64) {
        if other.namespace == class.namespace && !self.exclusive.is_empty() {
            let shared =
                other.claims.iter().filter(|claim| !claim.is_ephemeral() && self.exclusive.contains(&claim.name));
            self.users += by * shared.count() as i64;
        }
        if in_conflict(&class.disks, &other.disks) {
            *self.conflicting.entry(node).or_default() += by;
        }
    }
}

impl Live for Restricted {
    fn filter(&self, _view: View<'_>, _class: &ClassFacts, node: NodeId) -> Option<Rejection> {
        if self.conflicting.get(&node).is_some_and(|count| *count > 0) {
            return Some(Rejection::resolvable("node(s) had no available disk"));
        }
        (self.users > 0).then(|| {
            Rejection::resolvable(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                 another pod",
            )
        })
    }

    fn pod_changed(&mut self, _view: View<'_>, class: &ClassFacts, other: &ClassFacts, node: NodeId, added: bool) {
        self.shift(class, other, node, if added { 1 } else { -1 });
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn copy(&self) -> Box<dyn Live> {
        Box::new(self.clone())
    }
}
