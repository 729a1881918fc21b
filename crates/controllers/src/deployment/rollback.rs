//! Going back to an earlier revision, asked for by the annotation that stands
//! for the `rollbackTo` of old API versions. kubectl does it by itself today.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::plan::{Event, Step};
use super::sets::{HASH_LABEL, ROLLBACK_TO, is_own, is_same_template, revision};

/// The revision asked for; 0 is the one before.
pub(super) fn wanted(deployment: &Deployment) -> Option<i64> {
    let text = deployment.metadata.annotations.as_ref()?.get(ROLLBACK_TO)?;
    text.parse().ok()
}

/// The Deployment with an earlier template, or as it is, and no longer asking.
pub(super) fn steps(deployment: &Deployment, sets: &[ReplicaSet], wanted: i64) -> Vec<Step> {
    let mut changed = deployment.clone();
    if let Some(annotations) = &mut changed.metadata.annotations {
        annotations.remove(ROLLBACK_TO);
    }
    let wanted = if wanted == 0 { last(sets) } else { wanted };
    let not_found = |message: &str| Event::warning("DeploymentRollbackRevisionNotFound", message);
    let event = if wanted == 0 {
        not_found("Unable to find last revision.")
    } else {
        match sets.iter().find(|set| revision(set) == Some(wanted)) {
            None => not_found("Unable to find the revision to rollback to."),
            Some(set) => restore(&mut changed, set, wanted),
        }
    };
    vec![Step::ReplaceDeployment { deployment: Box::new(changed), event }]
}

fn restore(deployment: &mut Deployment, set: &ReplicaSet, revision: i64) -> Event {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let Some(spec) = &mut deployment.spec else { return Event::warning("DeploymentRollbackRevisionNotFound", "") };
    if is_same_template(&spec.template, &template) {
        let message = format!("The rollback revision contains the same template as current deployment {name:?}");
        return Event::warning("DeploymentRollbackTemplateUnchanged", &message);
    }
    spec.template = template;
    if let Some(labels) = spec.template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| is_own(key));
    let old = set.metadata.annotations.iter().flatten().filter(|(key, _)| !is_own(key));
    annotations.extend(old.map(|(key, value)| (key.clone(), value.clone())));
    Event::normal("DeploymentRollback", &format!("Rolled back deployment {name:?} to revision {revision}"))
}

/// The second highest revision; 0 if there is none.
fn last(sets: &[ReplicaSet]) -> i64 {
    let (mut highest, mut second) = (0, 0);
    for revision in sets.iter().filter_map(revision) {
        if revision >= highest {
            (second, highest) = (highest, revision);
        } else if revision > second {
            second = revision;
        }
    }
    second
}
