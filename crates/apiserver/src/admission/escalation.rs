//! Nobody grants what they lack: the check of roles and bindings, in front of
//! their validation as upstream does it in their storage. Changes nothing.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::authz::escalation::{self, Grant};
use crate::object::Meta;

pub(super) struct Escalation;

impl Plugin for Escalation {
    fn handles(&self, request: &Request<'_>) -> bool {
        let resource = &request.resource.collection.group_resource;
        matches!(request.operation, Operation::Create | Operation::Update)
            && request.subresource.is_empty()
            && escalation::grants(&resource.group, &resource.resource)
    }

    fn mutate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a mut Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let resource = &request.resource.collection.group_resource;
            let grant = Grant {
                user: request.user,
                plural: &resource.resource,
                namespace: request.namespace,
                name: if request.operation == Operation::Create { "" } else { request.name },
                new: object,
                old: request.old,
            };
            let checked = escalation::check(&request.core.authorizer, &grant);
            checked.map_err(|refusal| refusal.status(resource, grant.new.name()))
        })
    }
}
