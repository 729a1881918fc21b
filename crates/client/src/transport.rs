//! The seam between the client and whatever answers it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;

/// Body of a response: a stream of chunks that may never end (watch).
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Why no response came. Retrying may help; whether the request was carried
/// out is unknown.
#[derive(thiserror::Error, Debug)]
pub enum TransportError {
    /// The address could not be reached or the TLS handshake failed.
    #[error("cannot reach {url}")]
    Connect {
        /// Scheme, host and port.
        url: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke before the response's head was complete.
    #[error("no response from {url}")]
    Response {
        /// Scheme, host and port.
        url: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Sends one request. Implementations add credentials; callers give path,
/// query, method, headers and body. Cancel by dropping the future or body.
pub trait Transport: Send + Sync + 'static {
    /// Resolves when the head of the response is there.
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
}
