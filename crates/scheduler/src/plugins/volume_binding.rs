//! VolumeBinding: a pod's bound volumes must be usable on the node; for claims
//! that wait for their first pod the node decides which volume they get, or
//! where one is made. It plans; the run loop carries the plan out.

use std::collections::HashSet;
use std::sync::Arc;

use crate::event::Event;
use crate::node::NodeFacts;
use crate::objects::{Claim, StorageChange, StorageClass, Volume, VolumePlan, Volumes};
use crate::plugin::{Live, Plugin, Rejection, View, Waiting};
use crate::pod::ClassFacts;
use crate::snapshot::NodeId;

/// Provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn live(&self, view: View<'_>, class: &ClassFacts) -> Result<Option<Box<dyn Live>>, Rejection> {
        let mounted = Mounted::new(&view.objects.volumes, class)?;
        Ok(mounted.map(|mounted| Box::new(mounted) as Box<dyn Live>))
    }

    fn hint(&self, _view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::NodeUpdated { old, new } => old.labels != new.labels,
            Event::Storage(StorageChange::Claim { key, .. }) => super::mounts(pod.class, key),
            Event::Storage(change) => *change != StorageChange::Detached,
            _ => false,
        }
    }
}

/// What the volumes of a pod need on a node that they can be used on.
pub fn plan_volumes(view: View<'_>, class: &ClassFacts, node: NodeId) -> VolumePlan {
    let mounted = Mounted::new(&view.objects.volumes, class).ok().flatten();
    let facts = view.snapshot.facts(node);
    mounted.zip(facts).map(|(mounted, facts)| mounted.check(&view.objects.volumes, facts).1).unwrap_or_default()
}

/// Claims of a pod.
#[derive(Clone, Debug)]
struct Mounted {
    bound: Vec<Arc<Claim>>,
    /// Waiting for their first pod, the smallest first.
    waiting: Vec<Arc<Claim>>,
}

impl Mounted {
    fn new(volumes: &Volumes, class: &ClassFacts) -> Result<Option<Self>, Rejection> {
        let mut mounted = Self { bound: Vec::new(), waiting: Vec::new() };
        let mut unbound = false;
        for reference in &class.claims {
            let name = &reference.name;
            let claim = volumes.claim(&class.namespace, name).ok_or_else(|| match reference.is_ephemeral() {
                true => Rejection::unresolvable(format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                )),
                false => super::claim_not_found(name),
            })?;
            if claim.lost {
                let volume = claim.volume.as_deref().unwrap_or_default();
                let text =
                    format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\"");
                return Err(Rejection::unresolvable(text));
            }
            if claim.deleting {
                return Err(Rejection::unresolvable(format!("persistentvolumeclaim \"{name}\" is being deleted")));
            }
            if reference.is_ephemeral() && reference.made_for != claim.owner {
                return Err(Rejection::unresolvable(format!(
                    "PVC {}/{name} was not created for this pod (pod is not owner)",
                    class.namespace
                )));
            }
            if claim.bound {
                mounted.bound.push(claim.clone());
            } else if claim.volume.is_none() && volumes.class(&claim.class).is_some_and(|class| class.waits) {
                mounted.waiting.push(claim.clone());
            } else {
                unbound = true;
            }
        }
        if unbound {
            return Err(Rejection::unresolvable("pod has unbound immediate PersistentVolumeClaims"));
        }
        mounted.waiting.sort_by_key(|claim| claim.request);
        Ok((!class.claims.is_empty()).then_some(mounted))
    }

    /// Why the node does not do, or what has to be done for it.
    fn check(&self, volumes: &Volumes, node: &NodeFacts) -> (Vec<std::borrow::Cow<'static, str>>, VolumePlan) {
        let mut reasons = Vec::new();
        let mut missing = false;
        for claim in &self.bound {
            match claim.volume.as_ref().and_then(|name| volumes.volume(name)) {
                None => missing = true,
                Some(volume) if !is_usable(volume, node) => {
                    reasons.push("node(s) didn't match PersistentVolume's node affinity".into());
                    break;
                }
                Some(_) => {}
            }
        }
        let plan = self.plan(volumes, node).unwrap_or_else(|reason| {
            reasons.push(reason.into());
            VolumePlan::default()
        });
        if missing {
            reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into());
        }
        (reasons, plan)
    }

    fn plan(&self, volumes: &Volumes, node: &NodeFacts) -> Result<VolumePlan, &'static str> {
        const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
        let mut plan = VolumePlan::default();
        let mut chosen: HashSet<Arc<str>> = HashSet::new();
        let mut to_provision = Vec::new();
        for claim in &self.waiting {
            match volumes.selected_node(claim) {
                Some(selected) if *selected != *node.name => return Err(NO_VOLUME),
                Some(_) => to_provision.push(claim.clone()),
                None => match find_volume(volumes, claim, node, &chosen) {
                    Some(volume) => {
                        chosen.insert(volume.name.clone());
                        plan.bindings.push((volume, claim.clone()));
                    }
                    None => to_provision.push(claim.clone()),
                },
            }
        }
        for claim in to_provision {
            let class = volumes.class(&claim.class).ok_or(NO_VOLUME)?;
            if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !allows(class, node) {
                return Err(NO_VOLUME);
            }
            if !volumes.has_room(&claim.class, &class.provisioner, claim.request, &node.labels) {
                return Err("node(s) did not have enough free storage");
            }
            plan.provisions.push(claim);
        }
        Ok(plan)
    }
}

fn is_usable(volume: &Volume, node: &NodeFacts) -> bool {
    volume.affinity.as_ref().is_none_or(|affinity| affinity.matches(&node.name, &node.labels))
}

fn allows(class: &StorageClass, node: &NodeFacts) -> bool {
    class.topologies.is_empty()
        || class.topologies.iter().any(|term| {
            term.iter().all(|(key, values)| node.labels.get(key).is_some_and(|value| values.contains(value)))
        })
}

/// The volume reserved for the claim, else the smallest that does.
fn find_volume(volumes: &Volumes, claim: &Claim, node: &NodeFacts, taken: &HashSet<Arc<str>>) -> Option<Arc<Volume>> {
    let mut best: Option<&Arc<Volume>> = None;
    for volume in volumes.volumes().filter(|volume| !taken.contains(&volume.name)) {
        let bound_to = volumes.claim_of(volume);
        let ours = bound_to.is_some_and(|(key, uid)| *key == claim.key && (uid.is_empty() || *uid == claim.uid));
        let suits = volume.capacity >= claim.request
            && volume.mode == claim.mode
            && volume.attributes_class == claim.attributes_class
            && !volume.deleting;
        if !suits || (bound_to.is_some() && !ours) {
            continue;
        }
        let usable = is_usable(volume, node);
        if ours {
            return usable.then(|| volume.clone());
        }
        let does = volume.available
            && claim.selector.as_ref().is_none_or(|selector| selector.matches(&volume.labels))
            && volume.class == claim.class
            && usable
            && claim.access_modes.iter().all(|mode| volume.access_modes.contains(mode));
        if does && best.is_none_or(|best| (volume.capacity, &volume.name) < (best.capacity, &best.name)) {
            best = Some(volume);
        }
    }
    best.cloned()
}

impl Live for Mounted {
    fn filter(&self, view: View<'_>, _class: &ClassFacts, node: NodeId) -> Option<Rejection> {
        let (reasons, _) = self.check(&view.objects.volumes, view.snapshot.facts(node)?);
        (!reasons.is_empty()).then_some(Rejection { unresolvable: true, reasons })
    }

    fn pod_changed(&mut self, _view: View<'_>, _class: &ClassFacts, _other: &ClassFacts, _node: NodeId, _added: bool) {}

    fn is_lasting(&self) -> bool {
        false
    }

    fn copy(&self) -> Box<dyn Live> {
        Box::new(self.clone())
    }
}
