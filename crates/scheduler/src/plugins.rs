//! The rules, one file each, and the one table of their order and weights.
//! The order is upstream's: a node counts for the first rule that rejects it.

mod default_binder;
mod default_preemption;
mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

pub use default_binder::binding;
pub use default_preemption::{Preemption, Victims, preempt};
pub(crate) use dynamic_resources::NOTHING_TO_DEALLOCATE;
pub use priority_sort::QueuePosition;
pub use scheduling_gates::is_gated;
pub use volume_binding::plan_volumes;

use crate::objects::ObjectName;
use crate::plugin::{Plugin, Rejection};
use crate::pod::ClassFacts;

/// A rule and its weight.
#[derive(Debug)]
pub struct Registered {
    /// The rule.
    pub plugin: Box<dyn Plugin>,
    /// Factor of its scores.
    pub weight: i64,
}

/// The rules in their order. At most 32, so that a set of them is a `u32`.
#[derive(Debug)]
pub struct Registry {
    /// Index is the rule's number.
    pub plugins: Vec<Registered>,
}

/// A set of rules by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PluginSet(u32);

impl PluginSet {
    /// Adds a rule.
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// True if the rule is in the set.
    pub fn contains(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    /// True if no rule is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Default for Registry {
    /// Upstream's default profile of 1.36.
    fn default() -> Self {
        let rule = |plugin: Box<dyn Plugin>, weight| Registered { plugin, weight };
        Self {
            plugins: vec![
                rule(Box::new(scheduling_gates::SchedulingGates), 0),
                rule(Box::new(priority_sort::PrioritySort), 0),
                rule(Box::new(node_unschedulable::NodeUnschedulable), 0),
                rule(Box::new(node_name::NodeName), 0),
                rule(Box::new(taint_toleration::TaintToleration), 3),
                rule(Box::new(node_affinity::NodeAffinity), 2),
                rule(Box::new(node_ports::NodePorts), 0),
                rule(Box::new(node_resources_fit::NodeResourcesFit), 1),
                rule(Box::new(volume_restrictions::VolumeRestrictions), 0),
                rule(Box::new(node_volume_limits::NodeVolumeLimits), 0),
                rule(Box::new(volume_binding::VolumeBinding), 0),
                rule(Box::new(volume_zone::VolumeZone), 0),
                rule(Box::new(pod_topology_spread::PodTopologySpread), 2),
                rule(Box::new(inter_pod_affinity::InterPodAffinity), 2),
                rule(Box::new(dynamic_resources::DynamicResources), 0),
                rule(Box::new(default_preemption::DefaultPreemption), 0),
                rule(Box::new(node_resources_balanced_allocation::NodeResourcesBalancedAllocation), 1),
                rule(Box::new(image_locality::ImageLocality), 1),
                rule(Box::new(default_binder::DefaultBinder), 0),
            ],
        }
    }
}

impl Registry {
    /// Upstream's names of the rules in a set, sorted.
    pub fn names(&self, set: PluginSet) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .plugins
            .iter()
            .enumerate()
            .filter(|(index, _)| set.contains(*index))
            .map(|(_, rule)| rule.plugin.name())
            .collect();
        names.sort_unstable();
        names
    }
}

/// True if pods of the class mount this claim.
fn mounts(class: &ClassFacts, (namespace, name): &ObjectName) -> bool {
    class.namespace == *namespace && class.claims.iter().any(|claim| *claim.name == **name)
}

fn claim_not_found(name: &str) -> Rejection {
    Rejection::unresolvable(format!("persistentvolumeclaim \"{name}\" not found"))
}
