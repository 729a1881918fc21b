//! The whole table, kept as the sum of what each Service contributes, so that a
//! changed Service costs what it changes and not what there is.

use super::layout::{self, Contribution, GroupName, Surroundings};
use super::plan::{PlannedService, Target};
use crate::hold::{Fate, Place};
use crate::netlink::expression::{Data, Verdict};
use crate::netlink::nftables::{RuleSet, Set};
use client::ObjectKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Who wants an element, and its value.
type Claim = (ObjectKey, Option<Data>);

/// The table that should be.
pub(super) struct Table {
    around: Surroundings,
    skeleton: RuleSet,
    services: HashMap<ObjectKey, Entry>,
    /// Who wants an element with which value, in order of arrival: the first
    /// one's value counts, so that two Services that claim one address do not
    /// take it from each other in turns.
    elements: HashMap<(&'static str, Vec<u8>), Vec<Claim>>,
    /// How many Services use a chain.
    chains: HashMap<String, usize>,
    next_group: u32,
}

#[derive(Default)]
struct Entry {
    contribution: Contribution,
    groups: BTreeMap<GroupName, Group>,
}

/// Endpoints in an order that changes as little as they do.
struct Group {
    number: u32,
    order: Vec<Target>,
}

impl Group {
    fn arrange(&mut self, endpoints: &BTreeSet<Target>) {
        let mut index = 0;
        while index < self.order.len() {
            if endpoints.contains(&self.order[index]) {
                index += 1;
            } else {
                self.order.swap_remove(index);
            }
        }
        let known: BTreeSet<_> = self.order.iter().copied().collect();
        self.order.extend(endpoints.difference(&known));
    }
}

/// The parts of the table that a change touches, before and after.
#[derive(Default)]
pub(super) struct Difference {
    /// As it was.
    pub(super) old: RuleSet,
    /// As it shall be.
    pub(super) new: RuleSet,
    /// Endpoints that no longer serve their group.
    pub(super) gone: BTreeSet<(u32, Target)>,
    /// What becomes of new connections to the frontends that changed.
    pub(super) fates: BTreeMap<Place, Fate>,
}

impl Difference {
    /// Takes out what must be there before the rest is changed: new chains. A
    /// packet keeps to the rules as they were when it came, and takes each
    /// lookup from the table as it is: a chain that came with the element that
    /// leads to it would be empty for it.
    pub(super) fn split_off_first(&mut self) -> RuleSet {
        let fresh = self.new.chains.iter().filter(|(name, _)| !self.old.chains.contains_key(*name));
        let fresh: BTreeMap<_, _> = fresh.map(|(name, chain)| (name.clone(), chain.clone())).collect();
        self.old.chains.extend(fresh.clone());
        RuleSet { sets: BTreeMap::new(), chains: fresh }
    }

    /// Takes out the removals that must wait until packets are done that an
    /// element led on before the rest is changed, and takes in those that
    /// waited until now.
    pub(super) fn exchange_removals(&mut self, waited: BTreeMap<String, Set>) -> BTreeMap<String, Set> {
        let mut waiting = BTreeMap::new();
        for name in layout::LOOKED_UP_LATER {
            let (Some(old), Some(new)) = (self.old.sets.get_mut(name), self.new.sets.get(name)) else { continue };
            let (going, staying): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut old.elements).into_iter().partition(|(key, _)| !new.elements.contains_key(key));
            old.elements = staying;
            if !going.is_empty() {
                waiting.insert(name.to_owned(), Set { kind: old.kind.clone(), elements: going });
            }
        }
        for (name, mut set) in waited {
            self.new.sets.entry(name.clone()).or_insert_with(|| Set { kind: set.kind.clone(), ..Set::default() });
            self.old.sets.entry(name).and_modify(|old| old.elements.append(&mut set.elements)).or_insert(set);
        }
        waiting
    }
}

impl Table {
    pub(super) fn new(around: Surroundings) -> Self {
        Self {
            around,
            skeleton: layout::skeleton(&around),
            services: HashMap::new(),
            elements: HashMap::new(),
            chains: HashMap::new(),
            next_group: 1,
        }
    }

    /// Takes new plans (`None`: the Service is gone) and says what changes.
    pub(super) fn change(&mut self, plans: Vec<(ObjectKey, Option<PlannedService>)>) -> Difference {
        let mut touched = BTreeSet::new();
        let mut before_chains = HashMap::new();
        let mut contents = HashMap::new();
        let mut gone = BTreeSet::new();
        let mut before = HashMap::new();
        for (key, plan) in plans {
            let mut entry = self.services.remove(&key).unwrap_or_default();
            let old = std::mem::take(&mut entry.contribution);
            if let Some(plan) = &plan {
                let next_group = &mut self.next_group;
                let groups = &mut entry.groups;
                entry.contribution = layout::contribution(plan, &self.around, |name, endpoints| {
                    let group = groups.entry(name).or_insert_with(|| {
                        let number = *next_group;
                        *next_group = next_group.wrapping_add(1);
                        Group { number, order: Vec::new() }
                    });
                    group.arrange(endpoints);
                    (group.number, group.order.clone())
                });
            }
            let new = &entry.contribution;
            gone.extend(layout::endpoints_of(&old).difference(&layout::endpoints_of(new)).copied());
            for place in old.elements.keys().chain(new.elements.keys()) {
                if old.elements.get(place) != new.elements.get(place) {
                    if touched.insert(place.clone()) {
                        before.insert(place.clone(), self.effective(place).cloned());
                    }
                    self.claim(&key, place, new.elements.get(place));
                }
            }
            for (name, chain, added) in
                new.chains.iter().map(|(n, c)| (n, c, true)).chain(old.chains.iter().map(|(n, c)| (n, c, false)))
            {
                let uses = self.chains.entry(name.clone()).or_insert(0);
                before_chains.entry(name.clone()).or_insert(*uses);
                *uses = if added { *uses + 1 } else { uses.saturating_sub(1) };
                contents.entry(name.clone()).or_insert_with(|| chain.clone());
            }
            if plan.is_some() {
                self.services.insert(key, entry);
            }
        }
        let mut difference = Difference { gone, ..Difference::default() };
        for place in touched {
            if let Some(frontend) = layout::place_of(place.0, &place.1) {
                difference.fates.insert(frontend, self.fate(&place));
            }
            let old = before.remove(&place).flatten();
            let new = self.effective(&place).cloned();
            for (rules, value) in [(&mut difference.old, old), (&mut difference.new, new)] {
                let kind = self.skeleton.sets.get(place.0).map(|set| set.kind.clone()).unwrap_or_default();
                let set = rules.sets.entry(place.0.to_owned()).or_insert_with(|| Set { kind, ..Set::default() });
                if let Some(value) = value {
                    set.elements.insert(place.1.clone(), value);
                }
            }
        }
        for (name, before) in before_chains {
            let after = self.chains.get(&name).copied().unwrap_or(0);
            if let Some(chain) = contents.remove(&name) {
                if before > 0 {
                    difference.old.chains.insert(name.clone(), chain.clone());
                }
                if after > 0 {
                    difference.new.chains.insert(name.clone(), chain);
                } else {
                    self.chains.remove(&name);
                }
            }
        }
        difference
    }

    /// Everything there should be.
    pub(super) fn whole(&self) -> RuleSet {
        let mut rules = self.skeleton.clone();
        for (name, key) in self.elements.keys() {
            let place = (*name, key.clone());
            if let (Some(set), Some(value)) = (rules.sets.get_mut(*name), self.effective(&place)) {
                set.elements.insert(key.clone(), value.clone());
            }
        }
        for entry in self.services.values() {
            rules.chains.extend(entry.contribution.chains.clone());
        }
        rules
    }

    fn fate(&self, place: &(&'static str, Vec<u8>)) -> Fate {
        let first = self.elements.get(place).and_then(|claims| claims.first());
        match first {
            Some((owner, Some(Data::Verdict(Verdict::Goto(chain))))) if layout::held_by(chain).is_some() => {
                Fate::Held(owner.clone())
            }
            Some(_) => Fate::Served,
            None => Fate::Refused,
        }
    }

    fn effective(&self, place: &(&'static str, Vec<u8>)) -> Option<&Option<Data>> {
        self.elements.get(place).and_then(|claims| claims.first()).map(|(_, value)| value)
    }

    fn claim(&mut self, key: &ObjectKey, place: &(&'static str, Vec<u8>), value: Option<&Option<Data>>) {
        let claims = self.elements.entry(place.clone()).or_default();
        match (claims.iter().position(|(owner, _)| owner == key), value) {
            (Some(index), Some(value)) => claims[index].1 = value.clone(),
            (Some(index), None) => {
                claims.remove(index);
            }
            (None, Some(value)) => claims.push((key.clone(), value.clone())),
            (None, None) => {}
        }
        if claims.is_empty() {
            self.elements.remove(place);
        }
    }
}
