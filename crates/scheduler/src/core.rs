//! The scheduler without its surroundings: takes what happened, says what to
//! do. No clock, no network, no threads; the run loop feeds it and carries out
//! its steps.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::types::api::core::v1::{Node, Pod};

use crate::evaluate::{Candidate, Diagnosis, Evaluator};
use crate::event::{Event, EventPod};
use crate::metrics::Counters;
use crate::node::NodeFacts;
use crate::nominations::{Nominated, Nominations};
use crate::objects::{Objects, StorageChange, VolumePlan};
use crate::plugin::{View, Waiting};
use crate::plugins::{self, PluginSet, Preemption, Registry};
use crate::pod::{Class, Classes, PodKey};
use crate::queue::{Failure, Queue, QueueCounts, QueuedPod};
use crate::resources::Usage;
use crate::snapshot::{PodFacts, PodRow, Snapshot};

/// Message of a pod while there is no node at all.
const NO_NODES: &str = "no nodes available to schedule pods";
/// Time for a pod's volumes to be bound (upstream's `bindTimeoutSeconds`).
const VOLUMES_TIMEOUT: Duration = Duration::from_secs(600);

/// What the scheduler wants done.
#[derive(Debug)]
pub enum Step {
    /// Bind a pod. Report the outcome by [`Core::bound`].
    Bind {
        /// The pod.
        pod: Arc<Pod>,
        /// Its node.
        node: Arc<str>,
    },
    /// Tell why a pod has no node.
    Report(Report),
    /// Make room. Report the end by [`Core::preempted`].
    Preempt {
        /// The pod's report, to be sent first.
        report: Report,
        /// Pods to delete with their uids, the last one last.
        victims: Vec<(PodKey, Arc<str>)>,
        /// Less important pods that lose their nomination for that node.
        outranked: Vec<PodKey>,
        /// The node.
        node: Arc<str>,
    },
    /// Bind or provision a pod's volumes. Report the outcome by
    /// [`Core::volumes_requested`]; the binding follows when they are there.
    PrepareVolumes {
        /// The pod.
        pod: Arc<Pod>,
        /// Its node.
        node: Arc<str>,
        /// What to do.
        plan: VolumePlan,
    },
    /// A pod that is being deleted was dropped from the queue.
    Skipped {
        /// The pod.
        pod: Arc<Pod>,
    },
}

/// Why a pod has no node, for its condition and an event.
#[derive(Debug)]
pub struct Report {
    /// The pod.
    pub pod: Arc<Pod>,
    /// `Unschedulable` or `SchedulerError`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What becomes of `status.nominatedNodeName`; none: it stays.
    pub nomination: Option<Option<Arc<str>>>,
}

/// Settings of the decisions.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Starts the sequence by which ties are broken.
    pub seed: u64,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".into(), seed: 0 }
    }
}

/// State and rules. Instants are times since any fixed moment.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    classes: Classes,
    snapshot: Snapshot,
    objects: Objects,
    nominations: Nominations,
    evaluator: Evaluator,
    queue: Queue,
    /// Nodes of pods that are being bound.
    assumed: HashMap<Arc<str>, Arc<str>>,
    /// Pods whose victims are being deleted; true if an event that helps came
    /// meanwhile.
    preempting: HashMap<Arc<str>, bool>,
    /// Pods whose volumes are being bound.
    preparing: HashMap<Arc<str>, Preparing>,
    /// Steps that time or an event made due.
    due: VecDeque<Step>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Preparing {
    pod: Arc<Pod>,
    node: Arc<str>,
    plan: VolumePlan,
    /// The requests are made, what is missing is others' work.
    requested: bool,
    /// The claims were seen with their node; if they lose it, provisioning failed.
    node_seen: bool,
    deadline: Duration,
}

impl Core {
    /// An empty cluster with upstream's default rules.
    pub fn new(config: CoreConfig) -> Self {
        let evaluator = Evaluator::new(Arc::new(Registry::default()), config.seed);
        Self {
            config,
            classes: Classes::default(),
            snapshot: Snapshot::default(),
            objects: Objects::default(),
            nominations: Nominations::default(),
            evaluator,
            queue: Queue::default(),
            assumed: HashMap::new(),
            preempting: HashMap::new(),
            preparing: HashMap::new(),
            due: VecDeque::new(),
            counters: Arc::new(Counters::default()),
        }
    }

    /// Nodes and pods on them.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Counters, shared.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Pods that wait.
    pub fn queue_counts(&self) -> QueueCounts {
        self.queue.counts()
    }

    /// Other objects. What a change of storage is said to be must be passed to
    /// [`Core::storage_changed`].
    pub fn objects_mut(&mut self) -> &mut Objects {
        &mut self.objects
    }

    /// An object that volumes depend on came, changed or went.
    pub fn storage_changed(&mut self, change: StorageChange, now: Duration) {
        if let StorageChange::Claim { key, .. } = &change {
            let concerned = |preparing: &Preparing| preparing.plan.claims().any(|claim| claim.key == *key);
            let uids: Vec<Arc<str>> = self
                .preparing
                .iter()
                .filter(|(_, preparing)| concerned(preparing))
                .map(|(uid, _)| uid.clone())
                .collect();
            for uid in uids {
                self.check_volumes(&uid, now);
            }
        }
        self.wake(&Event::Storage(change), now);
    }

    /// A node came or changed.
    pub fn apply_node(&mut self, node: &Node, now: Duration) {
        let facts = Arc::new(NodeFacts::new(node));
        let old = self.snapshot.node(&facts.name).and_then(|id| self.snapshot.facts(id).cloned());
        if old.as_ref() == Some(&facts) {
            return;
        }
        self.snapshot.apply_node(facts.clone());
        let event = match old {
            None => Event::NodeAdded(facts),
            Some(old) => Event::NodeUpdated { old, new: facts },
        };
        self.wake(&event, now);
    }

    /// A node went.
    pub fn delete_node(&mut self, name: &str, now: Duration) {
        let Some(facts) = self.snapshot.node(name).and_then(|id| self.snapshot.facts(id).cloned()) else { return };
        self.snapshot.remove_node(name);
        self.wake(&Event::NodeDeleted(facts), now);
    }

    /// A pod came or changed.
    pub fn apply_pod(&mut self, pod: Arc<Pod>, now: Duration) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            self.delete_pod(&uid_of(&pod), now);
            return;
        }
        let spec = pod.spec.as_ref();
        match spec.and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty()) {
            Some(node) => self.apply_assigned(&pod, &node, now),
            None => {
                let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
                if scheduler == self.config.scheduler_name {
                    self.apply_waiting(pod, now);
                }
            }
        }
    }

    fn apply_assigned(&mut self, pod: &Pod, node: &str, now: Duration) {
        let uid = uid_of(pod);
        self.queue.remove(&uid);
        self.nominations.remove(&uid);
        self.preempting.remove(&uid);
        let was_assumed = self.assumed.remove(&uid).is_some();
        let class = self.classes.classify(pod);
        let usage = Usage::of_assigned(pod);
        let usage = if usage == class.shape.0.usage { Arc::new(class.shape.0.usage.clone()) } else { Arc::new(usage) };
        let old = self.snapshot.pod_by_uid(&uid).filter(|_| !was_assumed).map(event_pod);
        let new = EventPod { uid: uid.clone(), class: class.clone(), usage: usage.clone(), has_place: true };
        self.snapshot.apply_pod(facts_of(pod, uid, class, usage), node);
        match old {
            None => self.wake(&Event::PodAdded(new), now),
            Some(old) if old.class.id != new.class.id || old.usage != new.usage => {
                self.wake(&Event::PodUpdated { old, new }, now)
            }
            Some(_) => {}
        }
    }

    fn apply_waiting(&mut self, pod: Arc<Pod>, now: Duration) {
        let uid = uid_of(&pod);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        if self.assumed.contains_key(&uid) {
            if terminating {
                self.forget(&uid, now);
                self.queue.remove(&uid);
            }
            return;
        }
        let class = self.classes.classify(&pod);
        let gated = plugins::is_gated(&pod);
        let old = self.queue.get(&uid).cloned();
        self.follow_nomination(&pod, &uid, &class, old.as_ref(), now);
        let Some(old) = old else {
            if !terminating {
                self.queue.add(pod, class, gated, now);
            }
            return;
        };
        let was_gated = plugins::is_gated(&old.pod);
        self.queue.update(&uid, pod, class.clone(), gated);
        if old.class.id != class.id || was_gated != gated {
            let has_place = self.nominations.node_of(&uid).is_some();
            let event_pod = |class: Class| EventPod {
                uid: uid.clone(),
                usage: Arc::new(class.shape.0.usage.clone()),
                class,
                has_place,
            };
            let event = Event::PodUpdated { old: event_pod(old.class.clone()), new: event_pod(class) };
            self.wake(&event, now);
        }
    }

    /// Nominations are known to us before they are in the object: only a
    /// change of the object overrides what we know.
    fn follow_nomination(&mut self, pod: &Pod, uid: &Arc<str>, class: &Class, old: Option<&QueuedPod>, now: Duration) {
        let stated = nominated_node(pod);
        match (stated, old.and_then(|old| nominated_node(&old.pod))) {
            (Some(node), _) => {
                let nominated = Nominated { key: PodKey::of(pod), class: class.clone(), node: node.into() };
                self.nominations.set(uid.clone(), nominated);
            }
            (None, Some(_)) => self.give_up_nomination(uid, now),
            (None, None) => {}
        }
    }

    fn give_up_nomination(&mut self, uid: &str, now: Duration) {
        if let Some(nominated) = self.nominations.remove(uid) {
            let usage = Arc::new(nominated.class.shape.0.usage.clone());
            let priority = nominated.class.priority;
            let event = Event::PodDeleted(EventPod { uid: uid.into(), class: nominated.class, usage, has_place: true });
            self.wake_if(&event, now, |queued| queued.class.priority <= priority);
        }
    }

    /// The pod with this uid went, or ended.
    pub fn delete_pod(&mut self, uid: &str, now: Duration) {
        self.queue.remove(uid);
        self.preempting.remove(uid);
        self.assumed.remove(uid);
        self.stop_preparing(uid);
        if let Some(row) = self.snapshot.remove_pod(uid) {
            self.nominations.remove(uid);
            self.wake(&Event::PodDeleted(event_pod(&row)), now);
        } else {
            self.give_up_nomination(uid, now);
        }
    }

    /// The next thing to do; none until something happens or the deadline comes.
    pub fn next(&mut self, now: Duration) -> Option<Step> {
        self.queue.flush(now);
        self.expire_volumes(now);
        if let Some(step) = self.due.pop_front() {
            return Some(step);
        }
        loop {
            let queued = self.queue.pop(now)?;
            if self.assumed.contains_key(&queued.uid) {
                continue;
            }
            if queued.class.terminating {
                self.queue.remove(&queued.uid);
                return Some(Step::Skipped { pod: queued.pod });
            }
            match self.try_pod(queued, now) {
                Step::Report(report) if !self.is_worth_sending(&report, now) => {}
                step => return Some(step),
            }
        }
    }

    /// A pod that is tried again and again while others come and go is reported
    /// once: not for each try.
    fn is_worth_sending(&mut self, report: &Report, now: Duration) -> bool {
        let stated = nominated_node(&report.pod);
        let renominates = report.nomination.as_ref().is_some_and(|node| node.as_deref() != stated);
        self.queue.is_news(&uid_of(&report.pod), &report.message, now) || renominates
    }

    /// When [`Core::next`] has something by time alone.
    pub fn deadline(&self) -> Option<Duration> {
        let volumes = self.preparing.values().map(|preparing| preparing.deadline);
        volumes.chain(self.queue.deadline()).min()
    }

    /// True if [`Core::next`] would give something.
    pub fn is_ready(&self, now: Duration) -> bool {
        !self.due.is_empty() || self.queue.is_ready(now)
    }

    fn try_pod(&mut self, queued: QueuedPod, now: Duration) -> Step {
        if self.snapshot.nodes().is_empty() {
            return self.reject(queued, PluginSet::default(), NO_NODES.to_owned(), Some(None), now);
        }
        let candidate = Candidate {
            uid: queued.uid.clone(),
            class: queued.class.clone(),
            nominated: self.nominations.node_of(&queued.uid).cloned(),
        };
        match self.evaluator.decide(&mut self.snapshot, &self.objects, &self.nominations, &candidate) {
            Ok(id) => {
                let node = self.snapshot.columns.name[id.index()].clone();
                let view = View { snapshot: &self.snapshot, objects: &self.objects };
                let plan = plugins::plan_volumes(view, &queued.class, id);
                let usage = Arc::new(queued.class.shape.0.usage.clone());
                self.snapshot.apply_pod(facts_of(&queued.pod, queued.uid.clone(), queued.class.clone(), usage), &node);
                self.nominations.remove(&queued.uid);
                self.assumed.insert(queued.uid.clone(), node.clone());
                self.start(queued, node, plan, now)
            }
            Err(diagnosis) => self.after_rejection(queued, &candidate, &diagnosis, now),
        }
    }

    fn after_rejection(
        &mut self,
        queued: QueuedPod,
        candidate: &Candidate,
        diagnosis: &Diagnosis,
        now: Duration,
    ) -> Step {
        let message = diagnosis.message();
        if diagnosis.aborted {
            // Upstream's rule for resource claims has no state then and says so.
            return self.reject(queued, diagnosis.plugins, format!("{message} not found"), None, now);
        }
        Counters::add(&self.counters.preemption_attempts);
        let preemption = plugins::preempt(
            &mut self.evaluator,
            &mut self.snapshot,
            &self.objects,
            &self.nominations,
            candidate,
            diagnosis,
        );
        let explain = |what: &str| format!("{message} {}, preemption: {what}", plugins::NOTHING_TO_DEALLOCATE);
        match preemption {
            Preemption::NotEligible(why) => self.reject(queued, diagnosis.plugins, explain(why), None, now),
            Preemption::Useless(why) => {
                self.nominations.remove(&queued.uid);
                self.reject(queued, diagnosis.plugins, explain(&why), Some(None), now)
            }
            Preemption::Chosen(victims) => {
                let node = self.snapshot.columns.name[victims.node.index()].clone();
                Counters::add(&self.counters.preemptions);
                self.counters
                    .preemption_victims
                    .fetch_add(victims.pods.len() as u64, std::sync::atomic::Ordering::Relaxed);
                self.make_room(queued, diagnosis.plugins, message, node, &victims.pods, now)
            }
        }
    }

    fn make_room(
        &mut self,
        queued: QueuedPod,
        by: PluginSet,
        message: String,
        node: Arc<str>,
        pods: &[PodRow],
        now: Duration,
    ) -> Step {
        let priority = queued.class.priority;
        let uid = queued.uid.clone();
        let lower = self.nominations.on_node(&node).filter(|(_, nominated)| nominated.class.priority < priority);
        let outranked: Vec<(Arc<str>, PodKey)> =
            lower.map(|(uid, nominated)| (uid.clone(), nominated.key.clone())).collect();
        for (uid, _) in &outranked {
            self.nominations.remove(uid);
        }
        let nominated = Nominated { key: queued.key.clone(), class: queued.class.clone(), node: node.clone() };
        self.nominations.set(uid.clone(), nominated);
        // The last one is deleted last; the least important tells best that
        // room is there.
        let staying = pods.iter().filter(|pod| !pod.class.terminating);
        let victims: Vec<(PodKey, Arc<str>)> = staying.map(|pod| (pod.key.clone(), pod.uid.clone())).collect();
        let Step::Report(report) = self.reject(queued, by, message, Some(Some(node.clone())), now) else {
            unreachable!("a rejection without preemption is a report")
        };
        if victims.is_empty() {
            return Step::Report(report);
        }
        self.preempting.insert(uid, false);
        Step::Preempt { report, victims, outranked: outranked.into_iter().map(|(_, key)| key).collect(), node }
    }

    fn reject(
        &mut self,
        queued: QueuedPod,
        by: PluginSet,
        message: String,
        nomination: Option<Option<Arc<str>>>,
        now: Duration,
    ) -> Step {
        Counters::add(&self.counters.unschedulable_attempts);
        self.queue.fail(&queued.uid, Failure::Rejected(by), now);
        Step::Report(Report { pod: queued.pod, reason: "Unschedulable", message, nomination })
    }

    fn start(&mut self, queued: QueuedPod, node: Arc<str>, plan: VolumePlan, now: Duration) -> Step {
        if plan.is_empty() {
            return Step::Bind { pod: queued.pod, node };
        }
        self.objects.volumes.assume(&plan, &node);
        let preparing = Preparing {
            pod: queued.pod.clone(),
            node: node.clone(),
            plan: plan.clone(),
            requested: false,
            node_seen: false,
            deadline: now + VOLUMES_TIMEOUT,
        };
        self.preparing.insert(queued.uid, preparing);
        Step::PrepareVolumes { pod: queued.pod, node, plan }
    }

    /// The volumes of a pod were asked for, or could not be for this reason.
    /// The answer is a report to send.
    pub fn volumes_requested(&mut self, uid: &str, outcome: Result<(), String>, now: Duration) -> Option<Report> {
        match outcome {
            Err(error) => self.break_off(uid, format!("running PreBind plugin \"VolumeBinding\": {error}"), now),
            Ok(()) => {
                if let Some(preparing) = self.preparing.get_mut(uid) {
                    preparing.requested = true;
                }
                self.check_volumes(uid, now);
                None
            }
        }
    }

    /// Binds a pod whose volumes are there; breaks off if they never will be.
    fn check_volumes(&mut self, uid: &str, now: Duration) {
        let volumes = &self.objects.volumes;
        let Some(preparing) = self.preparing.get_mut(uid).filter(|preparing| preparing.requested) else { return };
        let current = |claim: &crate::objects::Claim| volumes.claim(&claim.key.0, &claim.key.1);
        if preparing.plan.claims().all(|claim| current(claim).is_some_and(|claim| claim.bound)) {
            let step = Step::Bind { pod: preparing.pod.clone(), node: preparing.node.clone() };
            self.stop_preparing(uid);
            self.due.push_back(step);
            return;
        }
        let has_node = |claim: &Arc<crate::objects::Claim>| {
            current(claim).is_some_and(|claim| claim.selected_node.as_deref() == Some(&*preparing.node))
        };
        let lost = preparing.plan.provisions.iter().find(|claim| !has_node(claim)).map(|claim| claim.key.1.clone());
        match lost {
            None => preparing.node_seen = true,
            Some(name) if preparing.node_seen => {
                let error = format!(
                    "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"{name}\""
                );
                let report = self.break_off(uid, error, now);
                self.due.extend(report.map(Step::Report));
            }
            Some(_) => {}
        }
    }

    fn expire_volumes(&mut self, now: Duration) {
        let expired = self.preparing.iter().filter(|(_, preparing)| preparing.deadline <= now);
        let expired: Vec<Arc<str>> = expired.map(|(uid, _)| uid.clone()).collect();
        for uid in expired {
            let error = "running PreBind plugin \"VolumeBinding\": binding volumes: context deadline exceeded";
            let report = self.break_off(&uid, error.to_owned(), now);
            self.due.extend(report.map(Step::Report));
        }
    }

    fn stop_preparing(&mut self, uid: &str) {
        if let Some(preparing) = self.preparing.remove(uid) {
            self.objects.volumes.revert(&preparing.plan);
        }
    }

    /// A binding succeeded, or failed for this reason. The answer is a report
    /// to send.
    pub fn bound(&mut self, uid: &str, outcome: Result<(), String>, now: Duration) -> Option<Report> {
        match outcome {
            Ok(()) => {
                Counters::add(&self.counters.scheduled_attempts);
                None
            }
            Err(error) => self.break_off(uid, format!("running Bind plugin \"DefaultBinder\": {error}"), now),
        }
    }

    /// Gives a pod's place up and tries it again after a back-off.
    fn break_off(&mut self, uid: &str, message: String, now: Duration) -> Option<Report> {
        Counters::add(&self.counters.error_attempts);
        self.forget(uid, now);
        let pod = self.queue.get(uid)?.pod.clone();
        self.queue.fail(uid, Failure::Error, now);
        Some(Report { pod, reason: "SchedulerError", message, nomination: Some(None) })
    }

    /// All victims of a pod are being deleted, or one could not be.
    pub fn preempted(&mut self, uid: &str, succeeded: bool, now: Duration) {
        if self.preempting.remove(uid).is_some_and(|helped| helped || !succeeded) {
            self.queue.wake(now, |queued| &*queued.uid == uid);
        }
    }

    fn forget(&mut self, uid: &str, now: Duration) {
        self.stop_preparing(uid);
        if self.assumed.remove(uid).is_some()
            && let Some(row) = self.snapshot.remove_pod(uid)
        {
            self.wake_if(&Event::PodDeleted(event_pod(&row)), now, |queued| &*queued.uid != uid);
        }
    }

    fn wake(&mut self, event: &Event, now: Duration) {
        self.wake_if(event, now, |_| true);
    }

    fn wake_if(&mut self, event: &Event, now: Duration, applies: impl Fn(&QueuedPod) -> bool) {
        if !self.queue.has_unschedulable() {
            return;
        }
        let view = View { snapshot: &self.snapshot, objects: &self.objects };
        let plugins = &self.evaluator.registry().plugins;
        let preempting = &mut self.preempting;
        self.queue.wake(now, |queued| {
            let waiting = Waiting { uid: &queued.uid, class: &queued.class };
            let helps = applies(queued)
                && if queued.rejected_by.is_empty() {
                    matches!(event, Event::NodeAdded(_))
                } else {
                    let mut rules = plugins.iter().enumerate().filter(|(index, _)| queued.rejected_by.contains(*index));
                    rules.any(|(_, rule)| rule.plugin.hint(view, &waiting, event))
                };
            match preempting.get_mut(&queued.uid) {
                Some(helped) => {
                    *helped |= helps;
                    false
                }
                None => helps,
            }
        });
    }
}

fn uid_of(pod: &Pod) -> Arc<str> {
    pod.metadata.uid.as_deref().unwrap_or_default().into()
}

fn nominated_node(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    status.nominated_node_name.as_deref().filter(|name| !name.is_empty())
}

fn event_pod(row: &PodRow) -> EventPod {
    EventPod { uid: row.uid.clone(), class: row.class.clone(), usage: row.usage.clone(), has_place: true }
}

fn facts_of(pod: &Pod, uid: Arc<str>, class: Class, usage: Arc<Usage>) -> PodFacts {
    let status = pod.status.as_ref();
    let conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
    let disrupted = conditions.into_iter().find(|condition| condition.type_ == "DisruptionTarget");
    PodFacts {
        key: PodKey::of(pod),
        uid,
        usage,
        start: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0.as_microsecond()),
        preempted: class.terminating
            && disrupted.is_some_and(|condition| {
                condition.status == "True" && condition.reason.as_deref() == Some("PreemptionByScheduler")
            }),
        class,
    }
}

#[cfg(test)]
mod tests;
