//! The app of `darter demo`: a small web server. It knows nothing of sleep,
//! like any app that people run.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 64;

/// Serves until SIGTERM.
pub(crate) async fn run(listen: SocketAddr) -> std::io::Result<()> {
    static CONNECTIONS: Semaphore = Semaphore::const_new(MAX_CONNECTIONS);
    let listener = TcpListener::bind(listen).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let permit = CONNECTIONS.acquire().await.expect("the semaphore is never closed");
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = terminate.recv() => return Ok(()),
        };
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let service = service_fn(answer);
            // A client that breaks off is the client's matter.
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            drop(permit);
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = match request.uri().path() {
        "/healthz" => "ok\n".to_owned(),
        path => format!("hello from {} at {path}\n", std::env::var("HOSTNAME").unwrap_or_default()),
    };
    Ok(Response::new(Full::new(Bytes::from(text))))
}
