//! Which objects belong to an owner: by its selector and by the controller
//! reference. Orphans that match are adopted, owned ones that no longer match
//! are released.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::Selector;
use client::informer::controller_of;
use client::{Informer, ObjectKey, Patch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::{Context, Error};
use crate::template::controller_reference;

/// What the API needs of a kind that owns or is owned.
pub(crate) trait Kind:
    Metadata<Ty = ObjectMeta> + Resource + DeserializeOwned + Serialize + Clone + Send + Sync + 'static
{
}
impl<K> Kind for K where
    K: Metadata<Ty = ObjectMeta> + Resource + DeserializeOwned + Serialize + Clone + Send + Sync + 'static
{
}

/// What is to be done about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the owner's.
    Keep,
    /// It is to become the owner's.
    Adopt,
    /// It is to be the owner's no longer.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// Whether the selector matches the object's labels.
pub(crate) fn selects(selector: &Selector, metadata: &ObjectMeta) -> bool {
    match &metadata.labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&BTreeMap::<String, String>::new()),
    }
}

/// Decides about one object.
pub(crate) fn decide<O: Kind, K: Kind>(owner: &O, selector: &Selector, object: &K) -> Claim {
    let (mine, its) = (owner.metadata(), object.metadata());
    let matches = selects(selector, its);
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != mine.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if mine.deletion_timestamp.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || mine.deletion_timestamp.is_some() || its.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The objects that are the owner's, after adopting and releasing. Before the
/// first adoption the owner is read from the server: a copy may be of an
/// object that is gone.
pub(crate) async fn claim<O: Kind, K: Kind>(
    context: &Context,
    owner: &O,
    selector: &Selector,
    informer: &Informer<K>,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>, Error> {
    let mut owned = Vec::with_capacity(candidates.len());
    let mut alive = false;
    for object in candidates {
        match decide(owner, selector, &*object) {
            Claim::Keep => owned.push(object),
            Claim::Ignore => {}
            Claim::Release => release(context, owner, &*object, informer).await?,
            Claim::Adopt => {
                if !alive {
                    check_alive(context, owner).await?;
                    alive = true;
                }
                owned.extend(adopt(context, owner, &*object, informer).await?.map(Arc::new));
            }
        }
    }
    Ok(owned)
}

async fn check_alive<O: Kind>(context: &Context, owner: &O) -> Result<(), Error> {
    let key = ObjectKey::of(owner);
    let fresh = context.client.of(owner).get(&key.name).await?;
    let (found, wanted) = (fresh.metadata(), owner.metadata());
    if found.uid != wanted.uid {
        return Err(Error::Replaced {
            kind: O::KIND,
            key: key.to_string(),
            found: found.uid.clone().unwrap_or_default(),
            wanted: wanted.uid.clone().unwrap_or_default(),
        });
    }
    if found.deletion_timestamp.is_some() {
        return Err(Error::OwnerDeleted { kind: O::KIND, key: key.to_string() });
    }
    Ok(())
}

/// None if it has gone meanwhile.
async fn adopt<O: Kind, K: Kind>(
    context: &Context,
    owner: &O,
    object: &K,
    informer: &Informer<K>,
) -> Result<Option<K>, Error> {
    let metadata = object.metadata();
    let patch = json!({"metadata": {
        "ownerReferences": [controller_reference(owner)],
        "uid": metadata.uid,
    }});
    let name = metadata.name.as_deref().unwrap_or_default();
    match context.client.of(object).patch(name, &Patch::Strategic(patch)).await {
        Ok(adopted) => {
            informer.wrote(adopted.metadata().resource_version.as_deref());
            Ok(Some(adopted))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn release<O: Kind, K: Kind>(
    context: &Context,
    owner: &O,
    object: &K,
    informer: &Informer<K>,
) -> Result<(), Error> {
    let metadata = object.metadata();
    let patch = json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner.metadata().uid}],
        "uid": metadata.uid,
    }});
    let name = metadata.name.as_deref().unwrap_or_default();
    match context.client.of(object).patch(name, &Patch::Strategic(patch)).await {
        Ok(released) => informer.wrote(released.metadata().resource_version.as_deref()),
        // Gone, or it no longer is the object that was owned.
        Err(error) if error.is_not_found() || error.is_invalid() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
