//! A Deployment's ReplicaSets: which is the newest, their order, and the
//! annotations that carry the history.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::sizes::{desired, max_surge};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Longest list of earlier revisions, in bytes.
const HISTORY_LIMIT_BYTES: usize = 2000;

/// Annotations that a Deployment and its ReplicaSets do not share.
pub(super) fn is_own(annotation: &str) -> bool {
    [LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO].contains(&annotation)
}

pub(super) fn replicas_of(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn name_of(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// None if the annotation is no number.
pub(super) fn revision(set: &ReplicaSet) -> Option<i64> {
    match set.metadata.annotations.as_ref().and_then(|all| all.get(REVISION)) {
        None => Some(0),
        Some(text) => text.parse().ok(),
    }
}

/// Equal but for the hash label.
pub(super) fn is_same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
        let mut template = template.clone();
        let metadata = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH_LABEL);
        }
        metadata.labels.take_if(|labels| labels.is_empty());
        metadata.annotations.take_if(|annotations| annotations.is_empty());
        template
    }
    a.spec == b.spec && bare(a) == bare(b)
}

/// Older first, then by name.
pub(super) fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    created(a).cmp(&created(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// Lower revision first.
pub(super) fn by_revision(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    match (revision(a), revision(b)) {
        (Some(a), Some(b)) if a != b => a.cmp(&b),
        _ => by_age(a, b),
    }
}

/// The one to whose template the Deployment is rolling, or has rolled; the
/// oldest if several have it. `sets` are in order of age.
pub(super) fn position_of_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let template = &deployment.spec.as_ref()?.template;
    sets.iter().position(|set| {
        let its = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        its.is_some_and(|its| is_same_template(its, template))
    })
}

/// Brings the newest set's annotations up to date: the Deployment's own, the
/// revision, and what it was before. Sizes only when it is made.
pub(super) fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, new_revision: i64, is_made: bool) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !is_own(key) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return,
        },
    };
    if old_number < new_revision {
        annotations.insert(REVISION.into(), new_revision.to_string());
        if let Some(old) = old {
            remember(annotations, &old);
        }
    }
    if is_made {
        annotate_sizes(deployment, set);
    }
}

fn remember(annotations: &mut BTreeMap<String, String>, old: &str) {
    let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
    if history.is_empty() {
        annotations.insert(REVISION_HISTORY.into(), old.to_owned());
        return;
    }
    let mut revisions: Vec<&str> = history.split(',').collect();
    revisions.push(old);
    let length =
        |revisions: &[&str]| revisions.iter().map(|revision| revision.len() + 1).sum::<usize>().saturating_sub(1);
    while revisions.len() > 1 && length(&revisions) > HISTORY_LIMIT_BYTES {
        revisions.remove(0);
    }
    if length(&revisions) <= HISTORY_LIMIT_BYTES {
        annotations.insert(REVISION_HISTORY.into(), revisions.join(","));
    }
}

/// Notes the Deployment's size: proportional scaling needs to know the one
/// before.
pub(super) fn annotate_sizes(deployment: &Deployment, set: &mut ReplicaSet) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let total = desired(deployment);
    annotations.insert(DESIRED_REPLICAS.into(), total.to_string());
    annotations.insert(MAX_REPLICAS.into(), (total + max_surge(deployment)).to_string());
}
