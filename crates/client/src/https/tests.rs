//! The transport against a TLS server on loopback.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::client::Client;
use crate::kubeconfig::Credential;

struct Server {
    url: String,
    ca: Vec<u8>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers every request with `<path> <authorization>` once `hold` says so.
async fn server(hold: Arc<tokio::sync::Semaphore>) -> Server {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/base/", listener.local_addr().unwrap().port());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let task = tokio::spawn(async move {
        let mut served = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let (acceptor, hold) = (acceptor.clone(), hold.clone());
            served.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let hold = hold.clone();
                    async move {
                        hold.acquire().await.unwrap().forget();
                        let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap());
                        let text = format!("{} {}", request.uri().path(), authorization.unwrap_or("-"));
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(builder.max_concurrent_streams(100).serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    Server { url, ca: pair.cert.pem().into_bytes(), connections, task }
}

fn config(server: &Server) -> ClientConfig {
    ClientConfig {
        server: server.url.clone(),
        certificate_authority: Some(server.ca.clone()),
        credential: Credential::Token("secret".into()),
        ..ClientConfig::default()
    }
}

async fn get(client: &Client, path: &str) -> Result<String, TransportError> {
    let response = client.raw(Request::get(path).body(Bytes::new()).unwrap()).await?;
    Ok(String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn requests_share_a_connection_and_carry_the_token_and_the_base_path() {
    let server = server(Arc::new(tokio::sync::Semaphore::new(1000))).await;
    let client = Client::https(&config(&server)).unwrap();
    let all = futures_util::future::join_all((0..20).map(|_| get(&client, "/api"))).await;
    assert!(all.into_iter().all(|text| text.unwrap() == "/base/api Bearer secret"));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn more_streams_than_one_connection_takes_open_another() {
    let hold = Arc::new(tokio::sync::Semaphore::new(0));
    let server = server(hold.clone()).await;
    let client = Client::https(&config(&server)).unwrap();
    let all = futures_util::future::join_all((0..250).map(|_| get(&client, "/api")));
    let (all, ()) = tokio::join!(all, async {
        while server.connections.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        hold.add_permits(250);
    });
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_server_with_a_foreign_certificate_is_refused_unless_told_otherwise() {
    let server = server(Arc::new(tokio::sync::Semaphore::new(1000))).await;
    let foreign = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut config = config(&server);
    config.certificate_authority = Some(foreign.cert.pem().into_bytes());
    let error = get(&Client::https(&config).unwrap(), "/").await.unwrap_err();
    assert!(matches!(error, TransportError::Connect { .. }), "{error:?}");
    config.insecure_skip_tls_verify = true;
    assert!(get(&Client::https(&config).unwrap(), "/").await.is_ok());
}

#[tokio::test]
async fn a_token_file_is_sent() {
    let server = server(Arc::new(tokio::sync::Semaphore::new(1000))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let mut config = config(&server);
    config.credential = Credential::TokenFile(path.clone());
    let client = Client::https(&config).unwrap();
    assert!(get(&client, "/").await.is_err(), "no file yet");
    std::fs::write(&path, "fresh\n").unwrap();
    assert_eq!(get(&client, "/").await.unwrap(), "/base/ Bearer fresh");
}
