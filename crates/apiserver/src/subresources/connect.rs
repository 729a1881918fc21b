//! Streams to nodes and pods: logs, exec, attach, port-forward and the proxies.
//! Finds where a stream goes and passes bytes; understands none of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::object::{self, Meta};
use crate::pipeline::body::{BodyError, RequestBody, ResponseBody, full};
use crate::pipeline::call::Call;
use crate::pipeline::{read, write};
use crate::state::Core;

/// Longest wait for a connection and its TLS handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// Port of a node agent that does not say which it has.
const KUBELET_PORT: u16 = 10250;

/// Longest wait for a node's summary.
const SUMMARY_WAIT: Duration = Duration::from_secs(5);
/// Longest summary, bytes; a thousand pods take about 2 MB.
const SUMMARY_LIMIT: usize = 32 << 20;

/// Headers that belong to one connection and are not passed on.
const HOP: [HeaderName; 5] =
    [header::HOST, header::AUTHORIZATION, header::TE, header::TRAILER, header::PROXY_AUTHORIZATION];

/// Where a stream goes.
struct Destination {
    host: IpAddr,
    port: u16,
    /// None for plain HTTP.
    tls: Option<Arc<rustls::ClientConfig>>,
    path_and_query: String,
}

/// Passes the request on and the answer back.
pub(super) async fn connect(
    core: &Core,
    call: &Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    let uri = request.uri().clone();
    let resource = call.resource.collection.group_resource.resource.as_str();
    let destination = match (resource, call.info.subresource.as_str()) {
        ("pods", "proxy") => pod_proxy(core, call, &uri).await?,
        ("services", "proxy") => service_proxy(core, call, &uri).await?,
        ("nodes", "proxy") => node_proxy(core, call, &uri).await?,
        _ => {
            let item = read::get(core, call, &call.info.name).await?;
            pod_stream(core, call, &write::decode(&item.entry)?, &uri).await?
        }
    };
    pass(destination, request).await
}

/// `log`, `exec`, `attach` and `portforward` of a pod, at its node's agent.
async fn pod_stream(core: &Core, call: &Call, pod: &Value, uri: &Uri) -> Result<Destination, Status> {
    let subresource = call.info.subresource.as_str();
    let name = pod.name();
    let node = object::text(pod, "spec.nodeName");
    let query = uri.query().unwrap_or_default();
    let (namespace, uid) = (pod.namespace(), pod.uid());
    let path = match subresource {
        "portforward" => format!("/portForward/{namespace}/{name}/{uid}?{query}"),
        "log" => {
            let container = container(call, pod)?;
            format!("/containerLogs/{namespace}/{name}/{container}?{}", log_query(query))
        }
        _ => {
            let container = container(call, pod)?;
            format!("/{subresource}/{namespace}/{name}/{uid}/{container}?{}", stream_query(query))
        }
    };
    if node.is_empty() {
        return Err(match subresource {
            // A pod that runs nowhere has logged nothing.
            "log" => Status::bad_request(format!(
                "container \"{}\" in pod \"{name}\" is not available",
                container(call, pod)?
            )),
            _ => Status::bad_request(format!("pod {name} does not have a host assigned")),
        });
    }
    let (host, port) = agent(core, node).await?;
    let tls = Some(kubelet_tls(core)?);
    Ok(Destination { host, port, tls, path_and_query: path })
}

/// Parameters of `exec` and `attach` as the node agent names them.
fn stream_query(query: &str) -> String {
    const NAMES: [(&str, &str); 4] = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let mut out = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match NAMES.iter().find(|(ours, _)| *ours == key) {
            Some((_, theirs)) if !matches!(value, "false" | "0") => out.push(format!("{theirs}=1")),
            Some(_) => {}
            None if key == "command" => out.push(format!("command={value}")),
            None => {}
        }
    }
    out.join("&")
}

fn log_query(query: &str) -> String {
    query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("container=")).collect::<Vec<_>>().join("&")
}

/// The container asked for, or the only one there is.
fn container(call: &Call, pod: &Value) -> Result<String, Status> {
    const DEFAULT: &str = "kubectl.kubernetes.io/default-container";
    let lists = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];
    let names = |path: &str| -> Vec<String> {
        object::items(pod, path).iter().filter_map(|one| one["name"].as_str()).map(str::to_owned).collect()
    };
    let name = pod.name();
    match call.query.get("container").filter(|asked| !asked.is_empty()) {
        Some(asked) if lists.iter().any(|path| names(path).iter().any(|one| one == asked)) => Ok(asked.to_owned()),
        Some(asked) => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        None => {
            let own = names("spec.containers");
            if let Some(default) = pod.annotation(DEFAULT).filter(|one| own.iter().any(|name| name == one)) {
                return Ok(default.to_owned());
            }
            match own.as_slice() {
                [only] => Ok(only.clone()),
                many => {
                    let mut message = format!(
                        "a container name must be specified for pod {name}, choose one of: [{}]",
                        many.join(" ")
                    );
                    let init = names("spec.initContainers");
                    if !init.is_empty() {
                        message += &format!(" or one of the init containers: [{}]", init.join(" "));
                    }
                    Err(Status::bad_request(message))
                }
            }
        }
    }
}

fn kubelet_tls(core: &Core) -> Result<Arc<rustls::ClientConfig>, Status> {
    let tls = core.settings.kubelet.clone();
    tls.ok_or_else(|| Status::unavailable("this server has no credentials for node agents"))
}

/// Address and port of a node's agent.
async fn agent(core: &Core, node: &str) -> Result<(IpAddr, u16), Status> {
    let nodes = core.collection("", "nodes")?;
    let current = write::current(core, &nodes.key("", node)).await?;
    let node_object = current.ok_or_else(|| Status::not_found(&nodes.group_resource, node))?.object;
    let port = object::at(&node_object, "status.daemonEndpoints.kubeletEndpoint.Port").as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(KUBELET_PORT);
    let addresses = object::items(&node_object, "status.addresses");
    for kind in ["InternalIP", "ExternalIP"] {
        let found = addresses.iter().find(|one| one["type"] == kind).and_then(|one| one["address"].as_str());
        if let Some(host) = found.and_then(|text| text.parse().ok()) {
            return Ok((host, port));
        }
    }
    Err(Status::internal(format!("no preferred addresses found; known addresses: [] ({node})")))
}

/// `scheme:name:port` in the name of a proxied object.
fn proxied_name(text: &str) -> (bool, &str, &str) {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => (false, name, ""),
        [name, port] => (false, name, port),
        [scheme, name, port] => (*scheme == "https", name, port),
        _ => (false, text, ""),
    }
}

/// What follows `/proxy` in the URL, with the query.
fn rest(call: &Call, uri: &Uri) -> String {
    let path = uri.path();
    let marker = format!("/{}/proxy", call.info.name);
    let after = path.find(&marker).map_or("", |at| &path[at + marker.len()..]);
    let after = if after.is_empty() { "/" } else { after };
    match uri.query() {
        Some(query) => format!("{after}?{query}"),
        None => after.to_owned(),
    }
}

async fn find(core: &Core, call: &Call, plural: &str, name: &str) -> Result<Value, Status> {
    let collection = core.collection("", plural)?;
    let namespace = if collection.namespaced { call.info.namespace.as_str() } else { "" };
    let current = write::current(core, &collection.key(namespace, name)).await?;
    current.map(|current| current.object).ok_or_else(|| Status::not_found(&collection.group_resource, name))
}

async fn pod_proxy(core: &Core, call: &Call, uri: &Uri) -> Result<Destination, Status> {
    let (_, name, port) = proxied_name(&call.info.name);
    let pod = find(core, call, "pods", name).await?;
    let ip = object::items(&pod, "status.podIPs").first().and_then(|one| one["ip"].as_str()).unwrap_or_default();
    let host = ip.parse().map_err(|_| Status::bad_request("address not allowed"))?;
    let port = if port.is_empty() {
        let ports = object::items(&pod, "spec.containers").iter().flat_map(|one| object::items(one, "ports"));
        ports.filter_map(|one| one["containerPort"].as_u64()).next().unwrap_or(80)
    } else {
        port.parse().map_err(|_| Status::bad_request(format!("invalid port {port}")))?
    };
    let port = u16::try_from(port).map_err(|_| Status::bad_request("address not allowed"))?;
    Ok(Destination { host, port, tls: None, path_and_query: rest(call, uri) })
}

async fn node_proxy(core: &Core, call: &Call, uri: &Uri) -> Result<Destination, Status> {
    let (_, name, _) = proxied_name(&call.info.name);
    let (host, port) = agent(core, name).await?;
    Ok(Destination { host, port, tls: Some(kubelet_tls(core)?), path_and_query: rest(call, uri) })
}

async fn service_proxy(core: &Core, call: &Call, uri: &Uri) -> Result<Destination, Status> {
    let (_, name, port) = proxied_name(&call.info.name);
    let service = find(core, call, "services", name).await?;
    let ports = object::items(&service, "spec.ports");
    let wanted = ports.iter().find(|one| {
        port.is_empty() || one["name"] == port || one["port"].as_u64().is_some_and(|number| number.to_string() == port)
    });
    let none = || Status::unavailable(format!("no endpoints available for service \"{name}\""));
    let wanted = wanted
        .ok_or_else(|| Status::unavailable(format!("no service port \"{port}\" found for service \"{name}\"")))?;
    let endpoints = find(core, call, "endpoints", name).await.map_err(|_| none())?;
    for subset in object::items(&endpoints, "subsets") {
        let own = object::items(subset, "ports").iter().find(|one| one["name"] == wanted["name"]);
        let addresses = object::items(subset, "addresses");
        if let (Some(own), false) = (own, addresses.is_empty()) {
            let pick = crate::entropy::below(addresses.len() as u64) as usize;
            let host = addresses[pick]["ip"].as_str().and_then(|ip| ip.parse().ok()).ok_or_else(none)?;
            let port = own["port"].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or_else(none)?;
            return Ok(Destination { host, port, tls: None, path_and_query: rest(call, uri) });
        }
    }
    Err(none())
}

/// What a node's agent says its node and pods use (`stats/v1alpha1` `Summary`).
pub(crate) async fn summary(core: &Core, node: &str) -> Result<Value, Status> {
    let (host, port) = agent(core, node).await?;
    let path_and_query = "/stats/summary".to_owned();
    let destination = Destination { host, port, tls: Some(kubelet_tls(core)?), path_and_query };
    let late = || Status::internal(format!("the agent of node {node} did not answer in {SUMMARY_WAIT:?}"));
    let answer = tokio::time::timeout(SUMMARY_WAIT, fetch(destination)).await.map_err(|_| late())?;
    serde_json::from_slice(&answer?)
        .map_err(|error| Status::internal(format!("the agent of node {node} answered no JSON: {error}")))
}

/// The body of a successful answer.
async fn fetch(destination: Destination) -> Result<Vec<u8>, Status> {
    let response = pass(destination, Request::new(full(""))).await?;
    let code = response.status();
    if !code.is_success() {
        return Err(Status::internal(format!("a node agent answered {code}")));
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::internal(format!("a node agent's answer broke off: {error}")))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > SUMMARY_LIMIT {
            return Err(Status::internal(format!("a node agent's answer has over {SUMMARY_LIMIT} bytes")));
        }
    }
    Ok(bytes)
}

/// Connects, sends the request and hands out the answer; an upgraded
/// connection is spliced.
async fn pass(destination: Destination, mut request: Request<RequestBody>) -> Result<Response<ResponseBody>, Status> {
    let address = std::net::SocketAddr::new(destination.host, destination.port);
    let failed = |error: &dyn std::fmt::Display| {
        Status::internal(format!("error dialing backend: dial tcp {address}: connect: {error}"))
    };
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&"connection timed out")),
    };
    drop(stream.set_nodelay(true));
    let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let outgoing = outgoing(&destination, request, address)?;
    match destination.tls {
        None => exchange(stream, outgoing, upgrade, &failed).await,
        Some(tls) => {
            let name = ServerName::IpAddress(destination.host.into());
            let handshake = TlsConnector::from(tls).connect(name, stream);
            let stream = match tokio::time::timeout(CONNECT, handshake).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(failed(&error)),
                Err(_) => return Err(failed(&"TLS handshake timed out")),
            };
            exchange(stream, outgoing, upgrade, &failed).await
        }
    }
}

fn outgoing(
    destination: &Destination,
    request: Request<RequestBody>,
    address: std::net::SocketAddr,
) -> Result<Request<RequestBody>, Status> {
    let (parts, body) = request.into_parts();
    let uri: Uri = destination.path_and_query.parse().map_err(|_| Status::bad_request("invalid path"))?;
    // HTTP/2 clients upgrade by an extended CONNECT; node agents know GET.
    let method = if parts.method == Method::CONNECT { Method::GET } else { parts.method };
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = method;
    *outgoing.uri_mut() = uri;
    let mut headers: HeaderMap = parts.headers;
    for name in HOP {
        headers.remove(name);
    }
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    let host = address.to_string().parse().map_err(|_| Status::bad_request("invalid host"))?;
    headers.insert(header::HOST, host);
    *outgoing.headers_mut() = headers;
    Ok(outgoing)
}

async fn exchange<S>(
    stream: S,
    request: Request<RequestBody>,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    failed: &(dyn Fn(&dyn std::fmt::Display) -> Status + Sync),
) -> Result<Response<ResponseBody>, Status>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    // The connection lives as long as the answer's body, or the upgraded
    // stream, which hold its other end; it ends by itself when they are dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(err = %error, "connection to a backend ended early");
        }
    });
    let mut response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(|error| Box::new(error) as BodyError).boxed_unsync()));
    }
    let Some(client) = upgrade else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let backend = hyper::upgrade::on(&mut response);
    let (parts, _) = response.into_parts();
    // Owned by the two connections: when either ends, the copy does.
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
                    tracing::debug!(err = %error, "a stream ended early");
                }
            }
            Err(error) => tracing::debug!(err = %error, "a stream was not taken up"),
        }
    });
    Ok(Response::from_parts(parts, full("")))
}
