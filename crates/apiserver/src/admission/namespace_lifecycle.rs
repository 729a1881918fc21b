//! NamespaceLifecycle: nothing is created in a namespace that does not exist or
//! is going away, and the system's namespaces cannot be deleted.

use api::status::{Status, StatusCause};
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::object::{self, Meta};
use crate::pipeline::write;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn handles(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Create => {
                request.resource.collection.namespaced
                    && !request.resource.verbs.is_empty()
                    && !is_access_review(request)
            }
            Operation::Delete => request.is("", "namespaces"),
            Operation::Update | Operation::Connect => false,
        }
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, _object: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { check(request).await })
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, _object: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
                return Err(request.forbid("this namespace may not be deleted"));
            }
            Ok(())
        })
    }
}

fn is_access_review(request: &Request<'_>) -> bool {
    request.resource.group() == "authorization.k8s.io"
}

async fn check(request: &Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let namespaces = request.core.collection("", "namespaces")?;
    let Some(current) = write::current(request.core, &namespaces.key("", request.namespace)).await? else {
        return Err(Status::not_found(&namespaces.group_resource, request.namespace));
    };
    if object::text(&current.object, "status.phase") != "Terminating" && !current.object.deleting() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {} because it is being terminated", request.namespace);
    let mut status = request.forbid(&why);
    let cause = StatusCause {
        reason: Some("NamespaceTerminating".to_owned()),
        message: Some(format!("namespace {} is being terminated", request.namespace)),
        field: Some("metadata.namespace".to_owned()),
    };
    status.details.get_or_insert_default().causes.push(cause);
    Err(status)
}
