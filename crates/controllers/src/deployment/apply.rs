//! Carries out the plan. Decides nothing.

use std::sync::Arc;

use api::selector::Selector;
use client::events::reference;
use client::informer::controller_of;
use client::{Action, DeleteParams, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::plan::{self, Event, Observed, Step};
use super::sets::is_same_template;
use crate::claim::claim;
use crate::clock;
use crate::context::{Context, Error};
use crate::pods;

pub(super) async fn reconcile(context: Context, key: ObjectKey) -> Result<Action, Error> {
    let informers = &context.informers;
    informers.deployments.caught_up().await?;
    informers.replica_sets.caught_up().await?;
    let Some(deployment) = informers.deployments.get(&key) else { return Ok(Action::Done) };
    let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
    if selector == Some(&LabelSelector::default()) {
        let event =
            Event::warning("SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.");
        record(&context, &deployment, event);
        return Ok(Action::Done);
    }
    let selector = Selector::from_label_selector(selector)
        .map_err(|source| Error::Selector { object: format!("Deployment {key}"), source })?;
    let candidates = informers.replica_sets.in_namespace(&key.namespace);
    let sets = claim(&context, &*deployment, &selector, &informers.replica_sets, candidates).await?;
    let observed = Observed {
        deployment: (*deployment).clone(),
        living_pods: if plan::is_rolling(&deployment) { Vec::new() } else { living_pods(&context, &sets, &key) },
        sets: sets.iter().map(|set| (**set).clone()).collect(),
    };
    let now = Timestamp::now();
    let plan = plan::plan(observed, now);
    for step in plan.steps {
        carry_out(&context, &deployment, step).await?;
    }
    Ok(plan.next.map_or(Action::Done, |next| Action::After(clock::until(next, now))))
}

/// The set's uid for each of their pods that is not finished.
fn living_pods(context: &Context, sets: &[Arc<ReplicaSet>], key: &ObjectKey) -> Vec<String> {
    let pods = context.informers.pods.in_namespace(&key.namespace);
    let living = pods.iter().filter(|pod| !pods::is_finished(pod));
    let owners = living.filter_map(|pod| controller_of(&**pod)).map(|owner| &owner.uid);
    owners.filter(|uid| sets.iter().any(|set| set.metadata.uid.as_ref() == Some(uid))).cloned().collect()
}

fn record(context: &Context, deployment: &Deployment, event: Event) {
    context.recorder.event(&reference(deployment), event.kind, event.reason, event.message);
}

async fn carry_out(context: &Context, deployment: &Deployment, step: Step) -> Result<(), Error> {
    let sets = &context.informers.replica_sets;
    match step {
        Step::Create { set, event } => create(context, deployment, &set, event).await,
        Step::Update { set, event } => {
            let name = set.metadata.name.clone().unwrap_or_default();
            let written = context.client.of(&*set).replace(&name, &set).await?;
            sets.wrote(written.metadata.resource_version.as_deref());
            if let Some(event) = event {
                record(context, deployment, event);
            }
            Ok(())
        }
        Step::Delete { name } => {
            let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
            let api = context.client.namespaced::<ReplicaSet>(namespace);
            match api.delete(&name, &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => Err(error.into()),
                _ => Ok(()),
            }
        }
        Step::ReplaceDeployment { deployment: changed, event } => {
            let name = changed.metadata.name.clone().unwrap_or_default();
            let written = context.client.of(&*changed).replace(&name, &changed).await?;
            context.informers.deployments.wrote(written.metadata.resource_version.as_deref());
            record(context, deployment, event);
            Ok(())
        }
        Step::WriteStatus(changed) => write_status(context, *changed).await,
    }
}

async fn create(
    context: &Context,
    deployment: &Deployment,
    set: &ReplicaSet,
    event: Option<Event>,
) -> Result<(), Error> {
    let api = context.client.of(set);
    let name = set.metadata.name.clone().unwrap_or_default();
    let error = match api.create(set).await {
        Ok(created) => {
            context.informers.replica_sets.wrote(created.metadata.resource_version.as_deref());
            if let Some(event) = event {
                record(context, deployment, event);
            }
            return Ok(());
        }
        Err(error) => error,
    };
    if error.is_already_exists() {
        let there = api.get(&name).await?;
        if is_own(deployment, &there, set) {
            context.informers.replica_sets.wrote(there.metadata.resource_version.as_deref());
            return Ok(());
        }
        with_status(context, deployment, plan::collided(deployment)).await?;
        return Err(Error::HashCollision { name });
    }
    if !error.is_namespace_terminating() {
        let (status, event) = plan::create_failed(deployment, &name, &error.to_string(), Timestamp::now());
        if let Some(status) = status {
            with_status(context, deployment, status).await?;
        }
        record(context, deployment, event);
    }
    Err(error.into())
}

fn is_own(deployment: &Deployment, there: &ReplicaSet, wanted: &ReplicaSet) -> bool {
    fn template(set: &ReplicaSet) -> Option<&k8s_openapi::api::core::v1::PodTemplateSpec> {
        set.spec.as_ref()?.template.as_ref()
    }
    controller_of(there).map(|owner| &owner.uid) == deployment.metadata.uid.as_ref()
        && template(there).zip(template(wanted)).is_some_and(|(a, b)| is_same_template(a, b))
}

async fn with_status(context: &Context, deployment: &Deployment, status: DeploymentStatus) -> Result<(), Error> {
    let changed = Deployment { status: Some(status), ..deployment.clone() };
    if changed == *deployment { Ok(()) } else { write_status(context, changed).await }
}

async fn write_status(context: &Context, changed: Deployment) -> Result<(), Error> {
    let name = changed.metadata.name.clone().unwrap_or_default();
    match context.client.of(&changed).replace_status(&name, &changed).await {
        Ok(written) => context.informers.deployments.wrote(written.metadata.resource_version.as_deref()),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
