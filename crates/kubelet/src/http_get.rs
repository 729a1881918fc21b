//! One HTTP GET to a container, for probes and hooks. Certificates are not
//! checked, as upstream's prober doesn't: the peer is the pod's own address.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::types::api::core::v1 as core;
use api::types::apimachinery::pkg::util::intstr::IntOrString;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// Most bytes of an answer that are read.
const MAX_BODY_BYTES: usize = 10 << 10;

/// Why there is no answer, in the words of Go's client.
#[derive(thiserror::Error, Debug)]
#[error("Get {url:?}: {problem}")]
pub(crate) struct GetError {
    url: String,
    problem: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// `Location` of a redirect.
    pub(crate) location: Option<String>,
    /// The beginning of the body.
    pub(crate) body: Vec<u8>,
}

/// A request that is ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

/// The number of a port that is given by number or by name.
pub(crate) fn resolve_port(port: &IntOrString, container: &core::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)) {
            Some(port) => Some(port.container_port),
            None => name.parse().ok(),
        },
    };
    match number {
        Some(number) => {
            u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
        }
        None => Err(format!("couldn't find port: {port:?} in container {}", container.name)),
    }
}

impl Request {
    /// From the specification. `purpose` is part of the user agent.
    pub(crate) fn new(
        action: &core::HTTPGetAction,
        container: &core::Container,
        pod_ip: Option<IpAddr>,
        purpose: &str,
    ) -> Result<Self, String> {
        let host = action
            .host
            .clone()
            .filter(|h| !h.is_empty())
            .or_else(|| pod_ip.map(|ip| ip.to_string()))
            .unwrap_or_default();
        let mut headers: Vec<(String, String)> =
            action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        let has = |headers: &[(String, String)], name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !has(&headers, "user-agent") {
            headers.push(("User-Agent".into(), format!("kube-{purpose}/1.36")));
        }
        if has(&headers, "accept") {
            headers.retain(|(n, v)| !(n.eq_ignore_ascii_case("accept") && v.is_empty()));
        } else {
            headers.push(("Accept".into(), "*/*".into()));
        }
        let path = action.path.clone().unwrap_or_default();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        Ok(Self {
            tls: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host,
            port: resolve_port(&action.port, container)?,
            path,
            headers,
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    /// The host asked.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Follows a redirect on the same host; `None` if it leads elsewhere.
    pub(crate) fn redirected(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') {
            return Some(Self { path: location.into(), ..self.clone() });
        }
        let uri: http::Uri = location.parse().ok()?;
        let tls = uri.scheme_str() == Some("https");
        (uri.host()? == self.host).then(|| Self {
            tls,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
            ..self.clone()
        })
    }

    /// Sends it; gives up after `limit`.
    pub(crate) async fn send(&self, limit: Duration) -> Result<Answer, GetError> {
        let failed = |problem: String| GetError { url: self.url(), problem };
        match tokio::time::timeout(limit, self.exchange()).await {
            Ok(result) => result.map_err(failed),
            Err(_) => Err(failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into())),
        }
    }

    async fn exchange(&self) -> Result<Answer, String> {
        let stream = dial(&self.host, self.port).await?;
        if !self.tls {
            return self.over(stream).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|err| err.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(unverified()?);
        let stream =
            connector.connect(name, stream).await.map_err(|err| match err.get_ref().map(ToString::to_string) {
                Some(text) if text.contains("InvalidContentType") => {
                    "http: server gave HTTP response to HTTPS client".into()
                }
                _ => err.to_string(),
            })?;
        self.over(stream).await
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Answer, String> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let mut request = http::Request::builder().method("GET").uri(&self.path);
        let own_host = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        if !own_host {
            request = request.header("Host", self.authority());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.header("Connection", "close").body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| go_error(&e))?;
            let status = answer.status().as_u16();
            let location = answer.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
            // A body that is too long or breaks off says nothing about the status.
            let body = Limited::new(answer.into_body(), MAX_BODY_BYTES)
                .collect()
                .await
                .map(|b| b.to_bytes().to_vec())
                .unwrap_or_default();
            Ok(Answer { status, location, body })
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // Its last poll may have brought the answer.
            _ended = &mut connection => exchange.await,
        }
    }
}

fn go_error(err: &hyper::Error) -> String {
    if err.is_incomplete_message() { "EOF".into() } else { api::error::Chain(err).to_string() }
}

/// Opens a TCP connection; the error is in the words of Go's dialer.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    connect(host, port).await.map_err(|err| {
        let problem = match err.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
            _ => err.to_string(),
        };
        format!("dial tcp {shown}: connect: {problem}")
    })
}

/// Marks the connection, so that the agent's own questions don't count as the
/// pod's traffic.
async fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Err(err) = network::activity::set_mark(&socket, network::activity::ActivityConfig::PROBE_MARK) {
            // Without the privilege probes count as traffic; they still work.
            tracing::debug!(err = %err, "probe connection could not be marked");
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(err) => last = err,
        }
    }
    Err(last)
}

#[derive(Debug)]
struct AnyCertificate(rustls::crypto::WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn unverified() -> Result<Arc<rustls::ClientConfig>, String> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let provider = rustls::crypto::ring::default_provider();
    let verifier = AnyCertificate(provider.signature_verification_algorithms);
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}
