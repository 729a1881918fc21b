//! Subresources that are more than a part of the object, and resources that
//! are only asked, never stored.

use std::sync::Arc;

use api::status::Status;
use http::{Request, Response};

use crate::pipeline::body::{RequestBody, ResponseBody};
use crate::pipeline::call::Call;
use crate::pipeline::{render, verbs};
use crate::state::Core;

mod binding;
mod connect;
mod eviction;
mod parts;
mod scale;

pub(crate) use connect::summary;
pub(crate) use scale::Paths as ScalePaths;

/// Answers a request for a subresource other than `status`.
pub(crate) async fn answer(
    core: &Arc<Core>,
    call: Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    let group = call.resource.group().to_owned();
    let plural = call.resource.collection.group_resource.resource.clone();
    let subresource = call.info.subresource.clone();
    let result = match (group.as_str(), plural.as_str(), subresource.as_str()) {
        ("", "pods", "binding") => binding::bind(core, &call, request).await,
        ("", "pods", "eviction") => eviction::evict(core, &call, request).await,
        ("", "pods", "ephemeralcontainers") => parts::answer(core, &call, request, &parts::EPHEMERAL_CONTAINERS).await,
        ("", "pods", "resize") => parts::answer(core, &call, request, &parts::RESIZE).await,
        ("", "namespaces", "finalize") => parts::answer(core, &call, request, &parts::FINALIZE).await,
        ("certificates.k8s.io", _, "approval") => parts::answer(core, &call, request, &parts::APPROVAL).await,
        ("", "serviceaccounts", "token") => crate::tokens::request::create(core, &call, request).await,
        ("", "pods", "log" | "exec" | "attach" | "portforward" | "proxy") | ("", "nodes" | "services", "proxy") => {
            connect::connect(core, &call, request).await
        }
        (_, _, "scale") => scale::answer(core, &call, request).await,
        _ => Err(Status::method_not_allowed()),
    };
    let mut response = result.unwrap_or_else(|status| render::error(&call.accept, &status));
    verbs::add_warnings(&call, &mut response);
    Ok(response)
}

/// Answers a request for a resource that is not stored.
pub(crate) async fn virtual_resource(
    core: &Arc<Core>,
    call: Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    let result = crate::authz::reviews::answer(core, &call, request).await;
    let mut response = result.unwrap_or_else(|status| render::error(&call.accept, &status));
    verbs::add_warnings(&call, &mut response);
    Ok(response)
}
