//! The server as others use it: started over a store, asked in process or over
//! TLS. Connections, not requests.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Peer;
use crate::config::{Config, StartError};
use crate::pipeline::body::{BodyError, RequestBody, ResponseBody};
use crate::state::Core;
use crate::tokens::SigningKey;
use crate::{bootstrap, handle};

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long open requests may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection (upstream's `http2-max-streams-per-connection`).
const STREAMS: u32 = 1000;

/// A token could not be signed.
#[derive(thiserror::Error, Clone, Copy, Debug)]
#[error("the system gave no randomness for a signature")]
pub struct SignError;

/// A running API server.
pub struct ApiServer {
    core: Arc<Core>,
}

impl ApiServer {
    /// Puts the objects that every cluster has into the store and is ready.
    pub async fn start(config: Config) -> Result<Arc<Self>, StartError> {
        let pem = match &config.settings.service_account_key {
            Some(pem) => pem.clone(),
            None => SigningKey::generate()?,
        };
        let key = SigningKey::from_pem(&pem)?;
        let core = Arc::new(Core::new(config.store, config.admin_token, key, config.settings));
        bootstrap::run(&core).await?;
        crate::authz::bootstrap(&core).await?;
        Ok(Arc::new(Self { core }))
    }

    /// Answers one request; from in process or from [`Self::serve`].
    pub async fn handle(&self, request: Request<RequestBody>, peer: Peer) -> Response<ResponseBody> {
        handle::handle(Arc::clone(&self.core), request, peer).await
    }

    /// Answers requests of one in-process user; what a client's transport needs.
    pub fn call(
        self: &Arc<Self>,
        request: Request<bytes::Bytes>,
        peer: Peer,
    ) -> BoxFuture<'static, Response<ResponseBody>> {
        handle::handle(Arc::clone(&self.core), request.map(crate::pipeline::body::full), peer)
    }

    /// Signs the claims of a token that lives in a Secret. For the controller
    /// that fills such Secrets in, where it shares a process with the server.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn sign_token(&self, claims: &serde_json::Value) -> Result<String, SignError> {
        let payload = claims.to_string();
        self.core.authenticator.tokens().sign_payload(payload.as_bytes()).map_err(|_| SignError)
    }

    /// Ends all watches and streams; requests in flight go on.
    pub fn stop_watches(&self) {
        self.core.shutdown.cancel();
    }

    /// Serves HTTP/1.1 and HTTP/2 over TLS until `shutdown`, then drains.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = Arc::new(GracefulShutdown::new());
        let tasks = TaskTracker::new();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = shutdown.cancelled() => break,
            };
            let (stream, remote) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(err = %error, "cannot accept a connection");
                        // Out of file descriptors: give others time to close theirs.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = shutdown.cancelled() => break,
            };
            let server = Arc::clone(&self);
            let acceptor = acceptor.clone();
            let graceful = Arc::clone(&graceful);
            tasks.spawn(async move {
                server.connection(stream, remote, acceptor, &graceful).await;
                drop(permit);
            });
        }
        self.core.shutdown.cancel();
        tasks.close();
        if let Some(graceful) = Arc::into_inner(graceful) {
            drop(tokio::time::timeout(DRAIN, graceful.shutdown()).await);
        } else if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!("connections were still open at the end of the drain");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        acceptor: TlsAcceptor,
        graceful: &GracefulShutdown,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(err = %error, "cannot set TCP_NODELAY");
        }
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(err = %error, %remote, "TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%remote, "TLS handshake took too long");
                return;
            }
        };
        let certificates: Arc<[CertificateDer<'static>]> = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|one| one.clone().into_owned())
            .collect();
        let core = Arc::clone(&self.core);
        let service = service_fn(move |request: Request<Incoming>| {
            let peer = Peer::Tls { certificates: Arc::clone(&certificates), remote };
            let request = request.map(|body| body.map_err(|error| Box::new(error) as BodyError).boxed_unsync());
            let answer = handle::handle(Arc::clone(&core), request, peer);
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(STREAMS);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        if let Err(error) = graceful.watch(connection).await {
            tracing::debug!(err = %error, %remote, "connection ended early");
        }
    }
}
