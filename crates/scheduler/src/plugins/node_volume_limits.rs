//! NodeVolumeLimits: a CSI driver can attach so many volumes to a node and no
//! more.

use std::collections::{HashMap, HashSet};

use crate::event::Event;
use crate::objects::{Claim, StorageChange, Volumes};
use crate::plugin::{Live, Plugin, Rejection, View, Waiting};
use crate::pod::ClassFacts;
use crate::snapshot::NodeId;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NodeVolumeLimits;

/// Driver and handle.
type VolumeKey = (String, String);

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn live(&self, view: View<'_>, class: &ClassFacts) -> Result<Option<Box<dyn Live>>, Rejection> {
        let wanted: HashSet<VolumeKey> = keys_of(&view.objects.volumes, class).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut state = Limited { wanted, present: HashMap::new() };
        for placement in view.snapshot.placements().filter(|placement| !placement.class.claims.is_empty()) {
            for (node, count) in &placement.nodes {
                state.shift(view, &placement.class, *node, i64::from(*count));
            }
        }
        Ok(Some(Box::new(state)))
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        match event {
            Event::PodDeleted(deleted) => deleted.has_place && !deleted.class.claims.is_empty(),
            Event::Storage(StorageChange::Claim { key, added: true }) => super::mounts(pod.class, key),
            Event::Storage(StorageChange::CsiNode) => true,
            Event::Storage(StorageChange::Detached) => !pod.class.claims.is_empty(),
            _ => false,
        }
    }
}

/// CSI volumes that a pod of the class mounts, as far as they are known.
fn keys_of<'a>(volumes: &'a Volumes, class: &'a ClassFacts) -> impl Iterator<Item = VolumeKey> + 'a {
    class
        .claims
        .iter()
        .filter_map(|claim| volumes.claim(&class.namespace, &claim.name))
        .filter_map(|claim| key_of(volumes, claim))
}

/// A claim without a volume counts as one of its class's driver.
fn key_of(volumes: &Volumes, claim: &Claim) -> Option<VolumeKey> {
    match claim.volume.as_ref().and_then(|name| volumes.volume(name)) {
        Some(volume) => volume.csi.clone(),
        None => {
            let class = volumes.class(&claim.class)?;
            Some((class.provisioner.clone(), format!("claim {}/{}", claim.key.0, claim.key.1)))
        }
    }
}

#[derive(Clone, Debug)]
struct Limited {
    wanted: HashSet<VolumeKey>,
    /// Uses of volumes by the pods of each node.
    present: HashMap<NodeId, HashMap<VolumeKey, i64>>,
}

impl Limited {
    fn shift(&mut self, view: View<'_>, other: &ClassFacts, node: NodeId, by: i64) {
        for key in keys_of(&view.objects.volumes, other) {
            *self.present.entry(node).or_default().entry(key).or_default() += by;
        }
    }
}

impl Live for Limited {
    fn filter(&self, view: View<'_>, _class: &ClassFacts, node: NodeId) -> Option<Rejection> {
        let volumes = &view.objects.volumes;
        let name = &view.snapshot.columns.name[node.index()];
        let limits = volumes.limits(name).filter(|limits| !limits.is_empty())?;
        let mut present: HashSet<&VolumeKey> = HashSet::new();
        present
            .extend(self.present.get(&node).into_iter().flatten().filter(|(_, uses)| **uses > 0).map(|(key, _)| key));
        let new: Vec<&VolumeKey> = self.wanted.iter().filter(|key| !present.contains(key)).collect();
        present.extend(volumes.attached(name).filter_map(|volume| volumes.volume(volume)?.csi.as_ref()));
        let count = |keys: &mut dyn Iterator<Item = &&VolumeKey>, driver: &str| {
            keys.filter(|(of, _)| of == driver).count() as i64
        };
        let exceeded = limits.iter().any(|(driver, limit)| {
            let added = count(&mut new.iter(), driver);
            added > 0 && limit.is_some_and(|limit| count(&mut present.iter(), driver) + added > limit)
        });
        exceeded.then(|| Rejection::resolvable("node(s) exceed max volume count"))
    }

    fn pod_changed(&mut self, view: View<'_>, _class: &ClassFacts, other: &ClassFacts, node: NodeId, added: bool) {
        self.shift(view, other, node, if added { 1 } else { -1 });
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn copy(&self) -> Box<dyn Live> {
        Box::new(self.clone())
    }
}
