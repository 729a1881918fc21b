//! InterPodAffinity: pods that want to be near others or away from them,
//! required and preferred, on both sides: a running pod's anti-affinity keeps
//! newcomers away too.

use std::collections::HashMap;

use api::selector::Labels;

use crate::event::Event;
use crate::intern::Symbol;
use crate::plugin::{Live, MAX_SCORE, Plugin, Rejection, View, Waiting};
use crate::pod::{ClassFacts, PodAffinity, PodTerm};
use crate::snapshot::NodeId;

/// Score of a running pod's required affinity to the newcomer (upstream's
/// `hardPodAffinityWeight`).
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn live(&self, view: View<'_>, class: &ClassFacts) -> Result<Option<Box<dyn Live>>, Rejection> {
        let snapshot = view.snapshot;
        if class.affinity.is_none() && snapshot.affinity_placements().next().is_none() {
            return Ok(None);
        }
        let mut state = Near { namespace_labels: view.objects.namespace_labels(&class.namespace), ..Near::default() };
        let mut add = |placement: &crate::snapshot::Placement| {
            for (node, count) in placement.nodes.iter().filter(|(node, _)| snapshot.nodes().contains(node.index())) {
                state.shift(view, class, &placement.class, *node, i64::from(*count));
            }
        };
        // Without terms of its own only others' terms concern the pod.
        match &class.affinity {
            Some(_) => snapshot.placements().for_each(&mut add),
            None => snapshot.affinity_placements().for_each(&mut add),
        }
        Ok(Some(Box::new(state)))
    }

    fn concerns(&self, other: &ClassFacts) -> bool {
        other.affinity.is_some()
    }

    fn hint(&self, view: View<'_>, pod: &Waiting<'_>, event: &Event) -> bool {
        let none = PodAffinity::default();
        let own = pod.class.affinity.as_deref().unwrap_or(&none);
        let all = |terms: &[PodTerm], other: &ClassFacts| matches_all(view, terms, other);
        match event {
            Event::PodUpdated { new, .. } if *new.uid == *pod.uid => true,
            Event::PodUpdated { old, new } if new.has_place => {
                (!all(&own.required, &old.class) && all(&own.required, &new.class))
                    || (all(&own.anti_required, &old.class) && !all(&own.anti_required, &new.class))
            }
            Event::PodAdded(other) => other.has_place && all(&own.required, &other.class),
            Event::PodDeleted(other) if other.has_place => {
                let theirs = other.class.affinity.as_deref().map_or(&[][..], |affinity| &affinity.anti_required);
                all(&own.anti_required, &other.class) || all(theirs, pod.class)
            }
            Event::NodeAdded(node) => {
                !own.anti_required.is_empty()
                    || own.required.iter().any(|term| node.labels.contains_key(&term.topology_key))
            }
            Event::NodeUpdated { old, new } => {
                let moved = |term: &PodTerm| {
                    let (before, after) = (old.labels.get(&term.topology_key), new.labels.get(&term.topology_key));
                    (before, after, before != after)
                };
                own.required.iter().any(|term| matches!(moved(term), (_, Some(_), true)))
                    || own.anti_required.iter().any(|term| matches!(moved(term), (Some(_), _, true)))
            }
            _ => false,
        }
    }
}

/// True if there are terms and the pod is one that each of them speaks of.
fn matches_all(view: View<'_>, terms: &[PodTerm], other: &ClassFacts) -> bool {
    !terms.is_empty() && terms.iter().all(|term| speaks_of(view, term, other))
}

fn speaks_of(view: View<'_>, term: &PodTerm, other: &ClassFacts) -> bool {
    let by_name = term.namespaces.contains(&*other.namespace);
    (by_name || term.namespace_selector.matches(&*view.objects.namespace_labels(&other.namespace)))
        && term.selector.matches(&*other.labels)
}

/// Counts or scores by label key and value. No entry is 0.
#[derive(Clone, Debug, Default)]
struct ByDomain(HashMap<Symbol, HashMap<Symbol, i64>>);

impl ByDomain {
    fn shift(&mut self, view: View<'_>, topology_key: &str, node: NodeId, by: i64) {
        let key = view.snapshot.strings.find(topology_key);
        let value = view.snapshot.label(node, key);
        if value == Symbol::NONE {
            return;
        }
        let values = self.0.entry(key).or_default();
        let count = values.entry(value).or_default();
        *count += by;
        if *count == 0 {
            values.remove(&value);
            if values.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    fn at(&self, key: Symbol, value: Symbol) -> i64 {
        self.0.get(&key).and_then(|values| values.get(&value)).copied().unwrap_or(0)
    }
}

/// What running pods mean for one class. Valid until a node changes.
#[derive(Clone, Debug, Default)]
struct Near {
    namespace_labels: std::sync::Arc<Labels>,
    /// Pods that match all required terms of the class.
    wanted: ByDomain,
    /// Pods that match one of its required anti-affinity terms.
    unwanted: ByDomain,
    /// Pods whose required anti-affinity terms match the class.
    refusing: ByDomain,
    /// Sums of weights.
    liking: ByDomain,
}

impl Near {
    fn shift(&mut self, view: View<'_>, class: &ClassFacts, other: &ClassFacts, node: NodeId, by: i64) {
        if let Some(own) = class.affinity.as_deref() {
            if matches_all(view, &own.required, other) {
                for term in &own.required {
                    self.wanted.shift(view, &term.topology_key, node, by);
                }
            }
            for term in own.anti_required.iter().filter(|term| speaks_of(view, term, other)) {
                self.unwanted.shift(view, &term.topology_key, node, by);
            }
            for (weight, term) in own.preferred.iter().filter(|(_, term)| speaks_of(view, term, other)) {
                self.liking.shift(view, &term.topology_key, node, by * i64::from(*weight));
            }
            for (weight, term) in own.anti_preferred.iter().filter(|(_, term)| speaks_of(view, term, other)) {
                self.liking.shift(view, &term.topology_key, node, -by * i64::from(*weight));
            }
        }
        if let Some(theirs) = other.affinity.as_deref() {
            let labels = self.namespace_labels.clone();
            let speaks = |term: &PodTerm| term.matches(&class.namespace, &labels, &class.labels);
            for term in theirs.anti_required.iter().filter(|term| speaks(term)) {
                self.refusing.shift(view, &term.topology_key, node, by);
            }
            for term in theirs.required.iter().filter(|term| speaks(term)) {
                self.liking.shift(view, &term.topology_key, node, by * HARD_AFFINITY_WEIGHT);
            }
            for (weight, term) in theirs.preferred.iter().filter(|(_, term)| speaks(term)) {
                self.liking.shift(view, &term.topology_key, node, by * i64::from(*weight));
            }
            for (weight, term) in theirs.anti_preferred.iter().filter(|(_, term)| speaks(term)) {
                self.liking.shift(view, &term.topology_key, node, -by * i64::from(*weight));
            }
        }
    }

    /// The first pod of a group that wants to be near itself may start anywhere.
    fn is_near_wanted(&self, view: View<'_>, class: &ClassFacts, own: &PodAffinity, node: NodeId) -> bool {
        let mut all_there = true;
        for term in &own.required {
            let key = view.snapshot.strings.find(&term.topology_key);
            let value = view.snapshot.label(node, key);
            if value == Symbol::NONE {
                return false;
            }
            all_there &= self.wanted.at(key, value) > 0;
        }
        all_there || (self.wanted.0.is_empty() && matches_all(view, &own.required, class))
    }
}

impl Live for Near {
    fn filter(&self, view: View<'_>, class: &ClassFacts, node: NodeId) -> Option<Rejection> {
        let snapshot = view.snapshot;
        if let Some(own) = class.affinity.as_deref() {
            if !self.is_near_wanted(view, class, own, node) {
                return Some(Rejection::unresolvable("node(s) didn't match pod affinity rules"));
            }
            let near_unwanted = own.anti_required.iter().any(|term| {
                let key = snapshot.strings.find(&term.topology_key);
                self.unwanted.at(key, snapshot.label(node, key)) > 0
            });
            if near_unwanted {
                return Some(Rejection::resolvable("node(s) didn't match pod anti-affinity rules"));
            }
        }
        let mut refusing = self.refusing.0.iter();
        refusing
            .any(|(key, values)| values.get(&snapshot.label(node, *key)).is_some_and(|count| *count > 0))
            .then(|| Rejection::resolvable("node(s) didn't satisfy existing pods anti-affinity rules"))
    }

    fn pod_changed(&mut self, view: View<'_>, class: &ClassFacts, other: &ClassFacts, node: NodeId, added: bool) {
        self.shift(view, class, other, node, if added { 1 } else { -1 });
    }

    fn score(&self, view: View<'_>, _class: &ClassFacts, nodes: &[NodeId], scores: &mut [i64]) -> bool {
        if self.liking.0.is_empty() {
            return false;
        }
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let values = self.liking.0.iter().filter_map(|(key, values)| values.get(&view.snapshot.label(*node, *key)));
            *score = values.sum();
        }
        let greatest = scores.iter().copied().max().unwrap_or(0);
        let least = scores.iter().copied().min().unwrap_or(0);
        if greatest == least {
            return false;
        }
        for score in scores.iter_mut() {
            *score = (MAX_SCORE as f64 * ((*score - least) as f64 / (greatest - least) as f64)) as i64;
        }
        true
    }

    fn copy(&self) -> Box<dyn Live> {
        Box::new(self.clone())
    }
}
