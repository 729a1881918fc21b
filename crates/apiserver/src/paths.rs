//! Paths that are about no resource: health, version, metrics, discovery and
//! OpenAPI. What they say about kinds comes from the catalogue.

use std::sync::Arc;

use api::status::Status;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use serde_json::{Value, json};

use crate::access::UserInfo;
use crate::pipeline::body::{RequestBody, ResponseBody};
use crate::pipeline::negotiate;
use crate::pipeline::render;
use crate::request_info::{Query, RequestInfo};
use crate::state::Core;
use crate::{discovery, openapi};

/// Answers a request for a path.
pub(crate) async fn answer(
    core: &Arc<Core>,
    request: Request<RequestBody>,
    info: &RequestInfo,
    query: &Query,
    _user: &UserInfo,
) -> Result<Response<ResponseBody>, Status> {
    let path = info.path.trim_end_matches('/');
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "healthz" | "livez" | "readyz" => Ok(health(core, path, query).await),
        "version" if path == "/version" => {
            only_get(request.method())?;
            Ok(json_answer(&version()))
        }
        "metrics" if path == "/metrics" => {
            only_get(request.method())?;
            Ok(render::respond(200, "text/plain; version=0.0.4; charset=utf-8", core.metrics.text()))
        }
        "openid" | ".well-known" if let Some(answer) = crate::tokens::issuer::answer(core, path) => {
            only_get(request.method())?;
            Ok(answer)
        }
        "openapi" => Ok(openapi(core, request.method(), request.headers(), path, query)),
        "api" | "apis" => discovery(core, request.method(), request.headers(), path, query),
        "" => {
            only_get(request.method())?;
            Ok(json_answer(&json!({"paths": root_paths(core)})))
        }
        _ => Ok(not_found()),
    }
}

/// A path that nobody has.
pub(crate) fn not_found() -> Response<ResponseBody> {
    let mut response = render::respond(404, "text/plain; charset=utf-8", "404 page not found\n");
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn only_get(method: &Method) -> Result<(), Status> {
    if *method == Method::GET { Ok(()) } else { Err(Status::method_not_allowed()) }
}

fn json_answer(value: &Value) -> Response<ResponseBody> {
    render::value(&negotiate::Accept::JSON, 200, value)
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.2+darter.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

/// What is looked at, by path. Each check is one word of `/readyz/<check>`.
const CHECKS: [&str; 4] = ["ping", "log", "etcd", "poststarthook/start-apiextensions-controllers"];

async fn health(core: &Core, path: &str, query: &Query) -> Response<ResponseBody> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let endpoint = parts.next().unwrap_or_default();
    let only = parts.next();
    if let Some(only) = only
        && !CHECKS.contains(&only)
    {
        return not_found();
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let unknown: Vec<&&str> = excluded.iter().filter(|check| !CHECKS.contains(check)).collect();
    let mut lines = String::new();
    let mut failed = false;
    for check in CHECKS.iter().filter(|check| only.is_none_or(|only| only == **check)) {
        if excluded.contains(check) {
            lines += &format!("[+]{check} excluded: ok\n");
            continue;
        }
        let well = *check != "etcd" || core.store.current().await.is_ok();
        if well {
            lines += &format!("[+]{check} ok\n");
        } else {
            lines += &format!("[-]{check} failed: reason withheld\n");
            failed = true;
        }
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("\"{name}\"")).collect();
        lines += &format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(", "));
    }
    let (code, body) = match (failed, query.get("verbose").is_some()) {
        (true, _) => (500, format!("{lines}{endpoint} check failed\n")),
        (false, true) => (200, format!("{lines}{endpoint} check passed\n")),
        (false, false) => (200, "ok".to_owned()),
    };
    let mut response = render::respond(code, "text/plain; charset=utf-8", body);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn root_paths(core: &Core) -> Vec<String> {
    let mut paths: Vec<String> = vec!["/api".to_owned()];
    for group in core.catalog.served().groups() {
        if group.name.is_empty() {
            paths.extend(group.versions.iter().map(|version| format!("/api/{}", version.name)));
            paths.push("/apis".to_owned());
        } else {
            paths.push(format!("/apis/{}", group.name));
            paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{}", group.name, version.name)));
        }
    }
    for path in ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"] {
        paths.push(path.to_owned());
    }
    for endpoint in ["healthz", "livez", "readyz"] {
        paths.extend(CHECKS.iter().map(|check| format!("/{endpoint}/{check}")));
    }
    paths.sort();
    paths
}

const JSON: &str = "application/json";
/// The media type of OpenAPI v2 in protobuf, and the name that it had before,
/// which clients still ask for.
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const OPENAPI_V2_PROTOBUF_BEFORE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// OpenAPI. Upstream answers every method on `/openapi/v2`. Version 3 is JSON
/// only: no client asks for another form.
fn openapi(core: &Core, method: &Method, headers: &HeaderMap, path: &str, query: &Query) -> Response<ResponseBody> {
    let served = core.catalog.served();
    match path {
        "/openapi/v2" => match openapi_v2_form(headers) {
            Some(JSON) => document_answer(core.documents.v2(&served), JSON, headers),
            Some(form) => document_answer(core.documents.v2_protobuf(&served), form, headers),
            None => {
                let mut response = render::respond(406, JSON, Bytes::new());
                response.headers_mut().remove(header::CONTENT_TYPE);
                response
            }
        },
        _ if *method != Method::GET => not_found(),
        "/openapi/v3" => document_answer(openapi::v3_index(&served), "text/plain; charset=utf-8", headers),
        _ => {
            let name = path.trim_start_matches("/openapi/v3/");
            let Some(document) = core.documents.v3(&served, name) else { return not_found() };
            // A client that asks for content that is gone is sent to the present one.
            if query.get("hash").is_some_and(|hash| hash != document.etag) {
                let mut response = render::respond(301, "text/plain; charset=utf-8", Bytes::new());
                let location = format!("/openapi/v3/{name}?hash={}", document.etag);
                if let Ok(location) = HeaderValue::from_str(&location) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                return response;
            }
            document_answer(document, JSON, headers)
        }
    }
}

/// The first media range that can be answered decides.
fn openapi_v2_form(headers: &HeaderMap) -> Option<&'static str> {
    let header = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let weight = |range: &str| {
        let quality = range.split(';').find_map(|part| part.trim().strip_prefix("q="));
        quality.and_then(|text| text.trim().parse().ok()).unwrap_or(1.0_f32)
    };
    let mut ranges: Vec<&str> = header.split(',').collect();
    ranges.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    ranges.iter().find_map(|range| match range.split(';').next().unwrap_or_default().trim() {
        JSON | "application/*" | "*/*" | "*" | "" => Some(JSON),
        OPENAPI_V2_PROTOBUF | OPENAPI_V2_PROTOBUF_BEFORE => Some(OPENAPI_V2_PROTOBUF),
        _ => None,
    })
}

/// Discovery: plain, or aggregated where the client asks for it.
fn discovery(
    core: &Core,
    method: &Method,
    headers: &HeaderMap,
    path: &str,
    query: &Query,
) -> Result<Response<ResponseBody>, Status> {
    let served = core.catalog.served();
    let parts: Vec<&str> = path.trim_matches('/').split('/').filter(|part| !part.is_empty()).collect();
    // Upstream answers every method on /apis.
    if parts != ["apis"] {
        only_get(method)?;
    }
    if let (["api"] | ["apis"], Some((form, content_type))) = (parts.as_slice(), aggregated_form(headers)) {
        let document = discovery::aggregated(&served, parts == ["api"], form);
        return Ok(document_answer(document, content_type, headers));
    }
    let document = match parts.as_slice() {
        ["api"] => Some(discovery::api_versions(&server_address(core))),
        ["apis"] => Some(discovery::api_group_list(&served)),
        ["apis", group] => discovery::api_group(&served, group),
        ["api", version] => discovery::api_resource_list(&served, "", version),
        ["apis", group, version] => discovery::api_resource_list(&served, group, version),
        _ => None,
    };
    let document = match (document, parts.as_slice()) {
        (Some(document), _) => document,
        (None, ["apis", group, ..]) if !core.catalog.is_built_in(group) => return Ok(not_found()),
        (None, _) => return Err(Status::no_such_resource()),
    };
    let accept = negotiate::accept(headers, false, false, query.truthy("pretty")).unwrap_or(negotiate::Accept::JSON);
    if accept.encoding == negotiate::Encoding::Json && !accept.pretty {
        return Ok(render::respond(200, "application/json", document.body));
    }
    let tree: Value = serde_json::from_slice(&document.body).unwrap_or_default();
    Ok(render::value(&accept, 200, &tree))
}

const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// The first media range decides: aggregated in a version, or plain.
fn aggregated_form(headers: &HeaderMap) -> Option<(discovery::Aggregated, &'static str)> {
    let header = headers.get(header::ACCEPT)?.to_str().ok()?;
    for range in header.split(',') {
        let mut parts = range.split(';').map(str::trim);
        if parts.next() != Some("application/json") {
            continue;
        }
        let parameters: Vec<&str> = parts.filter(|one| !one.starts_with("q=")).collect();
        if parameters.is_empty() {
            return None;
        }
        let has = |parameter: &str| parameters.contains(&parameter);
        if has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList") {
            if has("v=v2") {
                return Some((discovery::Aggregated::V2, AGGREGATED_V2));
            }
            if has("v=v2beta1") {
                return Some((discovery::Aggregated::V2Beta1, AGGREGATED_V2BETA1));
            }
        }
    }
    None
}

/// A document with its validator; 304 if the client has it.
fn document_answer(
    document: discovery::Document,
    content_type: &'static str,
    headers: &HeaderMap,
) -> Response<ResponseBody> {
    let etag = format!("\"{}\"", document.etag);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(etag.as_str());
    let mut response = if known {
        render::respond(304, content_type, Bytes::new())
    } else {
        render::respond(200, content_type, document.body)
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

fn server_address(core: &Core) -> String {
    let (address, port) = core.settings.advertise;
    std::net::SocketAddr::new(address, port).to_string()
}
