//! StorageObjectInUseProtection and PersistentVolumeClaimResize: claims and
//! volumes are not deleted under those who use them, and a claim grows only
//! where its class allows it. The finalizers are removed by a controller.

use api::quantity::Written;
use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::object::{self, Meta};
use crate::pipeline::write;

/// New objects of storage are protected by a finalizer.
pub(super) struct StorageObjectInUseProtection;

/// Claims grow only if they may.
pub(super) struct PersistentVolumeClaimResize;

fn finalizer(request: &Request<'_>) -> Option<&'static str> {
    if request.is("", "persistentvolumes") {
        return Some("kubernetes.io/pv-protection");
    }
    if request.is("", "persistentvolumeclaims") {
        return Some("kubernetes.io/pvc-protection");
    }
    request.is("storage.k8s.io", "volumeattributesclasses").then_some("kubernetes.io/vac-protection")
}

impl Plugin for StorageObjectInUseProtection {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && finalizer(request).is_some()
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(finalizer) = finalizer(request) else { return Ok(()) };
            if !object.finalizers().contains(&finalizer) {
                object::list_mut(object::metadata(object), "finalizers").push(finalizer.into());
            }
            Ok(())
        })
    }
}

impl Plugin for PersistentVolumeClaimResize {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is("", "persistentvolumeclaims")
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, claim: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(old) = request.old else { return Ok(()) };
            if size(claim) <= size(old) {
                return Ok(());
            }
            if object::text(old, "status.phase") != "Bound" {
                return Err(request.forbid("Only bound persistent volume claims can be expanded"));
            }
            let class = class(claim);
            if !class.is_empty() && class == self::class(old) {
                let classes = request.core.collection("storage.k8s.io", "storageclasses")?;
                let found = write::current(request.core, &classes.key("", class)).await?;
                if found.is_some_and(|class| class.object["allowVolumeExpansion"] == true) {
                    return Ok(());
                }
            }
            Err(request.forbid(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ))
        })
    }
}

fn size(claim: &Value) -> Written {
    object::text(claim, "spec.resources.requests.storage").parse().unwrap_or_default()
}

fn class(claim: &Value) -> &str {
    let annotated = claim.annotation("volume.beta.kubernetes.io/storage-class");
    annotated.unwrap_or_else(|| object::text(claim, "spec.storageClassName"))
}
