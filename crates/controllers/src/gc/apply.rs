//! Carries out what was decided about one object.

use std::sync::{Arc, PoisonError};

use client::{Action, Api, ClientError, DeleteParams, PartialObjectMetadata, Patch, Preconditions};
use futures_util::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::Collector;
use super::graph::{Dependent, Identity, Snapshot, Uid, Work};
use super::plan::{self, Decision, FOREGROUND, ORPHAN, OwnerState};
use crate::context::{Context, Error};
use client::discovery::Resource;

pub(super) async fn reconcile(context: Context, collector: Arc<Collector>, work: Work) -> Result<Action, Error> {
    match work {
        Work::Attempt(uid) => attempt(&context, &collector, &uid).await,
        Work::Orphan(uid) => orphan(&context, &collector, &uid).await,
    }?;
    Ok(Action::Done)
}

impl Collector {
    fn resource(&self, identity: &Identity) -> Result<Resource, Error> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let key = (identity.group.to_string(), identity.kind.to_string());
        kinds.get(&key).cloned().ok_or_else(|| Error::Missing { what: format!("kind {} of group {:?}", key.1, key.0) })
    }

    fn api(&self, context: &Context, identity: &Identity) -> Result<Api<PartialObjectMetadata>, Error> {
        let resource = self.resource(identity)?;
        Ok(context.client.metadata(&resource.gvr, resource.namespaced.then_some(&*identity.namespace)))
    }

    fn absent(&self, uid: &Uid, identity: &Identity) {
        let mut work = Vec::new();
        self.graph().absent(uid, identity, &mut work);
        self.push(work);
    }
}

async fn attempt(context: &Context, collector: &Collector, uid: &Uid) -> Result<(), Error> {
    let Some(node) = collector.graph().snapshot(uid) else { return Ok(()) };
    let is_settled = !node.has_owners && !node.is_waiting_for_dependents && !node.is_virtual;
    if is_settled || (node.is_deleting && !node.is_waiting_for_dependents) {
        return Ok(());
    }
    let resource = collector.resource(&node.identity)?;
    if resource.namespaced && node.identity.namespace.is_empty() {
        // A cluster-scoped object names a namespaced owner: it cannot be looked
        // up, and guessing would delete.
        return Ok(());
    }
    let api = collector.api(context, &node.identity)?;
    let latest = match api.get_opt(&node.identity.name).await? {
        Some(latest) if latest.metadata.uid.as_deref() == Some(uid) => latest.metadata,
        _ => {
            collector.absent(uid, &node.identity);
            return Ok(());
        }
    };
    if node.is_virtual {
        // It is there; its kind may not be followed yet.
        return Ok(());
    }
    if node.is_waiting_for_dependents {
        return let_go(collector, &api, &node, &latest).await;
    }
    let owners = owner_states(context, collector, &node, &latest).await?;
    let dependents: Vec<_> = node.dependents.iter().map(|dependent| dependent.is_waiting_for_dependents).collect();
    match plan::decide(&owners, &dependents, latest.finalizers.as_deref().unwrap_or_default()) {
        Decision::Keep => Ok(()),
        Decision::DropReferences(uids) => {
            drop_references(&api, &latest, |owner| uids.iter().any(|uid| **uid == *owner.uid)).await
        }
        Decision::Delete { propagation, unblock } => {
            let mut latest = latest;
            if unblock {
                latest = unblock_owners(&api, latest).await?;
            }
            let params = DeleteParams {
                propagation: Some(propagation),
                preconditions: Some(Preconditions {
                    uid: latest.uid.clone(),
                    resource_version: latest.resource_version.clone(),
                }),
                ..DeleteParams::default()
            };
            match api.delete(&node.identity.name, &params).await {
                Err(error) if error.is_not_found() => {
                    collector.absent(uid, &node.identity);
                    Ok(())
                }
                result => Ok(result?),
            }
        }
    }
}

/// An owner in the foreground: it goes when nothing that blocks it is left.
async fn let_go(
    collector: &Collector,
    api: &Api<PartialObjectMetadata>,
    node: &Snapshot,
    latest: &ObjectMeta,
) -> Result<(), Error> {
    let blocking: Vec<&Dependent> = node.dependents.iter().filter(|dependent| dependent.blocks).collect();
    if blocking.is_empty() {
        return remove_finalizer(api, latest, FOREGROUND).await;
    }
    let idle = blocking.into_iter().filter(|dependent| !dependent.is_waiting_for_dependents);
    collector.push(idle.map(|dependent| Work::Attempt(dependent.uid.clone())).collect());
    Ok(())
}

async fn owner_states(
    context: &Context,
    collector: &Collector,
    node: &Snapshot,
    latest: &ObjectMeta,
) -> Result<Vec<(Uid, OwnerState)>, Error> {
    let mut states = Vec::new();
    for reference in latest.owner_references.iter().flatten() {
        let owner = super::follow::owner(reference);
        let known = collector.graph().owner(&owner, &node.identity.namespace);
        let state = match known {
            Some(true) => OwnerState::Waiting,
            Some(false) => OwnerState::Solid,
            None => ask(context, collector, node, reference).await?,
        };
        states.push((owner.uid, state));
    }
    Ok(states)
}

/// What the server says of an owner that was not seen as it is named.
async fn ask(
    context: &Context,
    collector: &Collector,
    node: &Snapshot,
    reference: &OwnerReference,
) -> Result<OwnerState, Error> {
    let owner = super::follow::owner(reference);
    let identity =
        Identity { group: owner.group, kind: owner.kind, namespace: node.identity.namespace.clone(), name: owner.name };
    let resource = collector.resource(&identity)?;
    if resource.namespaced && identity.namespace.is_empty() {
        // See attempt: never on a guess.
        return Ok(OwnerState::Solid);
    }
    let found = collector.api(context, &identity)?.get_opt(&identity.name).await?;
    let found = found.filter(|found| found.metadata.uid.as_ref() == Some(&reference.uid));
    Ok(match found {
        None => OwnerState::Absent,
        Some(found) => {
            let mut finalizers = found.metadata.finalizers.iter().flatten();
            let is_waiting = found.metadata.deletion_timestamp.is_some() && finalizers.any(|name| name == FOREGROUND);
            if is_waiting { OwnerState::Waiting } else { OwnerState::Solid }
        }
    })
}

async fn orphan(context: &Context, collector: &Collector, uid: &Uid) -> Result<(), Error> {
    let Some(node) = collector.graph().snapshot(uid) else { return Ok(()) };
    try_join_all(node.dependents.iter().map(|dependent| cut_loose(context, collector, dependent, uid))).await?;
    let api = collector.api(context, &node.identity)?;
    match api.get_opt(&node.identity.name).await? {
        Some(latest) if latest.metadata.uid.as_deref() == Some(uid) => {
            remove_finalizer(&api, &latest.metadata, ORPHAN).await
        }
        _ => Ok(()),
    }
}

async fn cut_loose(context: &Context, collector: &Collector, dependent: &Dependent, owner: &Uid) -> Result<(), Error> {
    let api = collector.api(context, &dependent.identity)?;
    match api.get_opt(&dependent.identity.name).await? {
        Some(latest) if latest.metadata.uid.as_deref() == Some(&*dependent.uid) => {
            drop_references(&api, &latest.metadata, |reference| *reference.uid == **owner).await
        }
        _ => Ok(()),
    }
}

async fn drop_references(
    api: &Api<PartialObjectMetadata>,
    latest: &ObjectMeta,
    is_dropped: impl Fn(&OwnerReference) -> bool,
) -> Result<(), Error> {
    let mut references = latest.owner_references.clone().unwrap_or_default();
    references.retain(|reference| !is_dropped(reference));
    let references = if references.is_empty() { Value::Null } else { json!(references) };
    patch(api, latest, json!({"ownerReferences": references})).await.map(drop)
}

async fn unblock_owners(api: &Api<PartialObjectMetadata>, latest: ObjectMeta) -> Result<ObjectMeta, Error> {
    let mut references = latest.owner_references.clone().unwrap_or_default();
    for reference in &mut references {
        reference.block_owner_deletion = Some(false);
    }
    let changed = patch(api, &latest, json!({"ownerReferences": references})).await?;
    Ok(changed.unwrap_or(latest))
}

async fn remove_finalizer(api: &Api<PartialObjectMetadata>, latest: &ObjectMeta, name: &str) -> Result<(), Error> {
    let before = latest.finalizers.clone().unwrap_or_default();
    let after: Vec<_> = before.iter().filter(|finalizer| *finalizer != name).cloned().collect();
    if after.len() == before.len() {
        return Ok(());
    }
    let after = if after.is_empty() { Value::Null } else { json!(after) };
    patch(api, latest, json!({"finalizers": after})).await.map(drop)
}

/// Changes metadata of exactly this state. None if it has gone.
async fn patch(
    api: &Api<PartialObjectMetadata>,
    latest: &ObjectMeta,
    mut change: Value,
) -> Result<Option<ObjectMeta>, Error> {
    change["resourceVersion"] = json!(latest.resource_version);
    change["uid"] = json!(latest.uid);
    let name = latest.name.as_deref().unwrap_or_default();
    match api.patch(name, &Patch::Merge(json!({"metadata": change}))).await {
        Ok(changed) => Ok(Some(changed.metadata)),
        Err(ref error @ ClientError::Api(_)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
