//! What to change about a Deployment's ReplicaSets and status, from what is
//! seen of them. Pure: the clock is an argument, and nobody is asked.
//!
//! One call plans one round, as far as it can be known before its writes are
//! seen: the next round starts when they are.

use client::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::conditions::{self, PAUSED, PROGRESSING, Sets, TIMED_OUT};
use super::rollback;
use super::sets::{
    DESIRED_REPLICAS, HASH_LABEL, REVISION, annotate_new, annotate_sizes, by_age, by_revision, name_of,
    position_of_new, replicas_of, revision,
};
use super::sizes::{desired, is_saturated, max_surge, max_unavailable, new_size, number, proportion};
use crate::template::{controller_reference, hash};

/// Longest name of a ReplicaSet.
const NAME_LIMIT_BYTES: usize = 253;

/// What is seen.
pub(super) struct Observed {
    pub(super) deployment: Deployment,
    /// The Deployment's own.
    pub(super) sets: Vec<ReplicaSet>,
    /// Pods of sets other than the newest that are neither succeeded nor
    /// failed, by the uid of their set. Read for Recreate alone.
    pub(super) living_pods: Vec<String>,
}

/// An event about the Deployment.
#[derive(Debug, PartialEq)]
pub(super) struct Event {
    pub(super) kind: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Event {
    pub(super) fn normal(reason: &'static str, message: &str) -> Self {
        Self { kind: EventType::Normal, reason, message: message.to_owned() }
    }

    pub(super) fn warning(reason: &'static str, message: &str) -> Self {
        Self { kind: EventType::Warning, reason, message: message.to_owned() }
    }
}

/// One write. They are made in order; the first that fails ends the round.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Make the newest set.
    Create { set: Box<ReplicaSet>, event: Option<Event> },
    /// Change annotations, size or readiness time of a set.
    Update { set: Box<ReplicaSet>, event: Option<Event> },
    /// Delete a set that only history needed.
    Delete { name: String },
    /// Change the Deployment itself: a rollback.
    ReplaceDeployment { deployment: Box<Deployment>, event: Event },
    /// Write status and revision annotation.
    WriteStatus(Box<Deployment>),
}

/// What to do, and when to look again if nothing happens.
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) next: Option<Timestamp>,
}

pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

pub(super) fn plan(observed: Observed, now: Timestamp) -> Plan {
    let Observed { deployment, mut sets, living_pods } = observed;
    sets.sort_by(by_age);
    let round = Round {
        before: deployment.clone(),
        deployment,
        original: sets.clone(),
        sets,
        new: None,
        steps: Vec::new(),
        now,
    };
    round.run(&living_pods)
}

/// The status after the newest set could not be made, and the event for it.
pub(super) fn create_failed(
    deployment: &Deployment,
    name: &str,
    error: &str,
    now: Timestamp,
) -> (Option<DeploymentStatus>, Event) {
    const REASON: &str = "ReplicaSetCreateError";
    let message = format!("Failed to create new replica set {name:?}: {error}");
    let status = conditions::has_deadline(deployment).then(|| {
        let mut status = deployment.status.clone().unwrap_or_default();
        conditions::set(&mut status, conditions::condition(PROGRESSING, "False", REASON, &message, now));
        status
    });
    (status, Event::warning(REASON, &message))
}

/// The status after the newest set's name turned out to be taken.
pub(super) fn collided(deployment: &Deployment) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    status
}

struct Round {
    /// As seen.
    before: Deployment,
    /// With what this round changes of its status and revision.
    deployment: Deployment,
    original: Vec<ReplicaSet>,
    /// In order of age, changed by this round; the newest set may be one that
    /// is still to be made, then it is last.
    sets: Vec<ReplicaSet>,
    new: Option<usize>,
    steps: Vec<Step>,
    now: Timestamp,
}

impl Round {
    fn run(mut self, living_pods: &[String]) -> Plan {
        if self.before.metadata.deletion_timestamp.is_some() {
            self.find_new();
            return self.finish(false);
        }
        self.note_pause();
        if self.before.spec.as_ref().and_then(|spec| spec.paused) == Some(true) {
            return self.resize(true);
        }
        if let Some(wanted) = rollback::wanted(&self.before) {
            self.find_new();
            let steps = rollback::steps(&self.before, &self.sets, wanted);
            return Plan { steps, next: None };
        }
        self.find_new();
        if self.is_scaled() {
            return self.resize(false);
        }
        if is_rolling(&self.before) { self.roll() } else { self.recreate(living_pods) }
    }

    /// Paused and resumed rollouts say so, unless they had failed before.
    fn note_pause(&mut self) {
        let paused = self.before.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let status = self.deployment.status.get_or_insert_default();
        if !conditions::has_deadline(&self.before) || conditions::is_reason(status, TIMED_OUT) {
            return;
        }
        let noted = conditions::is_reason(status, PAUSED);
        let (reason, message) = match (paused, noted) {
            (true, false) => (PAUSED, "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        conditions::set(status, conditions::condition(PROGRESSING, "Unknown", reason, message, self.now));
    }

    /// The newest set, if there is one, with its annotations brought up to date.
    fn find_new(&mut self) {
        if self.new.is_some() {
            return;
        }
        self.new = position_of_new(&self.before, &self.sets);
        let Some(new) = self.new else { return };
        let number = self.next_revision();
        let set = &mut self.sets[new];
        annotate_new(&self.before, set, number, false);
        if let (Some(its), Some(spec)) = (&mut set.spec, &self.before.spec)
            && its.min_ready_seconds.unwrap_or(0) != spec.min_ready_seconds.unwrap_or(0)
        {
            its.min_ready_seconds = spec.min_ready_seconds;
        }
        let revision = set.metadata.annotations.as_ref().and_then(|all| all.get(REVISION)).cloned();
        self.note_revision(revision.unwrap_or_default());
        let message = format!("Found new replica set {:?}", name_of(&self.sets[new]));
        self.note_new("FoundNewReplicaSet", &message);
    }

    fn next_revision(&self) -> i64 {
        let old = self.sets.iter().enumerate().filter(|(at, _)| Some(*at) != self.new);
        old.filter_map(|(_, set)| revision(set)).max().unwrap_or(0).max(0) + 1
    }

    fn note_revision(&mut self, revision: String) {
        self.deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
    }

    /// Progress begins, if it is watched and has not begun.
    fn note_new(&mut self, reason: &str, message: &str) {
        let status = self.deployment.status.get_or_insert_default();
        let is_found = reason == "FoundNewReplicaSet";
        if conditions::has_deadline(&self.before) && !(is_found && conditions::get(status, PROGRESSING).is_some()) {
            conditions::set(status, conditions::condition(PROGRESSING, "True", reason, message, self.now));
        }
    }

    /// Makes the newest set if there is none.
    fn make_new(&mut self) {
        self.find_new();
        if self.new.is_some() {
            return;
        }
        let Some(spec) = &self.before.spec else { return };
        let collisions = self.before.status.as_ref().and_then(|status| status.collision_count);
        let hash = hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let sum: i32 = self.sets.iter().map(replicas_of).sum();
        let size = new_size(&self.before, sum, 0);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(set_name(self.before.metadata.name.as_deref().unwrap_or_default(), &hash)),
                namespace: self.before.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(&self.before)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        let number = self.next_revision();
        annotate_new(&self.before, &mut set, number, true);
        let message = format!("Created new replica set {:?}", name_of(&set));
        let event = (size > 0).then(|| scaled_event(&set, 0, size));
        self.steps.push(Step::Create { set: Box::new(set.clone()), event });
        self.note_revision(number.to_string());
        self.note_new("NewReplicaSetCreated", &message);
        self.new = Some(self.sets.len());
        self.original.push(set.clone());
        self.sets.push(set);
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |at| Some(*at) != new)
    }

    fn active_old(&self) -> Vec<usize> {
        self.old().filter(|at| replicas_of(&self.sets[*at]) > 0).collect()
    }

    fn sum(&self) -> i32 {
        self.sets.iter().map(replicas_of).sum()
    }

    fn available(&self, at: usize) -> i32 {
        self.sets[at].status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// The Deployment's size changed since the sets were sized.
    fn is_scaled(&self) -> bool {
        let total = desired(&self.before);
        let active = self.sets.iter().filter(|set| replicas_of(set) > 0);
        active.filter_map(|set| number(set, DESIRED_REPLICAS)).any(|before| before != total)
    }

    /// Gives a set its size. True if that changes it.
    fn size(&mut self, at: usize, size: i32) -> bool {
        if replicas_of(&self.sets[at]) == size {
            return false;
        }
        self.size_anyway(at, size);
        true
    }

    /// Gives a set its size and the annotations that go with it.
    fn size_anyway(&mut self, at: usize, size: i32) {
        let set = &mut self.sets[at];
        set.spec.get_or_insert_default().replicas = Some(size);
        annotate_sizes(&self.before, set);
    }

    /// Scales without rolling: one active set gets all, several get their share.
    fn resize(mut self, is_paused: bool) -> Plan {
        self.find_new();
        let total = desired(&self.before);
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|at| replicas_of(&self.sets[*at]) > 0).collect();
        let single = match active[..] {
            [] => self.new.or_else(|| self.old().max_by(|a, b| by_age(&self.sets[*a], &self.sets[*b]))),
            [one] => Some(one),
            _ => None,
        };
        let saturated = self.new.is_some_and(|new| is_saturated(&self.before, &self.sets[new]));
        if let Some(single) = single {
            self.size(single, total);
        } else if saturated {
            for at in self.active_old() {
                self.size(at, 0);
            }
        } else if is_rolling(&self.before) {
            self.share(&mut active, total);
        }
        if is_paused {
            self.clean();
        }
        self.finish(false)
    }

    fn share(&mut self, active: &mut [usize], total: i32) {
        let allowed = if total > 0 { total + max_surge(&self.before) } else { 0 };
        let to_add = allowed - self.sum();
        active.sort_by(|a, b| {
            let (a, b) = (&self.sets[*a], &self.sets[*b]);
            let age = if to_add > 0 { by_age(b, a) } else { by_age(a, b) };
            replicas_of(b).cmp(&replicas_of(a)).then(age)
        });
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
        for at in active.iter() {
            let share = proportion(&self.sets[*at], &self.before, to_add, added);
            added += share;
            sizes.push(replicas_of(&self.sets[*at]) + share);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (at, size) in active.iter().zip(sizes) {
            self.size_anyway(*at, size);
        }
    }

    /// Up with the new, else down with the old, within the bounds.
    fn roll(mut self) -> Plan {
        self.make_new();
        let Some(new) = self.new else { return self.finish(true) };
        let (total, size) = (desired(&self.before), replicas_of(&self.sets[new]));
        let target = if size > total { total } else { new_size(&self.before, self.sum(), size) };
        if self.size(new, target) || self.shrink_old(new) {
            return self.finish(true);
        }
        self.clean_if_complete();
        self.finish(true)
    }

    /// Takes away old replicas: first those that are not available anyway.
    fn shrink_old(&mut self, new: usize) -> bool {
        let old = self.active_old();
        let least = desired(&self.before) - max_unavailable(&self.before);
        let pending = replicas_of(&self.sets[new]) - self.available(new);
        let limit = self.sum() - least - pending;
        if old.is_empty() || limit <= 0 {
            return false;
        }
        let mut taken = 0;
        for at in &old {
            let size = replicas_of(&self.sets[*at]);
            let take = (limit - taken).min(size - self.available(*at));
            if take > 0 {
                self.size(*at, size - take);
                taken += take;
            }
        }
        let available: i32 = (0..self.sets.len()).map(|at| self.available(at)).sum();
        let mut left = available - least;
        for at in old {
            let size = replicas_of(&self.sets[at]);
            let take = size.min(left);
            if take > 0 {
                self.size(at, size - take);
                left -= take;
                taken += take;
            }
        }
        taken > 0
    }

    /// Down with all the old, and only when their pods are gone up with the new.
    fn recreate(mut self, living_pods: &[String]) -> Plan {
        self.find_new();
        let mut shrunk = false;
        for at in self.active_old() {
            shrunk |= self.size(at, 0);
        }
        let new_uid = self.new.and_then(|new| self.sets[new].metadata.uid.clone());
        let old_run = self.old().any(|at| self.sets[at].status.as_ref().is_some_and(|status| status.replicas > 0))
            || living_pods.iter().any(|set| Some(set) != new_uid.as_ref());
        if shrunk || old_run {
            return self.finish(true);
        }
        self.make_new();
        if let Some(new) = self.new {
            let total = desired(&self.before);
            self.size(new, total);
        }
        self.clean_if_complete();
        self.finish(true)
    }

    fn clean_if_complete(&mut self) {
        if conditions::is_complete(&self.before, &self.before.status.clone().unwrap_or_default()) {
            self.clean();
        }
    }

    /// Deletes the oldest empty sets beyond the history's limit.
    fn clean(&mut self) {
        let limit = self.before.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let old = self.old().map(|at| &self.sets[at]);
        let mut old: Vec<_> = old.filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by(|a, b| by_revision(a, b));
        for set in old.into_iter().take(surplus) {
            let status = set.status.clone().unwrap_or_default();
            let is_seen = status.observed_generation >= set.metadata.generation;
            if status.replicas == 0 && replicas_of(set) == 0 && is_seen {
                self.steps.push(Step::Delete { name: name_of(set).to_owned() });
            }
        }
    }

    /// The steps for changed sets, then the status.
    fn finish(mut self, is_rollout: bool) -> Plan {
        for (set, original) in self.sets.iter().zip(&self.original) {
            if set != original {
                let (from, to) = (replicas_of(original), replicas_of(set));
                let event = (from != to).then(|| scaled_event(set, from, to));
                self.steps.push(Step::Update { set: Box::new(set.clone()), event });
            }
        }
        let sets = Sets { all: &self.sets, new: self.new.map(|new| &self.sets[new]) };
        let status = if is_rollout {
            conditions::rolled(&self.deployment, &sets, self.now)
        } else {
            conditions::counted(&self.deployment, &sets, self.now)
        };
        let next = is_rollout.then(|| conditions::next_check(&self.deployment, &status)).flatten();
        self.deployment.status = Some(status);
        if self.deployment != self.before {
            self.steps.push(Step::WriteStatus(Box::new(self.deployment)));
        }
        Plan { steps: self.steps, next }
    }
}

fn scaled_event(set: &ReplicaSet, from: i32, to: i32) -> Event {
    let direction = if from < to { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {} from {from} to {to}", name_of(set));
    Event::normal("ScalingReplicaSet", &message)
}

fn set_name(deployment: &str, hash: &str) -> String {
    let room = NAME_LIMIT_BYTES - hash.len() - 1;
    // Names are ASCII, so any byte is a place to cut.
    format!("{}-{hash}", deployment.get(..room).unwrap_or(deployment))
}
