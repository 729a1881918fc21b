//! An API server alone on the in-memory store, for checks by hand until the
//! binary has one: `serve 127.0.0.1:PORT TOKEN`. Not a product.

use std::error::Error;
use std::sync::Arc;

use apiserver::{ApiServer, Config, Settings};
use store::EphemeralStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:16443".to_owned());
    let token = args.next().unwrap_or_else(|| "admintoken".to_owned());
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der())?,
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind(&address).await?;
    let mut settings = Settings::default();
    settings.advertise = (listener.local_addr()?.ip(), listener.local_addr()?.port());
    let store = Arc::new(EphemeralStore::new());
    let server = ApiServer::start(Config { store, admin_token: Some(token), settings }).await?;
    let shutdown = CancellationToken::new();
    server.serve(listener, Arc::new(tls), shutdown).await;
    Ok(())
}
