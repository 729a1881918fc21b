//! An API server in process over the in-memory store, and the transport by
//! which clients reach it. No sockets, no TLS, no disk.

use std::sync::Arc;

use apiserver::{ApiServer, Config, Peer, Settings, StartError, UserInfo};
use bytes::Bytes;
use client::transport::{Body, Transport, TransportError};
use futures_util::future::BoxFuture;
use store::{EphemeralStore, Store};

/// A whole API server for one test.
pub struct TestServer {
    server: Arc<ApiServer>,
    store: Arc<dyn Store>,
}

impl TestServer {
    /// Starts a server over an empty store.
    pub async fn start() -> Result<Self, StartError> {
        Self::start_with(Settings::default()).await
    }

    /// Starts a server with these settings over an empty store.
    pub async fn start_with(settings: Settings) -> Result<Self, StartError> {
        let store: Arc<dyn Store> = Arc::new(EphemeralStore::new());
        let config = Config { store: Arc::clone(&store), admin_token: None, settings };
        Ok(Self { server: ApiServer::start(config).await?, store })
    }

    /// The server itself.
    pub fn server(&self) -> &Arc<ApiServer> {
        &self.server
    }

    /// The store under it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A transport whose requests come from a member of `system:masters`.
    pub fn transport(&self) -> InProcess {
        self.transport_as(UserInfo::new("admin", &["system:masters", "system:authenticated"]))
    }

    /// A transport whose requests come from this user.
    pub fn transport_as(&self, user: UserInfo) -> InProcess {
        InProcess { server: Arc::clone(&self.server), user }
    }

    /// A client of a member of `system:masters`.
    pub fn client(&self) -> client::Client {
        client::Client::new(self.transport())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.server.stop_watches();
    }
}

/// Requests to an API server in this process, as one user.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    user: UserInfo,
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let answer = self.server.call(request, Peer::InProcess(self.user.clone()));
        Box::pin(async move { Ok(answer.await) })
    }
}
