//! The status: counts, and the three conditions.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sets::{name_of, replicas_of};
use super::sizes::{desired, max_unavailable};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(super) const PAUSED: &str = "DeploymentPaused";
const COMPLETE: &str = "NewReplicaSetAvailable";

/// What the status is made of: all sets, the newest among them if it exists.
pub(super) struct Sets<'a> {
    pub(super) all: &'a [ReplicaSet],
    pub(super) new: Option<&'a ReplicaSet>,
}

/// One condition of now.
pub(super) fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// The condition of this type.
pub(super) fn get<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub(super) fn is_reason(status: &DeploymentStatus, reason: &str) -> bool {
    get(status, PROGRESSING).is_some_and(|condition| condition.reason.as_deref() == Some(reason))
}

/// Puts it last, unless one with its status and reason is there.
pub(super) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(current) = get(status, &condition.type_)
        && current.status == condition.status
    {
        if current.reason == condition.reason {
            return;
        }
        condition.last_transition_time.clone_from(&current.last_transition_time);
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

pub(super) fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
    status.conditions.take_if(|conditions| conditions.is_empty());
}

pub(super) fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then_some(seconds)
}

/// Zero is left out, as upstream's encoding does.
fn some(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// Counts and availability; everything else as it was.
pub(super) fn counted(deployment: &Deployment, sets: &Sets<'_>, now: Timestamp) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSetStatus) -> i32| -> i32 {
        sets.all.iter().filter_map(|set| set.status.as_ref()).map(count).sum()
    };
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let total: i32 = sets.all.iter().map(replicas_of).sum();
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(|status| status.replicas)),
        updated_replicas: some(sets.new.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas)),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((total - available).max(0)),
        terminating_replicas: terminating(sets.all),
        collision_count: before.collision_count,
        conditions: before.conditions,
    };
    let availability = if available >= desired(deployment) - max_unavailable(deployment) {
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
    } else {
        let message = "Deployment does not have minimum availability.";
        condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    set(&mut status, availability);
    status
}

/// None if a set does not say.
fn terminating(sets: &[ReplicaSet]) -> Option<i32> {
    let mut sum = 0;
    for status in sets.iter().filter_map(|set| set.status.as_ref()) {
        match status.terminating_replicas {
            Some(count) => sum += count,
            None if status.observed_generation.unwrap_or(0) == 0 => {}
            None => return None,
        }
    }
    Some(sum)
}

/// Counts, availability, progress and failures, during a rollout.
pub(super) fn rolled(deployment: &Deployment, sets: &Sets<'_>, now: Timestamp) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = counted(deployment, sets, now);
    if has_deadline(deployment) {
        let was_complete = status.replicas == status.updated_replicas && is_reason(&before, COMPLETE);
        if !was_complete {
            progress(deployment, sets.new, &before, &mut status, now);
        }
    } else {
        remove(&mut status, PROGRESSING);
    }
    match failure(sets) {
        Some(failure) => set(&mut status, failure),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

fn progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let subject = match new {
        Some(set) => format!("ReplicaSet {:?}", name_of(set)),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set(status, condition(PROGRESSING, "True", COMPLETE, &message, now));
    } else if has_progressed(before, status) {
        let mut progressing =
            condition(PROGRESSING, "True", "ReplicaSetUpdated", &format!("{subject} is progressing."), now);
        // The update time moves with each step, the transition time does not.
        if let Some(current) = get(before, PROGRESSING) {
            if current.status == "True" {
                progressing.last_transition_time.clone_from(&current.last_transition_time);
            }
            remove(status, PROGRESSING);
        }
        set(status, progressing);
    } else if has_timed_out(deployment, status, now) {
        let message = format!("{subject} has timed out progressing.");
        set(status, condition(PROGRESSING, "False", TIMED_OUT, &message, now));
    }
}

/// Every replica is of the newest template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let total = desired(deployment);
    let is_all = |count: Option<i32>| count.unwrap_or(0) == total;
    is_all(status.updated_replicas)
        && is_all(status.replicas)
        && is_all(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    after.updated_replicas > before.updated_replicas
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(condition) = get(status, PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => expiry(deployment, condition).is_some_and(|expiry| expiry < now),
    }
}

fn expiry(deployment: &Deployment, condition: &DeploymentCondition) -> Option<Timestamp> {
    let since = condition.last_update_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(deadline(deployment)?.into())).ok()
}

/// When the deadline has to be looked at, if progress is awaited.
pub(super) fn next_check(deployment: &Deployment, status: &DeploymentStatus) -> Option<Timestamp> {
    let condition = get(status, PROGRESSING)?;
    let reason = condition.reason.as_deref();
    if is_complete(deployment, status) || reason == Some(TIMED_OUT) || reason == Some(PAUSED) {
        return None;
    }
    // A second more: stored times have whole seconds.
    expiry(deployment, condition)?.checked_add(SignedDuration::from_secs(1)).ok()
}

/// The failure of the newest set, else of any.
fn failure(sets: &Sets<'_>) -> Option<DeploymentCondition> {
    sets.new.into_iter().chain(sets.all).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_deref()?;
        let failure = conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)?;
        Some(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        })
    })
}
