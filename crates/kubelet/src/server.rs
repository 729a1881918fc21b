//! The node's HTTP API on port 10250: pods, logs, exec, attach, port-forward,
//! figures. HTTPS only, every request authenticated and authorized. It looks
//! things up in [`NodeApi`] and changes nothing itself.

#![allow(clippy::result_large_err, reason = "a refusal is a response like any other")]

mod access;
mod figures;
mod log;
mod remote;
mod spdy;
mod streams;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::error::Chain;
use api::types::api::core::v1::{ContainerStatus as PodContainerStatus, Pod};
use bytes::Bytes;
use containers::runtime::{ContainerId, ContainerState, RuntimeError};
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node_api::NodeApi;
use crate::spec;

use self::access::{Access, Refusal, User};
use self::figures::{Figures, Rates};
use self::log::{Life, Selection};
use self::remote::Wants;
use self::websocket::Protocol;

/// Connections at the same time; each follower of a log is one.
const CONNECTIONS: usize = 1000;
/// A client that does not finish its handshake or request head in this time is
/// let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pieces of a log that wait for a slow client.
const LOG_PIECES: usize = 8;
/// Longest a `/run` command may take.
const RUN_LIMIT: Duration = Duration::from_secs(120);
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Query = Vec<(String, String)>;

/// What the server needs besides the agent.
pub struct NodeServerConfig {
    /// Its certificate, leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The certificate's key.
    pub key: PrivateKeyDer<'static>,
    /// Authorities whose client certificates name users; without any, only
    /// tokens do.
    pub client_authorities: Vec<CertificateDer<'static>>,
}

/// Why the server cannot start.
#[derive(thiserror::Error, Debug)]
pub enum NodeServerError {
    /// The certificates or the key are unusable.
    #[error("the node's certificates are unusable")]
    Certificates(#[source] rustls::Error),
    /// The client authorities are unusable.
    #[error("the client authorities are unusable")]
    Authorities(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The node's HTTP API, with its socket open.
pub struct NodeServer {
    core: Arc<Core>,
    listener: TcpListener,
    tls: TlsAcceptor,
}

struct Core {
    node: NodeApi,
    access: Access,
    rates: Rates,
    /// Upgraded connections outlive their requests.
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl NodeServer {
    /// Serves on a socket that is open already: its port is in the node's
    /// status before the first request. `client` must be allowed to create
    /// token and access reviews.
    pub fn new(
        node: NodeApi,
        client: client::Client,
        listener: TcpListener,
        config: NodeServerConfig,
    ) -> Result<Self, NodeServerError> {
        let tls = tls(&config)?;
        let access = Access::new(client, node.config().node_name.clone());
        let core = Core {
            node,
            access,
            rates: Rates::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Ok(Self { core: Arc::new(core), listener, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`; then ends all connections.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { core, listener, tls } = self;
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accept = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (serving, tls) = (core.clone(), tls.clone());
                    core.tasks.spawn(async move {
                        serving.connection(stream, peer, tls).await;
                        drop(slot);
                    });
                }
                Err(error) => tracing::warn!(err = %error, "accepting a connection failed"),
            }
        }
        core.shutdown.cancel();
        core.tasks.close();
        core.tasks.wait().await;
    }
}

fn tls(config: &NodeServerConfig) -> Result<TlsAcceptor, NodeServerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(NodeServerError::Certificates)?;
    let builder = if config.client_authorities.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for authority in &config.client_authorities {
            roots.add(authority.clone()).map_err(|error| NodeServerError::Authorities(error.into()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            // Tokens are another way in; who has neither is refused later.
            .allow_unauthenticated()
            .build()
            .map_err(|error| NodeServerError::Authorities(error.into()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut server = builder
        .with_single_cert(config.certificates.clone(), config.key.clone_key())
        .map_err(NodeServerError::Certificates)?;
    // Upgrades are a matter of HTTP/1.1.
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

impl Core {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor) {
        let work = async {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%peer, err = %error, "a connection gets no small packets at once");
            }
            let stream = match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%peer, err = %error, "a TLS handshake failed"),
                Err(_) => return tracing::debug!(%peer, "a TLS handshake took too long"),
            };
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let user = certificate.and_then(|certificate| access::user_of_certificate(certificate));
            let service = service_fn(|request| {
                let (core, user) = (self.clone(), user.clone());
                async move { Ok::<_, std::convert::Infallible>(core.answer(request, user).await) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = serving.await {
                tracing::debug!(%peer, err = %Chain(&error), "a connection broke");
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = work => {}
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, certified: Option<User>) -> Response<Body> {
        match self.allowed(&request, certified).await {
            Ok(()) => self.route(request).await.unwrap_or_else(|refusal| refusal),
            Err(Refusal::Unauthenticated) => text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Err(Refusal::Forbidden(message)) => text(StatusCode::FORBIDDEN, message),
            Err(Refusal::Unknown(error)) => {
                tracing::warn!(err = %Chain(&error), "cannot ask the API server who may use the node");
                text(StatusCode::INTERNAL_SERVER_ERROR, "Authorization error")
            }
        }
    }

    async fn allowed(&self, request: &Request<Incoming>, certified: Option<User>) -> Result<(), Refusal> {
        let user = match certified {
            Some(user) => user,
            None => {
                let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                let token = header.and_then(|value| value.split_once(' ')).and_then(|(scheme, token)| {
                    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
                });
                self.access.user_of_token(token.ok_or(Refusal::Unauthenticated)?).await?
            }
        };
        let wanted = access::subresources(request.uri().path());
        self.access.check(&user, request.method(), wanted).await
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Response<Body>> {
        let path = request.uri().path().trim_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let query = parse_query(request.uri().query().unwrap_or_default());
        let method = request.method().clone();
        match (parts.as_slice(), &method) {
            (["healthz", ..], _) => Ok(text(StatusCode::OK, "ok")),
            (["pods"], &Method::GET) => Ok(self.pods(false)),
            (["runningpods"], &Method::GET) => Ok(self.pods(true)),
            (["configz"], &Method::GET) => Ok(self.configuration()),
            (["stats", "summary"], _) => Ok(json_response(&Figures::measure(&self.node).await.summary(&self.rates))),
            (["metrics", rest @ ..], &Method::GET) => self.metrics(rest).await,
            (["containerLogs", namespace, pod, container], &Method::GET) => {
                self.logs(namespace, pod, container, &query).await
            }
            (["exec", namespace, pod, rest @ ..], &(Method::GET | Method::POST)) => {
                let (pod, container) = self.find(namespace, pod, rest)?;
                self.command(request, &query, pod, &container, true).await
            }
            (["attach", namespace, pod, rest @ ..], &(Method::GET | Method::POST)) => {
                let (pod, container) = self.find(namespace, pod, rest)?;
                self.command(request, &query, pod, &container, false).await
            }
            (["portForward", namespace, pod, ..], &(Method::GET | Method::POST)) => {
                let pod = self.pod(namespace, pod)?;
                self.port_forward(request, &query, pod).await
            }
            (["run", namespace, pod, rest @ ..], &Method::POST) => {
                let (pod, container) = self.find(namespace, pod, rest)?;
                self.run(&query, &pod, &container).await
            }
            _ => Err(text(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Response<Body>> {
        self.node.pod(namespace, name).ok_or_else(|| text(StatusCode::NOT_FOUND, "pod does not exist"))
    }

    /// The pod and container of `[uid/]container`.
    fn find(&self, namespace: &str, pod: &str, rest: &[&str]) -> Result<(Arc<Pod>, String), Response<Body>> {
        let pod = self.pod(namespace, pod)?;
        match rest {
            [container] => Ok((pod, (*container).to_owned())),
            [uid, container] if *uid == spec::uid(&pod) => Ok((pod, (*container).to_owned())),
            _ => Err(text(StatusCode::NOT_FOUND, "pod does not exist")),
        }
    }

    fn pods(&self, running: bool) -> Response<Body> {
        let pods = self.node.pods();
        let is_running = |pod: &&Arc<Pod>| spec::status(pod).phase.as_deref() == Some("Running");
        let items: Vec<_> = pods.iter().filter(|pod| !running || is_running(pod)).map(|pod| &**pod).collect();
        let items = serde_json::to_value(items).unwrap_or_default();
        json_response(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn configuration(&self) -> Response<Body> {
        let config = self.node.config();
        json_response(&json!({"kubeletconfig": {
            "enableServer": true,
            "address": config.listen.ip(), "port": config.listen.port(),
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
            "authorization": {"mode": "Webhook"},
            "clusterDomain": config.cluster_domain, "clusterDNS": config.cluster_dns,
            "maxPods": config.max_pods, "resolvConf": config.resolv_conf,
            "imageGCHighThresholdPercent": config.image_gc_high_percent,
            "imageGCLowThresholdPercent": config.image_gc_low_percent,
        }}))
    }

    async fn metrics(&self, which: &[&str]) -> Result<Response<Body>, Response<Body>> {
        let figures = Figures::measure(&self.node).await;
        let metrics = match which {
            [] => figures.own_metrics(self.node.pods().len()) + &self.node.sleep().metrics().render(),
            ["resource"] => figures.resource_metrics(),
            ["cadvisor"] => figures.cadvisor_metrics(),
            ["probes"] => String::new(),
            _ => return Err(text(StatusCode::NOT_FOUND, "404 page not found")),
        };
        let mut response = text(StatusCode::OK, metrics);
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }

    async fn run(&self, query: &Query, pod: &Pod, container: &str) -> Result<Response<Body>, Response<Body>> {
        let id = self.running(pod, container).await?;
        let _awake = self.node.awake(spec::uid(pod));
        let command = query.iter().find(|(name, _)| name == "cmd").map_or("", |(_, value)| value.as_str());
        let command = command.split(' ').map(str::to_owned).collect();
        match self.node.runtime().exec_sync(&id, command, Some(RUN_LIMIT)).await {
            Ok(output) => Ok(bytes(StatusCode::OK, [output.stdout, output.stderr].concat().into())),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The running container of this name.
    async fn running(&self, pod: &Pod, container: &str) -> Result<ContainerId, Response<Body>> {
        let missing = || text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")"));
        let id = self.node.container_id(pod, container, false).ok_or_else(missing)?;
        match self.node.runtime().container(&id).await {
            Ok(status) if matches!(status.state, ContainerState::Running { .. }) => Ok(id),
            _ => Err(missing()),
        }
    }

    async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Response<Body>> {
        let pod = self
            .node
            .pod(namespace, pod)
            .ok_or_else(|| text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist")))?;
        if spec::find(&pod, container).is_none() {
            let message = format!("container \"{container}\" not found in pod \"{}\"", spec::full_name(&pod));
            return Err(text(StatusCode::NOT_FOUND, message));
        }
        let selection = Selection::parse(query, Timestamp::now())
            .map_err(|message| text(StatusCode::UNPROCESSABLE_ENTITY, message))?;
        // Before the state is read, so that an end in between is seen.
        let events = self.node.runtime().events();
        let (id, run) = log_of(&self.node, &pod, container, selection.previous)
            .map_err(|message| text(StatusCode::BAD_REQUEST, message))?;
        let known = self.node.runtime().container(&id).await.ok();
        let ended = known.as_ref().is_none_or(|status| !matches!(status.state, ContainerState::Running { .. }));
        let path = match known.map(|status| status.log_path) {
            Some(path) if !path.as_os_str().is_empty() => path,
            _ => self.node.log_path(&pod, container, run),
        };
        if !tokio::fs::try_exists(&path).await.unwrap_or(false) {
            let message = format!("failed to try resolving symlinks in path \"{}\": no such file", path.display());
            return Err(text(StatusCode::NOT_FOUND, message));
        }
        let (sender, mut pieces) = mpsc::channel(LOG_PIECES);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let life = Life { id, ended, events };
            let serving = log::serve(&path, &selection, life, sender);
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = serving => if let Err(error) = result {
                    tracing::warn!(path = %path.display(), err = %error, "a log could not be read to its end");
                }
            }
        });
        let stream = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
        let body = StreamBody::new(stream.map(|piece| Ok(Frame::data(piece))));
        let mut response = Response::new(BodyExt::boxed_unsync(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    async fn command(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        query: &Query,
        pod: Arc<Pod>,
        container: &str,
        exec: bool,
    ) -> Result<Response<Body>, Response<Body>> {
        let Some(wants) = Wants::parse(query) else {
            let message = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(text(StatusCode::BAD_REQUEST, message));
        };
        if exec && wants.command.is_empty() {
            return Err(text(StatusCode::BAD_REQUEST, "you must specify at least one command"));
        }
        let id = self.running(&pod, container).await?;
        let (response, kind) = Upgrade::for_command(request.headers())?;
        let upgrade = hyper::upgrade::on(&mut request);
        let awake = self.node.awake(spec::uid(&pod));
        let core = self.clone();
        self.upgraded("command", async move {
            let io = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
            let (remote, transport) = remote::pair();
            let running = async {
                let request = wants.request();
                let runtime = core.node.runtime();
                let session = if exec { runtime.exec(&id, request).await } else { runtime.attach(&id, request).await };
                remote::run(session, remote).await;
            };
            let carrying = async {
                match kind {
                    Upgrade::WebSocket(protocol) => {
                        let socket = websocket::accept(io).await;
                        websocket::command(socket, protocol, &wants, transport).await.map_err(io::Error::other)
                    }
                    Upgrade::Spdy(protocol) => streams::command(io, protocol, &wants, transport).await,
                    Upgrade::Tunnel => Ok(()),
                }
            };
            let (result, ()) = tokio::join!(carrying, running);
            drop(awake);
            result
        });
        Ok(response)
    }

    async fn port_forward(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        query: &Query,
        pod: Arc<Pod>,
    ) -> Result<Response<Body>, Response<Body>> {
        let Some(sandbox) = self.node.sandbox(spec::uid(&pod)).await else {
            let message = format!("pod not found (\"{}\")", spec::full_name(&pod));
            return Err(text(StatusCode::INTERNAL_SERVER_ERROR, message));
        };
        let (response, kind) = Upgrade::for_ports(request.headers())?;
        let ports = query
            .iter()
            .filter(|(name, _)| name == "port" || name == "ports")
            .flat_map(|(_, value)| value.split(','))
            .map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(port))
            .collect::<Result<Vec<u16>, _>>()
            .map_err(|port| text(StatusCode::BAD_REQUEST, format!("invalid port: {port}")))?;
        if ports.is_empty() && matches!(kind, Upgrade::WebSocket(_)) {
            return Err(text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required"));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let awake = self.node.awake(spec::uid(&pod));
        let node = self.node.clone();
        self.upgraded("port-forward", async move {
            let io = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
            let pod_uid = spec::uid(&pod).to_owned();
            let connect = move |port: u16| {
                let (node, sandbox, pod_uid) = (node.clone(), sandbox.clone(), pod_uid.clone());
                async move {
                    node.runtime().port_forward(&sandbox, port).await.map_err(|error| {
                        format!("error forwarding port {port} to pod {pod_uid}, uid : {}", Chain(&error))
                    })
                }
            };
            let result = match kind {
                Upgrade::WebSocket(protocol) => {
                    let socket = websocket::accept(io).await;
                    websocket::ports(socket, protocol, &ports, connect).await.map_err(io::Error::other)
                }
                Upgrade::Spdy(_) => streams::ports(io, connect).await,
                Upgrade::Tunnel => {
                    let (inner, work) = websocket::tunnel(websocket::accept(io).await);
                    let (result, carried) = tokio::join!(streams::ports(inner, connect), work);
                    result.and(carried.map_err(io::Error::other))
                }
            };
            drop(awake);
            result
        });
        Ok(response)
    }

    /// Runs what follows an upgrade until it is done or the server ends.
    fn upgraded(&self, what: &'static str, work: impl Future<Output = io::Result<()>> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = work => if let Err(error) = result {
                    tracing::debug!(what, err = %Chain(&error), "a stream broke");
                }
            }
        });
    }
}

/// The run whose log is meant: container id and number of the run; or why there
/// is none, in upstream's words (`validateContainerLogStatus`).
fn log_of(node: &NodeApi, pod: &Pod, container: &str, previous: bool) -> Result<(ContainerId, i32), String> {
    let status = spec::status(pod);
    let found: Option<&PodContainerStatus> =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
            .into_iter()
            .flat_map(|list| list.iter().flatten())
            .find(|status| status.name == container);
    let name = spec::name(pod);
    let Some(found) = found else {
        return Err(format!("container \"{container}\" in pod \"{name}\" is not available"));
    };
    if previous {
        let id = node.container_id(pod, container, true);
        let missing = || format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
        return id.map(|id| (id, found.restart_count - 1)).ok_or_else(missing);
    }
    if let Some(id) = node.container_id(pod, container, false) {
        return Ok((id, found.restart_count));
    }
    let state = found.state.as_ref();
    if let Some(id) = node.container_id(pod, container, true) {
        return Ok((id, found.restart_count));
    }
    let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
    Err(match waiting.as_deref() {
        Some("ErrImagePull") => {
            format!("container \"{container}\" in pod \"{name}\" is waiting to start: image can't be pulled")
        }
        Some("ImagePullBackOff") => {
            format!("container \"{container}\" in pod \"{name}\" is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"),
        None => format!("container \"{container}\" in pod \"{name}\" is waiting to start - no logs yet"),
    })
}

/// How streams travel after an upgrade.
enum Upgrade {
    WebSocket(Protocol),
    Spdy(&'static str),
    /// A whole SPDY connection inside a WebSocket.
    Tunnel,
}

fn offered(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    let value = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.eq_ignore_ascii_case(protocol))
}

impl Upgrade {
    fn for_command(headers: &HeaderMap) -> Result<(Response<Body>, Self), Response<Body>> {
        if asks_for(headers, "websocket") {
            let offered = offered(headers, &SEC_WEBSOCKET_PROTOCOL);
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            let protocol = Protocol::choose(&offered).ok_or_else(|| unknown(&offered))?;
            return Ok((switch_to_websocket(headers, protocol.name)?, Self::WebSocket(protocol)));
        }
        if asks_for(headers, SPDY) {
            let offered = offered(headers, &PROTOCOL_VERSION);
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            let protocol = streams::choose(&offered).ok_or_else(|| unknown(&offered))?;
            return Ok((switch_to_spdy(protocol), Self::Spdy(protocol)));
        }
        Err(text(StatusCode::BAD_REQUEST, "Upgrade request required"))
    }

    fn for_ports(headers: &HeaderMap) -> Result<(Response<Body>, Self), Response<Body>> {
        if asks_for(headers, "websocket") {
            let offered = offered(headers, &SEC_WEBSOCKET_PROTOCOL);
            if offered.iter().any(|name| name == websocket::TUNNEL_PROTOCOL) {
                return Ok((switch_to_websocket(headers, websocket::TUNNEL_PROTOCOL)?, Self::Tunnel));
            }
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            let protocol = Protocol::choose(&offered).ok_or_else(|| unknown(&offered))?;
            return Ok((switch_to_websocket(headers, protocol.name)?, Self::WebSocket(protocol)));
        }
        if asks_for(headers, SPDY) {
            let offered = offered(headers, &PROTOCOL_VERSION);
            if !offered.is_empty() && !offered.iter().any(|name| name == streams::PORT_FORWARD_PROTOCOL) {
                let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
                return Err(unknown(&offered));
            }
            let protocol = streams::PORT_FORWARD_PROTOCOL;
            return Ok((switch_to_spdy(protocol), Self::Spdy(protocol)));
        }
        Err(text(StatusCode::BAD_REQUEST, "Upgrade request required"))
    }
}

fn unknown(offered: &[&str]) -> Response<Body> {
    let message = format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}");
    text(StatusCode::FORBIDDEN, message)
}

fn switching(upgrade: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(upgrade));
    response
}

fn switch_to_websocket(headers: &HeaderMap, protocol: &'static str) -> Result<Response<Body>, Response<Body>> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| text(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| text(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key"))?;
    let mut response = switching("websocket");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}

fn switch_to_spdy(protocol: &'static str) -> Response<Body> {
    let mut response = switching(SPDY);
    if !protocol.is_empty() {
        response.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    }
    response
}

fn failed(error: &RuntimeError) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, Chain(error).to_string())
}

fn bytes(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = bytes(status, Bytes::from(message.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json_response(value: &serde_json::Value) -> Response<Body> {
    let mut response = bytes(StatusCode::OK, Bytes::from(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Names and values of a query, decoded; what is malformed is taken as it is.
fn parse_query(query: &str) -> Query {
    let decode = |text: &str| {
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let escaped = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            match (byte, escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (b'%', Some(decoded)) => {
                    out.push(decoded);
                    at += 3;
                    continue;
                }
                (b'+', _) => out.push(b' '),
                (byte, _) => out.push(*byte),
            }
            at += 1;
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (decode(n), decode(v))).collect()
}

#[cfg(test)]
mod tests;
