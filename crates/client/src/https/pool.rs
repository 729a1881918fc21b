//! Connections to one server. Few: HTTP/2 carries many requests on each, and
//! another one is opened only when the server's limit of streams is near.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::transport::{Body, BodyError, TransportError};

/// Streams on one connection before another is opened. Upstream's server
/// allows 100.
const STREAMS_PER_CONNECTION: usize = 90;
/// Time for a connection including the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence on a connection with open streams after which the other side is
/// asked for a sign of life, and the time it has to give one.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Attempts when a connection turns out to be closed before the request left.
const SEND_ATTEMPTS: usize = 3;

/// Where connections go.
pub(super) struct Target {
    /// Scheme, host and port, for messages.
    pub(super) origin: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// The name the server's certificate must have.
    pub(super) server_name: String,
    /// Absent: no TLS.
    pub(super) tls: Option<TlsConnector>,
}

pub(super) struct Pool {
    target: Target,
    connections: Mutex<Vec<Connection>>,
    /// One connects, the others wait for its connection.
    connecting: tokio::sync::Mutex<()>,
}

/// An HTTP/2 connection. Its task ends with it.
struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    streams: Arc<AtomicUsize>,
    _task: Task,
}

/// Counts a stream for as long as its response is read.
struct Stream(Arc<AtomicUsize>);

impl Stream {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(streams.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Drives a connection; aborted when its owner goes.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Lease {
    Http2(http2::SendRequest<Full<Bytes>>, Stream),
    Http1(http1::SendRequest<Full<Bytes>>, Task),
}

impl Pool {
    pub(super) fn new(target: Target) -> Self {
        Self { target, connections: Mutex::new(Vec::new()), connecting: tokio::sync::Mutex::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        let mut request = request.map(Full::new);
        for _ in 1..SEND_ATTEMPTS {
            match self.attempt(request).await? {
                Ok(response) => return Ok(response),
                Err((unsent, _)) => request = unsent,
            }
        }
        self.attempt(request).await?.map_err(|(_, error)| self.no_response(error))
    }

    /// The inner error says that the request never left.
    async fn attempt(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Result<Response<Body>, (Request<Full<Bytes>>, hyper::Error)>, TransportError> {
        match self.lease().await? {
            Lease::Http2(mut sender, stream) => match sender.try_send_request(request).await {
                Ok(response) => Ok(Ok(response.map(|body| Held { body, _held: stream }.boxed_unsync()))),
                Err(mut error) => match error.take_message() {
                    Some(request) => Ok(Err((request, error.into_error()))),
                    None => Err(self.no_response(error.into_error())),
                },
            },
            Lease::Http1(mut sender, task) => {
                let response = sender.send_request(origin_form(request)).await;
                let response = response.map_err(|error| self.no_response(error))?;
                Ok(Ok(response.map(|body| Held { body, _held: (task, sender) }.boxed_unsync())))
            }
        }
    }

    fn no_response(&self, error: hyper::Error) -> TransportError {
        TransportError::Response { url: self.target.origin.clone(), source: Box::new(error) }
    }

    fn pick(&self) -> Option<Lease> {
        let mut connections = self.lock();
        connections.retain(|connection| !connection.sender.is_closed());
        let free = |connection: &&Connection| connection.streams.load(Ordering::Relaxed) < STREAMS_PER_CONNECTION;
        let connection = connections.iter().find(free)?;
        Some(Lease::Http2(connection.sender.clone(), Stream::new(&connection.streams)))
    }

    async fn lease(&self) -> Result<Lease, TransportError> {
        if let Some(lease) = self.pick() {
            return Ok(lease);
        }
        let _one_connects = self.connecting.lock().await;
        if let Some(lease) = self.pick() {
            return Ok(lease);
        }
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect());
        let cause: BodyError = match connecting.await {
            Ok(Ok(lease)) => return Ok(lease),
            Ok(Err(cause)) => cause,
            Err(elapsed) => Box::new(elapsed),
        };
        Err(TransportError::Connect { url: self.target.origin.clone(), source: cause })
    }

    async fn connect(&self) -> Result<Lease, BodyError> {
        let host = self.target.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.target.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.target.tls else { return self.http1(stream).await };
        let name = self.target.server_name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let stream = tls.connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return self.http1(stream).await;
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .adaptive_window(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let task = Task(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(err = %error, "connection ended");
            }
        }));
        let streams = Arc::new(AtomicUsize::new(0));
        let lease = Lease::Http2(sender.clone(), Stream::new(&streams));
        self.lock().push(Connection { sender, streams, _task: task });
        Ok(lease)
    }

    async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Lease, BodyError> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let task = Task(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(err = %error, "connection ended");
            }
        }));
        Ok(Lease::Http1(sender, task))
    }
}

/// HTTP/1.1 wants the path in the request line and the host in a header.
fn origin_form(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let uri = request.uri().clone();
    if let Some(host) = uri.authority().and_then(|authority| authority.as_str().parse().ok()) {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    if let Some(path) = uri.path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
    request
}

/// A body that holds what it needs until it is read or dropped.
struct Held<H> {
    body: Incoming,
    _held: H,
}

impl<H: Unpin> HttpBody for Held<H> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
