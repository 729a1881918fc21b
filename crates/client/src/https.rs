//! The transport over the network: HTTP/2 over TLS with credentials from a
//! kubeconfig. HTTP/1.1 only where the other side speaks nothing else.

mod credentials;
mod pool;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header};

use crate::kubeconfig::ClientConfig;
use crate::transport::{Body, Transport, TransportError};

use self::credentials::Credentials;
use self::pool::Pool;

/// Why a configuration makes no client.
#[derive(thiserror::Error, Debug)]
pub enum ConfigError {
    /// The server's address is no URL, or of another scheme than http and https.
    #[error("the server address {server:?} is not an http or https URL")]
    Server {
        /// As configured.
        server: String,
    },
    /// A certificate or key is not PEM of the right type.
    #[error("cannot read the {what}")]
    Pem {
        /// `certificate authority`, `client certificate`, `client key`.
        what: &'static str,
        /// The cause.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// There is no certificate in it.
    #[error("the {what} is empty")]
    Empty {
        /// See [`ConfigError::Pem`].
        what: &'static str,
    },
    /// TLS does not accept the certificates.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// A token or user name has characters that no header may have.
    #[error("the {what} has characters that cannot be sent")]
    Credential {
        /// `token`, `user name`.
        what: &'static str,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file {path}")]
    TokenFile {
        /// As configured.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The transport over the network.
pub(crate) struct Https {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    credentials: Credentials,
    /// Scheme, host and port.
    origin: String,
    /// What the server's URL has after that, without a final slash.
    base_path: String,
}

impl Https {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Server { server: config.server.clone() };
        let uri: Uri = config.server.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.to_owned();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let origin = format!("{}://{}:{port}", if secure { "https" } else { "http" }, host);
        let tls = if secure { Some(tls::connector(config)?) } else { None };
        let server_name = config.tls_server_name.clone().unwrap_or_else(|| host.clone());
        let inner = Inner {
            pool: Pool::new(pool::Target { origin: origin.clone(), host, port, server_name, tls }),
            credentials: Credentials::new(config)?,
            origin,
            base_path: uri.path().trim_end_matches('/').to_owned(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Transport for Https {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let inner = self.inner.clone();
        async move {
            let request = inner.prepare(request)?;
            inner.pool.send(request).await
        }
        .boxed()
    }
}

impl Inner {
    fn prepare(&self, mut request: Request<Bytes>) -> Result<Request<Bytes>, TransportError> {
        let refused = |source| TransportError::Response { url: self.origin.clone(), source };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("{}{}{path}", self.origin, self.base_path);
        *request.uri_mut() = uri.parse().map_err(|error: http::uri::InvalidUri| refused(Box::new(error)))?;
        let headers = request.headers_mut();
        self.credentials.apply(headers).map_err(|error| refused(Box::new(error)))?;
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("darter"));
        Ok(request)
    }
}
