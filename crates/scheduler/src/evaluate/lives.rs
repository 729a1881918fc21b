//! States of the rules that look beyond one node, per class. Kept for the
//! classes used last and brought up to date by the log.

use std::collections::HashMap;

use crate::plugin::{Live, Rejection, View};
use crate::plugins::Registry;
use crate::pod::{Class, ClassFacts};
use crate::snapshot::{Change, NodeId};

/// Classes kept.
const KEPT_CLASSES: usize = 64;

/// States of all such rules for one class.
#[derive(Debug, Default)]
pub struct Lives {
    states: Vec<(usize, Box<dyn Live>)>,
}

impl Clone for Lives {
    fn clone(&self) -> Self {
        Self { states: self.states.iter().map(|(plugin, live)| (*plugin, live.copy())).collect() }
    }
}

impl Lives {
    /// True if no rule has anything to say.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The first rule that rejects the node.
    pub fn filter(&self, view: View<'_>, class: &ClassFacts, node: NodeId) -> Option<(usize, Rejection)> {
        self.states
            .iter()
            .find_map(|(plugin, live)| live.filter(view, class, node).map(|rejection| (*plugin, rejection)))
    }

    /// A pod came to a node or left it.
    pub fn pod_changed(&mut self, view: View<'_>, class: &ClassFacts, other: &ClassFacts, node: NodeId, added: bool) {
        for (_, live) in &mut self.states {
            live.pod_changed(view, class, other, node, added);
        }
    }

    /// True if a rule without state here has something to say because of a pod
    /// of this class.
    fn is_concerned(&self, registry: &Registry, other: &ClassFacts) -> bool {
        let mut rules = registry.plugins.iter().enumerate();
        rules
            .any(|(index, rule)| rule.plugin.concerns(other) && !self.states.iter().any(|(plugin, _)| *plugin == index))
    }

    /// The states with the weights of their rules.
    pub fn scorers<'a>(&'a self, registry: &'a Registry) -> impl Iterator<Item = (i64, &'a dyn Live)> + 'a {
        self.states.iter().map(|(plugin, live)| (registry.plugins[*plugin].weight, &**live))
    }
}

#[derive(Debug)]
struct Kept {
    lives: Lives,
    seen: u64,
    generation: u64,
    used: u64,
}

/// States of the classes used last.
#[derive(Debug, Default)]
pub(super) struct LiveCache {
    classes: HashMap<u64, Kept>,
    uses: u64,
    /// Position and generation that the state taken last was brought to.
    taken: (u64, u64),
}

impl LiveCache {
    /// The state of a class, up to date; or the rule that refuses the pod.
    pub(super) fn take(
        &mut self,
        registry: &Registry,
        view: View<'_>,
        class: &Class,
    ) -> Result<Lives, (usize, Rejection)> {
        self.taken = (view.snapshot.log.end(), view.objects.generation());
        if let Some(kept) = self.classes.remove(&class.id)
            && let Some(lives) = kept.catch_up(registry, view, class)
        {
            return Ok(lives);
        }
        let mut states = Vec::new();
        for (plugin, rule) in registry.plugins.iter().enumerate() {
            if let Some(live) = rule.plugin.live(view, class).map_err(|rejection| (plugin, rejection))? {
                states.push((plugin, live));
            }
        }
        Ok(Lives { states })
    }

    /// Keeps a state that [`LiveCache::take`] gave, unchanged since.
    pub(super) fn give_back(&mut self, class: &Class, lives: Lives) {
        // A class without state is looked at anew each time: one that starts
        // to matter to other pods' rules must be noticed.
        if lives.is_empty() || !lives.states.iter().all(|(_, live)| live.is_lasting()) {
            return;
        }
        if self.classes.len() == KEPT_CLASSES {
            let oldest = self.classes.iter().min_by_key(|(_, kept)| kept.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.classes.remove(&oldest);
            }
        }
        self.uses += 1;
        let (seen, generation) = self.taken;
        self.classes.insert(class.id, Kept { lives, seen, generation, used: self.uses });
    }
}

impl Kept {
    /// None if it must be made anew.
    fn catch_up(mut self, registry: &Registry, view: View<'_>, class: &ClassFacts) -> Option<Lives> {
        if self.generation != view.objects.generation() {
            return None;
        }
        for change in view.snapshot.log.since(self.seen)? {
            match change {
                Change::Node(_) => return None,
                Change::Images => {}
                Change::Pod { class: other, node, added } => {
                    if self.lives.is_concerned(registry, other) {
                        return None;
                    }
                    self.lives.pod_changed(view, class, other, *node, *added);
                }
            }
        }
        Some(self.lives)
    }
}
