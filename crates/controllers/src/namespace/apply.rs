//! Empties a namespace as far as it can be emptied now.

use std::time::Duration;

use client::{Action, ClientError, DeleteParams, List, ListParams, ObjectKey, PartialObjectMetadata, Propagation};
use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::json;

use super::plan::{self, FINALIZER_ESTIMATE_SECONDS, Outcome};
use crate::context::{Context, Error};
use crate::pods;
use client::discovery::{Resource, discover};

/// The finalizer that stands for this controller.
const FINALIZER: &str = "kubernetes";
/// Resources that are emptied at the same time.
const CONCURRENT_RESOURCES: usize = 8;

pub(super) async fn reconcile(context: Context, key: ObjectKey) -> Result<Action, Error> {
    let api = context.client.all::<Namespace>();
    let known = context.informers.namespaces.get(&key);
    if known.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
        return Ok(Action::Done);
    }
    // Deletion cannot be taken back: it is decided by what the server says.
    let Some(mut namespace) = api.get_opt(&key.name).await? else { return Ok(Action::Done) };
    if namespace.metadata.deletion_timestamp.is_none() || finalizers(&namespace).is_empty() {
        return Ok(Action::Done);
    }
    let status = namespace.status.get_or_insert_default();
    if status.phase.as_deref() != Some("Terminating") {
        status.phase = Some("Terminating".into());
        namespace = api.replace_status(&key.name, &namespace).await?;
    }
    let outcome = empty(&context, &namespace).await;
    let before = namespace.status.clone().unwrap_or_default();
    if let Some(status) = plan::status(&before, &outcome, Timestamp::now()) {
        namespace.status = Some(status);
        namespace = match api.replace_status(&key.name, &namespace).await {
            Ok(written) => written,
            Err(error) if error.is_not_found() => return Ok(Action::Done),
            Err(error) => return Err(error.into()),
        };
    }
    if outcome.discovery_failure.is_some() || !outcome.failures.is_empty() {
        return Err(Error::Missing { what: format!("the end of namespace {}", key.name) });
    }
    if outcome.estimate_seconds > 0 {
        // TODO-performance: look again when the last object goes, until what
        // watches every kind for garbage collection tells of it.
        let wait = u64::try_from(outcome.estimate_seconds / 2 + 1).unwrap_or(1);
        return Ok(Action::After(Duration::from_secs(wait)));
    }
    finalize(&context, namespace, &key).await
}

fn finalizers(namespace: &Namespace) -> Vec<String> {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default()
}

async fn finalize(context: &Context, mut namespace: Namespace, key: &ObjectKey) -> Result<Action, Error> {
    let mut left = finalizers(&namespace);
    left.retain(|finalizer| finalizer != FINALIZER);
    namespace.spec.get_or_insert_default().finalizers = Some(left);
    namespace.status = None;
    let body = json!(namespace);
    match context.client.all::<Namespace>().subresource_replace(&key.name, "finalize", &body).await {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(Action::Done),
    }
}

async fn empty(context: &Context, namespace: &Namespace) -> Outcome {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let mut outcome = Outcome::default();
    let resources = match discover(&context.client).await {
        Ok(discovered) => {
            if !discovered.failed.is_empty() {
                let groups = discovered.failed.join(", ");
                let count = discovered.failed.len();
                outcome.discovery_failure = Some(format!(
                    "Discovery failed for some groups, {count} failing: unable to retrieve the complete list of server APIs: {groups}"
                ));
            }
            discovered.resources
        }
        Err(error) => {
            outcome.discovery_failure = Some(error.to_string());
            return outcome;
        }
    };
    let deletable = resources.into_iter().filter(|resource| resource.namespaced && resource.can("delete"));
    let (pods, rest): (Vec<_>, Vec<_>) =
        deletable.partition(|resource| resource.gvr.resource == "pods" && resource.gvr.group_version.group.is_empty());
    for resource in &pods {
        empty_one(context, namespace, name, resource, &mut outcome).await;
    }
    if !outcome.remaining.is_empty() {
        outcome.is_pods_only = true;
        return outcome;
    }
    let each = rest.into_iter().map(|resource| async move {
        let mut outcome = Outcome::default();
        empty_one(context, namespace, name, &resource, &mut outcome).await;
        outcome
    });
    let mut each = stream::iter(each).buffer_unordered(CONCURRENT_RESOURCES);
    while let Some(one) = each.next().await {
        outcome.failures.extend(one.failures);
        outcome.remaining.extend(one.remaining);
        outcome.estimate_seconds = outcome.estimate_seconds.max(one.estimate_seconds);
        for (finalizer, count) in one.finalizers {
            *outcome.finalizers.entry(finalizer).or_default() += count;
        }
    }
    outcome
}

async fn empty_one(context: &Context, namespace: &Namespace, name: &str, resource: &Resource, outcome: &mut Outcome) {
    let result = delete_all(context, name, resource).await;
    let left = match result {
        Ok(left) => left,
        Err(error) => return outcome.failures.push(error.to_string()),
    };
    if left.items.is_empty() {
        return;
    }
    let is_pods = resource.gvr.resource == "pods" && resource.gvr.group_version.group.is_empty();
    let estimate = if is_pods { grace_left(context, namespace, name).await } else { 0 };
    let gvr = &resource.gvr;
    outcome.remaining.insert((gvr.resource.clone(), gvr.group_version.group.clone()), left.items.len());
    let mut has_finalizers = false;
    for finalizer in left.items.iter().flat_map(|item| item.metadata.finalizers.iter().flatten()) {
        *outcome.finalizers.entry(finalizer.clone()).or_default() += 1;
        has_finalizers = true;
    }
    if estimate > 0 {
        outcome.estimate_seconds = outcome.estimate_seconds.max(estimate);
    } else if has_finalizers {
        outcome.estimate_seconds = outcome.estimate_seconds.max(FINALIZER_ESTIMATE_SECONDS);
    } else {
        let version = &gvr.group_version;
        let gvr = format!("{}/{}, Resource={}", version.group, version.version, gvr.resource);
        outcome.failures.push(format!("unexpected items still remain in namespace: {name} for gvr: {gvr}"));
    }
}

/// Deletes every object of a resource; what is left after that.
async fn delete_all(
    context: &Context,
    name: &str,
    resource: &Resource,
) -> Result<List<PartialObjectMetadata>, ClientError> {
    let api = context.client.metadata(&resource.gvr, Some(name));
    let everything = ListParams::default();
    let nothing = || List { metadata: Default::default(), items: Vec::new() };
    let list = async || match api.list(&everything).await {
        Err(error) if error.is_not_found() || error.code() == Some(405) => Ok(nothing()),
        listed => listed,
    };
    if !resource.can("list") {
        return Ok(nothing());
    }
    let there = list().await?;
    if there.items.is_empty() {
        return Ok(there);
    }
    let params = DeleteParams { propagation: Some(Propagation::Background), ..DeleteParams::default() };
    let is_gone = |error: &ClientError| error.is_not_found() || error.code() == Some(405);
    let mut deleted = false;
    if resource.can("deletecollection") {
        match api.delete_collection(&params, &everything).await {
            Ok(()) => deleted = true,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if !deleted {
        for item in &there.items {
            match api.delete(item.metadata.name.as_deref().unwrap_or_default(), &params).await {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
    }
    list().await
}

/// Seconds that the slowest pod may still take; 0 if it should be gone.
async fn grace_left(context: &Context, namespace: &Namespace, name: &str) -> i64 {
    let Ok(list) = context.client.namespaced::<Pod>(name).list(&ListParams::default()).await else { return 0 };
    let running = list.items.iter().filter(|pod| !pods::is_finished(pod));
    let longest = running.filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds).max().unwrap_or(0);
    let since =
        namespace.metadata.deletion_timestamp.as_ref().map_or(0, |at| Timestamp::now().duration_since(at.0).as_secs());
    if since >= longest { 0 } else { longest }
}
