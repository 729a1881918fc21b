//! The client's transport to an API server in the same process. It saves
//! sockets and TLS, not checks: requests carry an identity and pass the same
//! authentication, authorization and admission as any other.

use std::sync::Arc;

use apiserver::{ApiServer, Peer, UserInfo};
use bytes::Bytes;
use client::transport::{Body, Transport, TransportError};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};

/// A caller inside this process.
pub(crate) struct InProcess {
    server: Arc<ApiServer>,
    user: UserInfo,
}

impl InProcess {
    /// Requests as this user.
    pub(crate) fn new(server: Arc<ApiServer>, name: &str, groups: &[&str]) -> Self {
        Self { server, user: UserInfo::new(name, groups) }
    }
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let server = Arc::clone(&self.server);
        let peer = Peer::InProcess(self.user.clone());
        Box::pin(async move {
            let request = request.map(|bytes| Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
            // An answer from memory never waits, so a caller that asks again and
            // again would keep its thread from everybody else.
            tokio::task::coop::consume_budget().await;
            Ok(server.handle(request, peer).await)
        })
    }
}
