//! DefaultStorageClass and DefaultIngressClass: what names no class gets the
//! one that is marked as default; of several the newest.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::object::{self, Meta};

/// Gives new objects of one kind the default class of another.
pub(super) struct DefaultClass {
    /// Group and plural of the objects.
    objects: (&'static str, &'static str),
    /// Group and plural of the classes.
    classes: (&'static str, &'static str),
    /// Field of the object's `spec` that names the class.
    field: &'static str,
    /// Annotation that named it before the field did.
    annotation: &'static str,
    /// Annotations that mark the default.
    marks: &'static [&'static str],
}

/// Claims get a storage class.
pub(super) const STORAGE: DefaultClass = DefaultClass {
    objects: ("", "persistentvolumeclaims"),
    classes: ("storage.k8s.io", "storageclasses"),
    field: "storageClassName",
    annotation: "volume.beta.kubernetes.io/storage-class",
    marks: &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
};

/// Ingresses get an ingress class.
pub(super) const INGRESS: DefaultClass = DefaultClass {
    objects: ("networking.k8s.io", "ingresses"),
    classes: ("networking.k8s.io", "ingressclasses"),
    field: "ingressClassName",
    annotation: "kubernetes.io/ingress.class",
    marks: &["ingressclass.kubernetes.io/is-default-class"],
};

impl Plugin for DefaultClass {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is(self.objects.0, self.objects.1)
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if object.annotation(self.annotation).is_some() || object["spec"][self.field].is_string() {
                return Ok(());
            }
            let classes = request.all(self.classes.0, self.classes.1).await?;
            if let Some(class) = newest(&classes, self.marks) {
                object::map_mut(object, "spec").insert(self.field.to_owned(), class.name().into());
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
