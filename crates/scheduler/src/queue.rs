//! Pods that wait for a node: active ones in order of importance, those that
//! back off, those that wait for an event, and gated ones. Time is an argument;
//! which event helps whom is asked of the caller.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::types::api::core::v1::Pod;

use crate::plugins::{PluginSet, QueuePosition};
use crate::pod::{Class, PodKey};

/// First back-off after a rejection (upstream's `podInitialBackoffSeconds`).
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest back-off (upstream's `podMaxBackoffSeconds`).
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A rejected pod that no event helped is tried again after this time, as
/// upstream does: a hint that is missing costs minutes and not for ever.
const UNSCHEDULABLE_TIMEOUT: Duration = Duration::from_secs(300);

/// A waiting pod.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The object as last seen.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its class.
    pub class: Class,
    /// Rules that rejected it last.
    pub rejected_by: PluginSet,
    /// Tries so far.
    pub attempts: u32,
    /// When it was first tried or could have been.
    pub since: Duration,
    /// Tries that ended with a rejection.
    rejections: u32,
    /// Tries in a row that ended with an error.
    errors: u32,
    /// When it entered the queue or was last tried.
    stamp: Duration,
    /// Makes equal stamps differ, in order of arrival.
    sequence: u64,
    place: Place,
    /// What was said of it last, and when.
    said: Option<(String, Duration)>,
    /// What it was put in place with.
    position: QueuePosition,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Active,
    /// Until then; an error's back-off is never cut short.
    Backoff {
        until: Duration,
        after_error: bool,
    },
    Unschedulable,
    Gated,
    InFlight,
}

/// How many pods wait where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueCounts {
    /// Ready to be tried.
    pub active: usize,
    /// Backing off.
    pub backoff: usize,
    /// Waiting for an event.
    pub unschedulable: usize,
    /// Gated.
    pub gated: usize,
}

/// Why a try ended without a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// These rules said no.
    Rejected(PluginSet),
    /// Something broke; it is tried again after a back-off.
    Error,
}

type BackoffPosition = (Duration, QueuePosition);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Arc<str>, QueuedPod>,
    active: BTreeSet<(QueuePosition, Arc<str>)>,
    backoff: BTreeSet<(BackoffPosition, Arc<str>)>,
    error_backoff: BTreeSet<(BackoffPosition, Arc<str>)>,
    unschedulable: BTreeSet<(Duration, Arc<str>)>,
    gated: usize,
    sequence: u64,
}

impl Queue {
    /// Adds a pod, to be tried at once or, if gated, not at all.
    pub fn add(&mut self, pod: Arc<Pod>, class: Class, gated: bool, now: Duration) {
        let uid: Arc<str> = pod.metadata.uid.as_deref().unwrap_or_default().into();
        self.remove(&uid);
        self.sequence += 1;
        let queued = QueuedPod {
            key: PodKey::of(&pod),
            pod,
            uid: uid.clone(),
            class,
            rejected_by: PluginSet::default(),
            attempts: 0,
            since: now,
            rejections: 0,
            errors: 0,
            stamp: now,
            sequence: self.sequence,
            place: Place::InFlight,
            said: None,
            position: (Reverse(0), now, self.sequence),
        };
        self.pods.insert(uid.clone(), queued);
        self.put(&uid, if gated { Place::Gated } else { Place::Active });
    }

    /// The waiting pod with this uid.
    pub fn get(&self, uid: &str) -> Option<&QueuedPod> {
        self.pods.get(uid)
    }

    /// Takes a new state of a pod. Its place stays, except that a pod whose
    /// gates are gone becomes active.
    pub fn update(&mut self, uid: &str, pod: Arc<Pod>, class: Class, gated: bool) {
        let Some(place) = self.pods.get(uid).map(|queued| queued.place) else { return };
        self.take_out(uid);
        if let Some(queued) = self.pods.get_mut(uid) {
            queued.pod = pod;
            queued.class = class;
        }
        let place = match (place, gated) {
            (Place::InFlight, _) => Place::InFlight,
            (_, true) => Place::Gated,
            (Place::Gated, false) => Place::Active,
            (place, false) => place,
        };
        self.put(uid, place);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) -> Option<QueuedPod> {
        self.take_out(uid);
        self.pods.remove(uid)
    }

    /// The next pod to try: the first active one, else the one whose back-off
    /// ends first (nothing is gained by waiting while nobody else wants to be
    /// tried). It is in flight until [`Queue::fail`] or [`Queue::remove`].
    pub fn pop(&mut self, now: Duration) -> Option<QueuedPod> {
        self.end_backoffs(now);
        let uid = match self.active.first() {
            Some((_, uid)) => uid.clone(),
            None => self.backoff.first()?.1.clone(),
        };
        self.take_out(&uid);
        let queued = self.pods.get_mut(&uid)?;
        queued.place = Place::InFlight;
        queued.attempts += 1;
        Some(queued.clone())
    }

    /// True if [`Queue::pop`] would give a pod.
    pub fn is_ready(&self, now: Duration) -> bool {
        !self.active.is_empty()
            || !self.backoff.is_empty()
            || self.error_backoff.first().is_some_and(|((until, _), _)| *until <= now)
    }

    /// A try ended without a node.
    pub fn fail(&mut self, uid: &str, failure: Failure, now: Duration) {
        let Some(queued) = self.pods.get_mut(uid) else { return };
        queued.stamp = now;
        let place = match failure {
            Failure::Rejected(plugins) => {
                queued.rejections += 1;
                queued.errors = 0;
                queued.rejected_by = plugins;
                Place::Unschedulable
            }
            Failure::Error => {
                queued.errors += 1;
                queued.rejected_by = PluginSet::default();
                Place::Backoff { until: now + backoff(queued.errors), after_error: true }
            }
        };
        self.take_out(uid);
        self.put(uid, place);
    }

    /// True if something else was said of the pod last, or long ago: saying it
    /// again is worth a write.
    pub fn is_news(&mut self, uid: &str, message: &str, now: Duration) -> bool {
        let Some(queued) = self.pods.get_mut(uid) else { return true };
        let said = queued.said.as_ref();
        let known = said.is_some_and(|(said, at)| said == message && now < *at + UNSCHEDULABLE_TIMEOUT);
        if !known {
            queued.said = Some((message.to_owned(), now));
        }
        !known
    }

    /// Lets the pods that wait for an event try again for which `helps` is
    /// true, each after its back-off.
    pub fn wake(&mut self, now: Duration, mut helps: impl FnMut(&QueuedPod) -> bool) {
        let helped: Vec<Arc<str>> = self
            .unschedulable
            .iter()
            .filter(|(_, uid)| self.pods.get(uid).is_some_and(&mut helps))
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in helped {
            self.requeue(&uid, now);
        }
    }

    /// True if pods wait for an event.
    pub fn has_unschedulable(&self) -> bool {
        !self.unschedulable.is_empty()
    }

    /// Lets pods try again that have waited for an event too long.
    pub fn flush(&mut self, now: Duration) {
        while let Some((stamp, uid)) = self.unschedulable.first().cloned()
            && now >= stamp + UNSCHEDULABLE_TIMEOUT
        {
            self.requeue(&uid, now);
        }
    }

    /// When something becomes ready by time alone.
    pub fn deadline(&self) -> Option<Duration> {
        let error = self.error_backoff.first().map(|((until, _), _)| *until);
        let timeout = self.unschedulable.first().map(|(stamp, _)| *stamp + UNSCHEDULABLE_TIMEOUT);
        error.into_iter().chain(timeout).min()
    }

    /// Pods by place; those in flight are in none.
    pub fn counts(&self) -> QueueCounts {
        QueueCounts {
            active: self.active.len(),
            backoff: self.backoff.len() + self.error_backoff.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated,
        }
    }

    fn requeue(&mut self, uid: &str, now: Duration) {
        let Some(queued) = self.pods.get(uid) else { return };
        let until = queued.stamp + backoff(queued.rejections);
        let place = if until > now { Place::Backoff { until, after_error: false } } else { Place::Active };
        self.take_out(uid);
        self.put(uid, place);
    }

    fn end_backoffs(&mut self, now: Duration) {
        let ended = |set: &BTreeSet<(BackoffPosition, Arc<str>)>| {
            set.first().filter(|((until, _), _)| *until <= now).map(|(_, uid)| uid.clone())
        };
        while let Some(uid) = ended(&self.backoff).or_else(|| ended(&self.error_backoff)) {
            self.take_out(&uid);
            self.put(&uid, Place::Active);
        }
    }

    fn take_out(&mut self, uid: &str) {
        let Some(queued) = self.pods.get_mut(uid) else { return };
        let place = std::mem::replace(&mut queued.place, Place::InFlight);
        let (uid, position) = (queued.uid.clone(), queued.position);
        match place {
            Place::Active => {
                self.active.remove(&(position, uid));
            }
            Place::Backoff { until, after_error: false } => {
                self.backoff.remove(&((until, position), uid));
            }
            Place::Backoff { until, after_error: true } => {
                self.error_backoff.remove(&((until, position), uid));
            }
            Place::Unschedulable => {
                self.unschedulable.remove(&(position.1, uid));
            }
            Place::Gated => self.gated -= 1,
            Place::InFlight => {}
        }
    }

    fn put(&mut self, uid: &str, place: Place) {
        let Some(queued) = self.pods.get_mut(uid) else { return };
        queued.place = place;
        queued.position = (Reverse(queued.class.priority), queued.stamp, queued.sequence);
        let (uid, position) = (queued.uid.clone(), queued.position);
        match place {
            Place::Active => {
                self.active.insert((position, uid));
            }
            Place::Backoff { until, after_error: false } => {
                self.backoff.insert(((until, position), uid));
            }
            Place::Backoff { until, after_error: true } => {
                self.error_backoff.insert(((until, position), uid));
            }
            Place::Unschedulable => {
                self.unschedulable.insert((position.1, uid));
            }
            Place::Gated => self.gated += 1,
            Place::InFlight => {}
        }
    }
}

/// Doubles with each time, from the first to the longest.
fn backoff(count: u32) -> Duration {
    match count {
        0 => Duration::ZERO,
        count => FIRST_BACKOFF.saturating_mul(1_u32.checked_shl(count - 1).unwrap_or(u32::MAX)).min(MAX_BACKOFF),
    }
}

#[cfg(test)]
mod tests;
