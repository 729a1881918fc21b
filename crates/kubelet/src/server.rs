//! The node's HTTP API on port 10250: pods, logs, exec, attach, port-forward,
//! figures. HTTPS only, every request authenticated and authorized. It looks
//! things up in [`NodeApi`] and changes nothing itself.

#![allow(clippy::result_large_err, reason = "a refusal is a response like any other")]

mod access;
mod container_logs;
mod figures;
mod log;
mod remote;
mod reply;
mod sessions;
mod spdy;
mod streams;
mod upgrade;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::error::Chain;
use api::types::api::core::v1::Pod;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node_api::NodeApi;
use crate::spec;

use self::access::{Access, Refusal, User};
use self::figures::{Figures, Rates};
use self::reply::{Body, json_response, parse_query, text};

/// Connections at the same time; each follower of a log is one.
const CONNECTIONS: usize = 1000;
/// A client that does not finish its handshake or request head in this time is
/// let go.
const PATIENCE: Duration = Duration::from_secs(10);

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
}

#[cfg(test)]
mod tests;
