//! From a request to an answer: parse, authenticate, authorize, find the
//! resource, bound, and hand over to the verb. Decides nothing about objects.

use std::sync::Arc;
use std::time::Instant;

use api::status::Status;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use tokio::sync::SemaphorePermit;

use crate::access::{Attributes, Peer, UserInfo};
use crate::authn::impersonation;
use crate::pipeline::body::{RequestBody, ResponseBody};
use crate::pipeline::call::Call;
use crate::pipeline::negotiate::{self, Accept};
use crate::pipeline::{render, verbs};
use crate::request_info::{Query, RequestInfo};
use crate::state::Core;
use crate::{metrics, paths, resource_metrics};

/// Answers one request.
pub(crate) fn handle(
    core: Arc<Core>,
    request: Request<RequestBody>,
    peer: Peer,
) -> BoxFuture<'static, Response<ResponseBody>> {
    Box::pin(async move { answer(&core, request, peer).await })
}

async fn answer(core: &Arc<Core>, request: Request<RequestBody>, peer: Peer) -> Response<ResponseBody> {
    let started = Instant::now();
    let query = Query::parse(request.uri().query());
    let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
    let labels = labels(&info, &query, request.method());
    let audit = request.headers().get("audit-id").cloned();
    let head = request.method() == Method::HEAD;
    let mut response = match route(core, request, info, query, &peer).await {
        Ok(response) => response,
        Err((accept, status)) => render::error(&accept, &status),
    };
    if head {
        *response.body_mut() = crate::pipeline::body::full("");
    }
    let headers = response.headers_mut();
    let fresh = || HeaderValue::from_str(&crate::entropy::uuid()).unwrap_or(HeaderValue::from_static(""));
    headers.insert("audit-id", audit.unwrap_or_else(fresh));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some((mut labels, durations)) = labels {
        labels.code = response.status().as_u16();
        core.metrics.requests.get_or_create(&labels).inc();
        core.metrics.durations.get_or_create(&durations).observe(started.elapsed().as_secs_f64());
    }
    response
}

/// A refusal and the form in which it is told.
pub(crate) type Refusal = (Accept, Status);

async fn route(
    core: &Arc<Core>,
    request: Request<RequestBody>,
    mut info: RequestInfo,
    query: Query,
    peer: &Peer,
) -> Result<Response<ResponseBody>, Refusal> {
    let pretty = pretty(request.headers(), &query);
    let errors = negotiate::accept(request.headers(), false, true, pretty).unwrap_or(Accept { pretty, ..Accept::JSON });
    let refuse = |status: Status| (errors.clone(), status);
    let user = core.authenticator.authenticate(request.headers(), peer).await;
    let user = user.map_err(|_| refuse(Status::unauthorized()))?;
    let user = impersonation::act_as(core, request.headers(), user).map_err(refuse)?;
    name_of_selector(&mut info, &query);
    let selector = query.get("fieldSelector").unwrap_or_default();
    authorize(core, &user, &info, selector).map_err(refuse)?;
    if !info.is_resource {
        return paths::answer(core, request, &info, &query, &user).await.map_err(refuse);
    }
    if info.group == resource_metrics::GROUP && core.settings.resource_metrics {
        let _permit = admit(core, &info).map_err(refuse)?;
        let answer = resource_metrics::answer(core, &info, &query, request.method(), request.headers()).await;
        return answer.map_err(refuse);
    }
    let known = core.catalog.get(&info.group, &info.version, &info.resource).is_some();
    if !known && !core.catalog.is_built_in(&info.group) {
        // Upstream's servers hand such a path on until nobody has it.
        return Ok(paths::not_found());
    }
    let resource = find(core, &info, request.method()).map_err(refuse)?;
    let accept = negotiate::accept(request.headers(), true, !resource.custom, pretty).map_err(refuse)?;
    let _permit = admit(core, &info).map_err(refuse)?;
    let headers = request.headers().clone();
    let call = Call::new(info, query, user, resource, headers, accept);
    verbs::answer(core, call, request).await.map_err(refuse)
}

/// A place among the requests served at a time, until the permit is dropped;
/// 429 if all are taken. Watches take none, and of streams to nodes only those
/// that were asked for by GET.
fn admit<'a>(core: &'a Core, info: &RequestInfo) -> Result<Option<SemaphorePermit<'a>>, Status> {
    let gate = match info.verb.as_str() {
        "get" | "list" => &core.reads,
        "watch" => return Ok(None),
        _ if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log") => {
            return Ok(None);
        }
        _ => &core.writes,
    };
    let busy = |_| Status::too_many_requests("Too many requests, please try again later.", 1);
    gate.try_acquire().map(Some).map_err(busy)
}

/// A list or watch of one name is about that name, for authorization too.
fn name_of_selector(info: &mut RequestInfo, query: &Query) {
    if !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") || !info.name.is_empty() {
        return;
    }
    let selector = query.get("fieldSelector").unwrap_or_default();
    if let Ok(selector) = api::selector::FieldSelector::parse(selector)
        && let Some(name) = selector.exact("metadata.name")
        && !name.contains(['/', '%'])
        && !matches!(name, "." | "..")
    {
        info.selected = name.to_owned();
    }
}

/// The resource of a request, if it takes the verb.
fn find(core: &Core, info: &RequestInfo, method: &Method) -> Result<Arc<crate::resource::Resource>, Status> {
    let resource = core.catalog.get(&info.group, &info.version, &info.resource).ok_or_else(Status::no_such_resource)?;
    let collection = &resource.collection;
    if info.verb == "proxy"
        || (!collection.namespaced
            && !info.namespace.is_empty()
            && (info.resource != "namespaces" || info.name != info.namespace))
    {
        return Err(Status::no_such_resource());
    }
    if collection.namespaced && info.namespace.is_empty() && !info.name.is_empty() {
        return Err(Status::no_such_resource());
    }
    if collection.prefix.is_empty() && !info.name.is_empty() && !resource.allows("", "get") {
        return Err(Status::no_such_resource());
    }
    let part = !info.subresource.is_empty() && !resource.subresources.contains_key(&info.subresource);
    if part && resource.custom && matches!(info.subresource.as_str(), "status" | "scale") {
        return Err(Status::not_found(&collection.group_resource, &info.name));
    }
    if part {
        return Err(Status::no_such_resource());
    }
    if info.parts.len() > 3 && info.subresource != "proxy" {
        return Err(Status::no_such_resource());
    }
    let across = collection.namespaced
        && info.namespace.is_empty()
        && matches!(info.verb.as_str(), "create" | "deletecollection");
    let misplaced = match info.verb.as_str() {
        "create" => !info.name.is_empty() && info.subresource.is_empty(),
        "update" | "patch" => info.name.is_empty(),
        _ => false,
    };
    let proxy = info.subresource == "proxy";
    let verb = if proxy && *method == Method::HEAD { "get" } else { info.verb.as_str() };
    if across || misplaced || !resource.allows(&info.subresource, verb) || (*method == Method::HEAD && !proxy) {
        return Err(Status::method_not_allowed());
    }
    for (what, text) in [("Name", &info.name), ("Namespace", &info.namespace)] {
        if matches!(text.as_str(), "." | "..") {
            let message = format!("{what} parameter invalid: \"{text}\": may not be '{text}'");
            return Err(Status::bad_request(message));
        }
    }
    Ok(resource)
}

fn authorize(core: &Core, user: &UserInfo, info: &RequestInfo, selector: &str) -> Result<(), Status> {
    let mut attributes = Attributes::of(user, info, selector);
    if attributes.name.is_empty() {
        attributes.name = &info.selected;
    }
    check(core, &attributes)
}

/// Asks the authorizer; a denial is a 403 in upstream's words.
pub(crate) fn check(core: &Core, attributes: &Attributes<'_>) -> Result<(), Status> {
    let verdict = core.authorizer.verdict(attributes);
    if verdict.allowed { Ok(()) } else { Err(denied(attributes, &verdict.reason)) }
}

fn denied(attributes: &Attributes<'_>, reason: &str) -> Status {
    let user = &attributes.user.name;
    let verb = attributes.verb;
    let mut why = if attributes.is_resource {
        let resource = if attributes.subresource.is_empty() {
            attributes.resource.to_owned()
        } else {
            format!("{}/{}", attributes.resource, attributes.subresource)
        };
        let place = if attributes.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", attributes.namespace)
        };
        format!("User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}", attributes.group)
    } else {
        format!("User \"{user}\" cannot {verb} path \"{}\"", attributes.path)
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let resource =
        api::gvk::GroupResource { group: attributes.group.to_owned(), resource: attributes.resource.to_owned() };
    let mut status = Status::forbidden(&resource, attributes.name, &why);
    status.details.get_or_insert_default();
    status
}

fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.truthy("pretty");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

fn labels(
    info: &RequestInfo,
    query: &Query,
    method: &Method,
) -> Option<(metrics::RequestLabels, metrics::DurationLabels)> {
    if !info.is_resource {
        return None;
    }
    let verb = match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" if apply(query, method) => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "OTHER",
    };
    let scope = match (info.name.is_empty() && verb != "POST", info.namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    };
    let component = "apiserver";
    let dry_run = if query.get("dryRun").is_some() { "All" } else { "" };
    let (group, version, resource) = (info.group.clone(), info.version.clone(), info.resource.clone());
    let durations = metrics::DurationLabels {
        component,
        group: group.clone(),
        resource: resource.clone(),
        scope,
        verb,
        version: version.clone(),
    };
    let subresource = info.subresource.clone();
    let requests =
        metrics::RequestLabels { code: 0, component, dry_run, group, resource, scope, subresource, verb, version };
    Some((requests, durations))
}

fn apply(query: &Query, method: &Method) -> bool {
    *method == Method::PATCH && query.get("force").is_some()
}
