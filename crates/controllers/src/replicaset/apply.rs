//! Carries out the plan. Decides nothing.

use std::sync::Arc;

use api::selector::Selector;
use client::events::Recorder;
use client::informer::controller_of;
use client::{Action, ClientError, DeleteParams, ObjectKey};
use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::plan::{self, Failure, Scale};
use crate::claim::{Claim, claim, decide, selects};
use crate::clock;
use crate::context::{Context, Error};
use crate::{pods, template};

/// Pods made at the same time at first; doubles while it works, so that a
/// quota is run against once and not five hundred times.
const FIRST_BATCH_PODS: usize = 1;

pub(super) async fn reconcile(context: Context, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.pods.caught_up().await?;
    informers.replica_sets.caught_up().await?;
    let Some(set) = informers.replica_sets.get(&key) else { return Ok(Action::Done) };
    let selector = Selector::from_label_selector(set.spec.as_ref().map(|spec| &spec.selector))
        .map_err(|source| Error::Selector { object: format!("ReplicaSet {key}"), source })?;
    let all = informers.pods.in_namespace(&key.namespace);
    let terminating = all.iter().filter(|pod| pods::is_terminating(pod));
    let terminating = terminating.filter(|pod| decide(&*set, &selector, &***pod) == Claim::Keep).count();
    let active = all.into_iter().filter(|pod| pods::is_active(pod)).collect();
    let active = claim(&context, &*set, &selector, &informers.pods, active).await?;

    let mut failed = None;
    if set.metadata.deletion_timestamp.is_none() {
        let related = related(&context, &set);
        let result = match plan::scale(&set, active.clone(), &related, Timestamp::now()) {
            Scale::Keep => Ok(()),
            Scale::Create(count) => create(&context, &set, count).await,
            Scale::Delete(pods) => delete(&context, &set, &pods).await,
        };
        failed = result.err();
    }
    let now = Timestamp::now();
    let failure = failed.as_ref().map(|(message, _)| Failure { message: message.clone() });
    let (status, next) = plan::status(&set, &active, terminating, failure.as_ref(), now);
    write_status(&context, &set, status).await?;
    match failed {
        Some((_, error)) => Err(error.into()),
        None => Ok(next.map_or(Action::Done, |next| Action::After(clock::until(next, now)))),
    }
}

/// Pods of all sets that have the same controller, this one among them.
fn related(context: &Context, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let owner = controller_of(set).map(|owner| &owner.uid);
    let mut sets = context.informers.replica_sets.in_namespace(namespace);
    sets.retain(|other| match owner {
        Some(uid) => controller_of(&**other).is_some_and(|owner| owner.uid == *uid),
        None => other.metadata.uid == set.metadata.uid,
    });
    let selectors: Vec<_> = sets
        .iter()
        .filter_map(|set| Selector::from_label_selector(set.spec.as_ref().map(|spec| &spec.selector)).ok())
        .collect();
    let mut pods = context.informers.pods.in_namespace(namespace);
    pods.retain(|pod| selectors.iter().any(|selector| selects(selector, &pod.metadata)));
    pods
}

/// What the status is to say, and the failure itself.
type Failed = (String, ClientError);

async fn create(context: &Context, set: &ReplicaSet, count: usize) -> Result<(), Failed> {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return Ok(()) };
    let pod = template::pod(set, template);
    let api = context.client.of(&pod);
    let (mut left, mut batch) = (count, FIRST_BATCH_PODS);
    while left > 0 {
        batch = batch.min(left);
        let made = join_all((0..batch).map(|_| api.create(&pod))).await;
        let mut failure = None;
        for result in made {
            match result {
                Ok(pod) => {
                    context.informers.pods.wrote(pod.metadata.resource_version.as_deref());
                    let name = pod.metadata.name.unwrap_or_default();
                    context.recorder.normal(set, "SuccessfulCreate", format!("Created pod: {name}"));
                }
                // Nothing can be made here any more.
                Err(error) if error.is_namespace_terminating() => {}
                Err(error) => {
                    context.recorder.warning(set, "FailedCreate", format!("Error creating: {error}"));
                    failure.get_or_insert((error.to_string(), error));
                }
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        left -= batch;
        batch *= 2;
    }
    Ok(())
}

async fn delete(context: &Context, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), Failed> {
    let deleted = join_all(pods.iter().map(|pod| delete_one(context, &context.recorder, set, pod))).await;
    deleted.into_iter().collect()
}

async fn delete_one(context: &Context, recorder: &Recorder, set: &ReplicaSet, pod: &Pod) -> Result<(), Failed> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match context.client.of(pod).delete_revision(name, &DeleteParams::default()).await {
        Ok(revision) => {
            context.informers.pods.wrote(revision.as_deref());
            recorder.normal(set, "SuccessfulDelete", format!("Deleted pod: {name}"));
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => {
            recorder.warning(set, "FailedDelete", format!("Error deleting: {error}"));
            Err((format!("unable to delete pods: {error}"), error))
        }
    }
}

async fn write_status(context: &Context, set: &ReplicaSet, status: ReplicaSetStatus) -> Result<(), Error> {
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut set = set.clone();
    set.status = Some(status);
    let name = set.metadata.name.clone().unwrap_or_default();
    match context.client.of(&set).replace_status(&name, &set).await {
        Ok(written) => context.informers.replica_sets.wrote(written.metadata.resource_version.as_deref()),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
