//! The decision: from an autoscaler, its target's scale, pods, samples, history
//! and clock to replicas, conditions, metric statuses and events. It reads
//! nothing and writes nothing; given the same it says the same.

use std::sync::Arc;
use std::time::Duration;

use api::selector::Selector;
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::behavior::{Behavior, tolerances};
use super::conditions::{ABLE_TO_SCALE, Conditions, SCALED_TO_ZERO, SCALING_ACTIVE, SCALING_LIMITED, state};
use super::grouping::{Timing, phase, ready_condition};
use super::history::History;
use super::metric::{Failure, Scene, evaluate};
use super::normalize::{self, Limits};
use super::samples::Answer;

/// The loop's own settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Of metrics without one of their own.
    pub(crate) tolerance: f64,
    /// Scale-down window of autoscalers without one of their own.
    pub(crate) downscale_stabilization: Duration,
    /// Of starting pods.
    pub(crate) timing: Timing,
}

/// An instant, on two clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment {
    /// For what the API says.
    pub(crate) wall: Timestamp,
    /// For windows; may not be set.
    pub(crate) steady: Duration,
}

/// The target's scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scale {
    /// Replicas that it shall have.
    pub(crate) replicas: i32,
    /// Replicas that it has.
    pub(crate) status_replicas: i32,
    /// Selects its pods.
    pub(crate) selector: String,
}

/// What is known when it is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed<'a> {
    /// The autoscaler, as read.
    pub(crate) autoscaler: &'a HorizontalPodAutoscaler,
    /// Its target.
    pub(crate) scale: &'a Scale,
    /// Pods that the scale's selector selects.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Autoscalers that control these pods, this one among them.
    pub(crate) controlling: &'a [ObjectKey],
    /// One a metric of the specification.
    pub(crate) answers: &'a [Answer],
}

/// Something to record about the autoscaler.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// A warning, or as planned.
    pub(crate) warning: bool,
    /// For machines.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Event {
    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

/// What the number of replicas follows from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Course {
    /// Nobody may change it: somebody made it zero.
    Disabled,
    /// The limits: it is outside of them.
    Bound(i32, &'static str),
    /// The metrics.
    Metrics,
}

const BELOW_MIN: &str = "Current number of replicas below Spec.MinReplicas";
const ABOVE_MAX: &str = "Current number of replicas above Spec.MaxReplicas";

fn min_replicas(spec: &HorizontalPodAutoscalerSpec) -> i32 {
    spec.min_replicas.unwrap_or(1)
}

fn scaled_to_zero(autoscaler: &HorizontalPodAutoscaler) -> Option<bool> {
    state(autoscaler.status.as_ref()?.conditions.as_deref(), SCALED_TO_ZERO)
}

/// True if a metric may ask for pods where there are none.
fn sees_from_zero(spec: &HorizontalPodAutoscalerSpec) -> bool {
    spec.metrics.iter().flatten().any(|metric| matches!(metric.type_.as_str(), "Object" | "External"))
}

/// What is to be followed; metrics need to be asked for only if they are.
pub(crate) fn course(autoscaler: &HorizontalPodAutoscaler, replicas: i32) -> Course {
    let spec = &autoscaler.spec;
    let min = min_replicas(spec);
    if replicas > spec.max_replicas {
        return Course::Bound(spec.max_replicas, ABOVE_MAX);
    }
    if replicas > 0 {
        return if replicas < min { Course::Bound(min, BELOW_MIN) } else { Course::Metrics };
    }
    // Zero is left only by whoever brought it about.
    if scaled_to_zero(autoscaler) != Some(true) {
        return Course::Disabled;
    }
    if sees_from_zero(spec) {
        return Course::Metrics;
    }
    // Metrics of pods say nothing without pods: somebody else wakes the first,
    // unless zero is no longer allowed.
    if min > 0 { Course::Bound(min, BELOW_MIN) } else { Course::Disabled }
}

/// A number of replicas to write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rescale {
    /// How many there were.
    pub(crate) from: i32,
    /// How many there shall be.
    pub(crate) to: i32,
    /// Why.
    pub(crate) reason: String,
}

/// What was decided; what is reported depends on whether the new number could
/// be written.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// To be written first; then call [`Decision::rescaled`] or
    /// [`Decision::refused`], without it [`Decision::kept`].
    pub(crate) rescale: Option<Rescale>,
    conditions: Conditions,
    events: Vec<Event>,
    old: HorizontalPodAutoscalerStatus,
    current: i32,
    metrics: Option<Vec<MetricStatus>>,
    /// Minimum 0 now or before: the condition is kept that says who made it zero.
    knows_zero: bool,
    may_be_zero: bool,
    unsettled: bool,
    failed: bool,
    now: Timestamp,
}

/// What is to be written about a look.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    /// The whole new status.
    pub(crate) status: HorizontalPodAutoscalerStatus,
    /// To be recorded, in this order.
    pub(crate) events: Vec<Event>,
    /// No number could be told or written.
    pub(crate) failed: bool,
    /// Pods that were not ready or told nothing may soon change the number.
    pub(crate) unsettled: bool,
}

/// A look at an autoscaler whose target's scale could not be read.
pub(crate) fn without_scale(autoscaler: &HorizontalPodAutoscaler, words: &str, now: Moment) -> Report {
    let old = autoscaler.status.clone().unwrap_or_default();
    let mut conditions = Conditions::new(old.conditions.clone(), now.wall);
    let message = format!("the HPA controller was unable to get the target's current scale: {words}");
    conditions.set(ABLE_TO_SCALE, false, "FailedGetScale", message);
    let status = HorizontalPodAutoscalerStatus { conditions: conditions.into_list(), ..old };
    Report { status, events: vec![Event::warning("FailedGetScale", words)], failed: true, unsettled: false }
}

/// See the module. Notes in `history` what was recommended.
pub(crate) fn decide(observed: &Observed<'_>, history: &mut History, settings: &Settings, now: Moment) -> Decision {
    let autoscaler = observed.autoscaler;
    let current = observed.scale.replicas;
    history.start(current, now.steady);
    let mut decision = Decision::new(autoscaler, current, now.wall);
    let course = course(autoscaler, current);
    let to = match course {
        Course::Disabled => {
            let message = "scaling is disabled since the replica count of the target is zero";
            decision.conditions.set(SCALING_ACTIVE, false, "ScalingDisabled", message);
            return decision;
        }
        Course::Bound(to, reason) => Some((to, reason.to_owned())),
        Course::Metrics => decision.follow_metrics(observed, history, settings, now),
    };
    decision.rescale = to.filter(|(to, _)| *to != current).map(|(to, reason)| Rescale { from: current, to, reason });
    decision
}

/// What the metrics together ask for.
struct Asked {
    replicas: i32,
    name: String,
}

impl Decision {
    fn new(autoscaler: &HorizontalPodAutoscaler, current: i32, now: Timestamp) -> Self {
        let old = autoscaler.status.clone().unwrap_or_default();
        let mut conditions = Conditions::new(old.conditions.clone(), now);
        conditions.set(
            ABLE_TO_SCALE,
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let zero = scaled_to_zero(autoscaler);
        if zero == Some(true) && current > 0 {
            // Somebody else woke it; a later zero will be theirs.
            not_scaled_to_zero(&mut conditions);
        }
        let may_be_zero = min_replicas(&autoscaler.spec) == 0;
        Self {
            rescale: None,
            conditions,
            events: Vec::new(),
            old,
            current,
            metrics: None,
            knows_zero: may_be_zero || zero.is_some(),
            may_be_zero,
            unsettled: false,
            failed: false,
            now,
        }
    }

    /// The number that metrics, history and limits give, and why; none if
    /// metrics give no number.
    fn follow_metrics(
        &mut self,
        observed: &Observed<'_>,
        history: &mut History,
        settings: &Settings,
        now: Moment,
    ) -> Option<(i32, String)> {
        let spec = &observed.autoscaler.spec;
        self.unsettled = observed.pods.iter().any(|pod| starting(pod));
        let asked = self.ask_metrics(observed, spec, settings, now)?;
        let limits = Limits { current: self.current, min: min_replicas(spec), max: spec.max_replicas };
        let mut reason = if asked.replicas > self.current {
            format!("{} above target", asked.name)
        } else if asked.replicas < self.current {
            "All metrics below target".to_owned()
        } else {
            String::new()
        };
        let window = settings.downscale_stabilization;
        let normalized = match &spec.behavior {
            None => normalize::plain(history, limits, asked.replicas, window, now.steady),
            Some(behavior) => {
                let behavior = Behavior::read(behavior, window);
                normalize::with_behavior(history, limits, asked.replicas, &behavior, now.steady)
            }
        };
        let ((able, able_message), (limit, limit_message)) = (normalized.able, normalized.limit);
        self.conditions.set(ABLE_TO_SCALE, true, able, able_message);
        self.conditions.set(SCALING_LIMITED, normalized.limited, limit, limit_message);
        let mut to = normalized.replicas;
        if self.current == 0 && asked.replicas < limits.min {
            to = to.max(limits.min);
            if reason.is_empty() {
                reason = BELOW_MIN.to_owned();
            }
        }
        Some((to, reason))
    }

    /// The greatest number that a metric asks for. None, with everything said,
    /// if no metric gives one, or if one of those that do not might have asked
    /// for more than a scale down.
    fn ask_metrics(
        &mut self,
        observed: &Observed<'_>,
        spec: &HorizontalPodAutoscalerSpec,
        settings: &Settings,
        now: Moment,
    ) -> Option<Asked> {
        if let Err(words) = self.check_selector(observed) {
            self.fail(words);
            return None;
        }
        let scene = Scene {
            namespace: observed.autoscaler.metadata.namespace.as_deref().unwrap_or_default(),
            replicas: observed.scale.replicas,
            status_replicas: observed.scale.status_replicas,
            pods: observed.pods,
            tolerances: tolerances(spec.behavior.as_ref(), settings.tolerance),
            timing: settings.timing,
            now: now.wall,
        };
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let (mut asked, mut statuses, mut failures) = (None::<Asked>, Vec::new(), Vec::<Failure>::new());
        for (index, metric) in metrics.iter().enumerate() {
            let answer = observed.answers.get(index).unwrap_or(&Answer::Unasked);
            match evaluate(metric, answer, &scene) {
                Ok(proposal) => {
                    if asked.as_ref().is_none_or(|asked| asked.replicas == 0 || proposal.replicas > asked.replicas) {
                        asked = Some(Asked { replicas: proposal.replicas, name: proposal.name });
                    }
                    statuses.push(proposal.status);
                }
                Err(failure) => {
                    self.events.push(Event::warning(failure.reason, failure.cause.to_string()));
                    statuses.push(MetricStatus::default());
                    failures.push(failure);
                }
            }
        }
        self.metrics = (!statuses.is_empty()).then_some(statuses);
        let asked = asked.filter(|asked| failures.is_empty() || asked.replicas >= observed.scale.replicas);
        let Some(asked) = asked else {
            let total = metrics.len();
            if let Some(first) = failures.first() {
                let message = format!("the HPA was unable to compute the replica count: {}", first.cause);
                self.conditions.set(SCALING_ACTIVE, false, first.reason, message);
                let Failure { context, cause, .. } = first;
                let invalid = failures.len();
                self.fail(format!(
                    "invalid metrics ({invalid} invalid out of {total}), first error is: {context}{cause}"
                ));
            }
            return None;
        };
        let message = format!("the HPA was able to successfully calculate a replica count from {}", asked.name);
        self.conditions.set(SCALING_ACTIVE, true, "ValidMetricFound", message);
        Some(asked)
    }

    fn fail(&mut self, words: String) {
        self.failed = true;
        self.events.push(Event::warning("FailedComputeMetricsReplicas", words));
    }

    /// The selector must select pods that no other autoscaler controls.
    fn check_selector(&mut self, observed: &Observed<'_>) -> Result<(), String> {
        let text = observed.scale.selector.as_str();
        if text.is_empty() {
            let words = "selector is required".to_owned();
            self.events.push(Event::warning("SelectorRequired", words.as_str()));
            let message = "the HPA target's scale is missing a selector";
            self.conditions.set(SCALING_ACTIVE, false, "InvalidSelector", message);
            return Err(words);
        }
        let selector = match Selector::parse(text) {
            Ok(selector) => selector,
            Err(error) => {
                let words = format!("couldn't convert selector into a corresponding internal selector object: {error}");
                self.events.push(Event::warning("InvalidSelector", words.as_str()));
                self.conditions.set(SCALING_ACTIVE, false, "InvalidSelector", words.as_str());
                return Err(words);
            }
        };
        if observed.controlling.len() > 1 {
            let keys = observed.controlling.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace));
            let keys = keys.collect::<Vec<_>>().join(" ");
            let words = format!("pods by selector {selector} are controlled by multiple HPAs: [{keys}]");
            self.events.push(Event::warning("AmbiguousSelector", words.as_str()));
            self.conditions.set(SCALING_ACTIVE, false, "AmbiguousSelector", words.as_str());
            return Err(words);
        }
        Ok(())
    }

    /// Nothing was to be written.
    pub(crate) fn kept(self) -> Report {
        // Without a number of its own it goes on wanting what it wanted.
        let desired = if self.failed { self.old.desired_replicas } else { self.current };
        self.report(desired, None)
    }

    /// The new number was written.
    pub(crate) fn rescaled(mut self) -> Report {
        let Some(Rescale { from, to, reason }) = self.rescale.take() else { return self.kept() };
        let message = format!("the HPA controller was able to update the target scale to {to}");
        self.conditions.set(ABLE_TO_SCALE, true, "SucceededRescale", message);
        let message = format!("New size: {to}; reason: {reason}");
        self.events.push(Event { warning: false, reason: "SuccessfulRescale", message });
        if self.knows_zero {
            if from > 0 && to == 0 && self.may_be_zero {
                let message = "the HPA controller scaled the workload to zero";
                self.conditions.set(SCALED_TO_ZERO, true, "ScaledToZero", message);
            } else {
                not_scaled_to_zero(&mut self.conditions);
            }
        }
        let now = self.now;
        self.report(to, Some(now))
    }

    /// The new number could not be written, in the words of whoever refused.
    pub(crate) fn refused(mut self, words: &str) -> Report {
        let Some(Rescale { to, reason, .. }) = self.rescale.take() else { return self.kept() };
        let message = format!("New size: {to}; reason: {reason}; error: {words}");
        self.events.push(Event::warning("FailedRescale", message));
        let message = format!("the HPA controller was unable to update the target scale: {words}");
        self.conditions.set(ABLE_TO_SCALE, false, "FailedUpdateScale", message);
        self.failed = true;
        let desired = self.old.desired_replicas;
        self.report(desired, None)
    }

    fn report(self, desired: i32, rescaled: Option<Timestamp>) -> Report {
        let status = HorizontalPodAutoscalerStatus {
            conditions: self.conditions.into_list(),
            current_metrics: self.metrics,
            current_replicas: (self.current != 0).then_some(self.current),
            desired_replicas: desired,
            last_scale_time: rescaled.map(Time).or(self.old.last_scale_time),
            observed_generation: None,
        };
        Report { status, events: self.events, failed: self.failed, unsettled: self.unsettled }
    }
}

fn not_scaled_to_zero(conditions: &mut Conditions) {
    let message = "the HPA controller did not scale the workload to zero";
    conditions.set(SCALED_TO_ZERO, false, "NotScaledToZero", message);
}

/// A pod on its way to be ready.
fn starting(pod: &Pod) -> bool {
    let ready = ready_condition(pod).is_some_and(|condition| condition.status == "True");
    pod.metadata.deletion_timestamp.is_none() && !ready && matches!(phase(pod), "" | "Pending" | "Running")
}

#[cfg(test)]
mod tests;
