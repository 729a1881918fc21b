//! VolumeZone: a volume labelled with a zone or region is used there only.

use crate::event::Event;
use crate::objects::StorageChange;
use crate::plugin::{Live, Plugin, Rejection, View, Waiting};
use crate::pod::ClassFacts;
use crate::snapshot::NodeId;

/// Labels of zones and regions, and what each is called today.
const PLACES: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Between several zones in one label.
const ZONE_SEPARATOR: &str = "__";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct VolumeZone;

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn live(&self, view: View<'_>, class: &ClassFacts) -> Result<Option<Box<dyn Live>>, Rejection> {
        let volumes = &view.objects.volumes;
        let mut wanted = Vec::new();
        for claim in class.claims.iter().filter(|claim| !claim.is_ephemeral()) {
            let Some(claim) = volumes.claim(&class.namespace, &claim.name) else {
                return Err(super::claim_not_found(&claim.name));
            };
            let Some(name) = &claim.volume else {
                if claim.class.is_empty() {
                    return Err(Rejection::unresolvable("PersistentVolumeClaim had no pv name and storageClass name"));
                }
                match volumes.class(&claim.class) {
                    Some(class) if class.waits => continue,
                    Some(_) => return Err(Rejection::unresolvable("PersistentVolume had no name")),
                    None => {
                        let text = format!("storageclass.storage.k8s.io \"{}\" not found", claim.class);
                        return Err(Rejection::unresolvable(text));
                    }
                }
            };
            let Some(volume) = volumes.volume(name) else {
                return Err(Rejection::unresolvable(format!("persistentvolume \"{name}\" not found")));
            };
            for (key, current) in PLACES {
                if let Some(values) = volume.labels.get(key) {
                    let values = values.split(ZONE_SEPARATOR).map(|value| value.trim().to_owned()).collect();
                    wanted.push(Wanted { key, current, values });
                }
            }
        }
        Ok(if wanted.is_empty() { None } else { Some(Box::new(Zones(wanted))) })
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::NodeUpdated { old, new } => old.labels != new.labels,
            Event::Storage(StorageChange::Claim { key, .. }) => super::mounts(pod.class, key),
            Event::Storage(StorageChange::Volume | StorageChange::Class { added: true }) => true,
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
struct Wanted {
    key: &'static str,
    current: &'static str,
    values: Vec<String>,
}

#[derive(Clone, Debug)]
struct Zones(Vec<Wanted>);

impl Live for Zones {
    fn filter(&self, view: View<'_>, _class: &ClassFacts, node: NodeId) -> Option<Rejection> {
        let labels = &view.snapshot.facts(node)?.labels;
        if !PLACES.iter().any(|(key, _)| labels.contains_key(*key)) {
            return None;
        }
        let elsewhere = self.0.iter().any(|wanted| {
            let value = labels.get(wanted.key).or_else(|| labels.get(wanted.current));
            !value.is_some_and(|value| wanted.values.contains(value))
        });
        elsewhere.then(|| Rejection::unresolvable("node(s) had no available volume zone"))
    }

    fn pod_changed(&mut self, _view: View<'_>, _class: &ClassFacts, _other: &ClassFacts, _node: NodeId, _added: bool) {}

    fn is_lasting(&self) -> bool {
        false
    }

    fn copy(&self) -> Box<dyn Live> {
        Box::new(self.clone())
    }
}
