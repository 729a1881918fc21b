//! Paths that are about no resource: health, version, metrics, discovery and
//! OpenAPI. What they say about kinds comes from the catalogue.

use std::sync::Arc;

use api::status::Status;
use http::{HeaderValue, Method, Request, Response};
use serde_json::{Value, json};

use crate::access::UserInfo;
use crate::pipeline::body::{RequestBody, ResponseBody};
use crate::pipeline::negotiate;
use crate::pipeline::render;
use crate::request_info::{Query, RequestInfo};
use crate::state::Core;

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
        "api" | "apis" | "openapi" | "openid" | ".well-known" | "" => {
            let accept = negotiate::accept(request.headers(), false, false, query.truthy("pretty"))
                .unwrap_or(negotiate::Accept::JSON);
            discovery(core, request.method(), path, &accept)
        }
        _ => Ok(not_found()),
    }
}

fn not_found() -> Response<ResponseBody> {
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

/// Plain discovery of groups and resources.
fn discovery(core: &Core, method: &Method, path: &str, accept: &negotiate::Accept) -> Result<Response<ResponseBody>, Status> {
    only_get(method)?;
    let parts: Vec<&str> = path.trim_matches('/').split('/').filter(|part| !part.is_empty()).collect();
    let snapshot = core.catalog.snapshot();
    let tree = match parts.as_slice() {
        [] => json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address(core)}],
        }),
        ["apis"] => {
            let mut groups: Vec<(String, Vec<String>)> = Vec::new();
            for (group, version, _) in snapshot.keys().filter(|(group, _, _)| !group.is_empty()) {
                match groups.iter_mut().find(|(name, _)| name == group) {
                    Some((_, versions)) if versions.contains(version) => {}
                    Some((_, versions)) => versions.push(version.clone()),
                    None => groups.push((group.clone(), vec![version.clone()])),
                }
            }
            let groups: Vec<Value> = groups.iter().map(|(name, versions)| group(name, versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] => {
            let mut versions: Vec<String> = Vec::new();
            for (_, version, _) in snapshot.keys().filter(|(group, _, _)| group == name) {
                if !versions.contains(version) {
                    versions.push(version.clone());
                }
            }
            if versions.is_empty() {
                return Err(Status::no_such_resource());
            }
            let mut tree = group(name, &versions);
            tree["kind"] = "APIGroup".into();
            tree["apiVersion"] = "v1".into();
            tree
        }
        ["api", version] if core.catalog.serves("", version) => resources(core, "", version),
        ["apis", group, version] if core.catalog.serves(group, version) => resources(core, group, version),
        _ => return Err(Status::no_such_resource()),
    };
    Ok(render::value(accept, 200, &tree))
}

fn server_address(core: &Core) -> String {
    let (address, port) = core.settings.advertise;
    std::net::SocketAddr::new(address, port).to_string()
}

fn group(name: &str, versions: &[String]) -> Value {
    let mut sorted: Vec<&String> = versions.iter().collect();
    sorted.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
    let entry = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({
        "name": name,
        "versions": sorted.iter().map(|version| entry(version)).collect::<Vec<_>>(),
        "preferredVersion": sorted.first().map(|version| entry(version)),
    })
}

/// Order of versions: stable before beta before alpha, then by number.
pub(crate) fn version_rank(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or_default();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..digits].parse::<u32>() else { return (0, 0, 0) };
    let tail = &rest[digits..];
    if tail.is_empty() {
        return (3, major, 0);
    }
    match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
        (Some(minor), _) => (2, major, minor.parse().unwrap_or(0)),
        (_, Some(minor)) => (1, major, minor.parse().unwrap_or(0)),
        _ => (0, 0, 0),
    }
}

fn resources(core: &Core, group: &str, version: &str) -> Value {
    let snapshot = core.catalog.snapshot();
    let mut list = Vec::new();
    for resource in snapshot.values().filter(|one| one.group() == group && one.version == version) {
        let collection = &resource.collection;
        let plural = &collection.group_resource.resource;
        let mut entry = json!({
            "name": plural,
            "singularName": collection.singular,
            "namespaced": collection.namespaced,
            "kind": collection.kind,
            "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for (subresource, verbs) in &resource.subresources {
            list.push(json!({
                "name": format!("{plural}/{subresource}"),
                "singularName": "",
                "namespaced": collection.namespaced,
                "kind": collection.kind,
                "verbs": verbs,
            }));
        }
    }
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": list})
}
