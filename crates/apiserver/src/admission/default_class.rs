//! DefaultStorageClass and DefaultIngressClass: what names no class gets the
//! one that is marked as default; of several the newest.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::object::{self, Meta};

/// Claims get a storage class.
pub(super) struct DefaultStorageClass;

/// Ingresses get an ingress class.
pub(super) struct DefaultIngressClass;

impl Plugin for DefaultStorageClass {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "persistentvolumeclaims")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, claim: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let annotated = claim.annotation("volume.beta.kubernetes.io/storage-class").is_some();
            if annotated || object::at(claim, "spec.storageClassName").is_string() {
                return Ok(());
            }
            let classes = request.all("storage.k8s.io", "storageclasses").await?;
            let marks =
                ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
            if let Some(class) = newest(&classes, &marks) {
                object::map_mut(claim, "spec").insert("storageClassName".to_owned(), class.name().into());
            }
            Ok(())
        })
    }
}

impl Plugin for DefaultIngressClass {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("networking.k8s.io", "ingresses")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, ingress: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let annotated = ingress.annotation("kubernetes.io/ingress.class").is_some();
            if annotated || object::at(ingress, "spec.ingressClassName").is_string() {
                return Ok(());
            }
            let classes = request.all("networking.k8s.io", "ingressclasses").await?;
            if let Some(class) = newest(&classes, &["ingressclass.kubernetes.io/is-default-class"]) {
                object::map_mut(ingress, "spec").insert("ingressClassName".to_owned(), class.name().into());
            }
            Ok(())
        })
    }
}

/// The newest that is marked; of those of one second the first by name.
fn newest<'a>(classes: &'a [Value], marks: &[&str]) -> Option<&'a Value> {
    let marked = |class: &&Value| marks.iter().any(|mark| class.annotation(mark) == Some("true"));
    let order =
        |class: &&Value| (class.meta_text("creationTimestamp").to_owned(), std::cmp::Reverse(class.name().to_owned()));
    classes.iter().filter(marked).max_by_key(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_marked_class_is_the_default() {
        let class = |name: &str, at: &str, mark: &str| json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": {"d": mark}}});
        let classes = [
            class("old", "2024-01-01T00:00:00Z", "true"),
            class("b", "2025-01-01T00:00:00Z", "true"),
            class("a", "2025-01-01T00:00:00Z", "true"),
            class("unmarked", "2026-01-01T00:00:00Z", "false"),
        ];
        assert_eq!(newest(&classes, &["d"]).map(Meta::name), Some("a"));
        assert!(newest(&classes, &["other"]).is_none());
    }
}
