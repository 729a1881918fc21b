//! HTTP as registries need it: GET and POST over TCP or TLS, redirects, token
//! and basic authentication. One connection a request; nothing is cached but
//! tokens. It knows no manifests.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::registries::{Endpoint, Tls};
use crate::runtime::RegistryAuth;

/// How long a connection, with its TLS handshake, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the head of an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;

/// Longest answer of a token service or error text, bytes.
const MAX_SMALL_BODY: usize = 256 << 10;

/// Where distributions keep the system's certificate authorities.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A request that brought no usable answer.
#[derive(thiserror::Error, Debug)]
pub(super) enum HttpError {
    /// No connection, or it broke.
    #[error("{url}: {detail}")]
    Transport {
        /// Where to.
        url: String,
        /// Step and cause.
        detail: String,
    },
    /// An answer other than 200.
    #[error("{url}: {status}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Status {
        /// Where to.
        url: String,
        /// The answer.
        status: StatusCode,
        /// The registry's words.
        detail: String,
    },
}

/// Talks to one endpoint with one set of credentials.
pub(super) struct Client {
    endpoint: Endpoint,
    auth: RegistryAuth,
    tls: Arc<rustls::ClientConfig>,
    /// The `Authorization` that the endpoint took last.
    authorization: Mutex<Option<String>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn transport(url: &str, step: &str) -> impl FnOnce(&dyn std::error::Error) -> HttpError {
    let (url, step) = (url.to_owned(), step.to_owned());
    move |error| {
        let mut detail = format!("{step}: {error}");
        let mut cause = error.source();
        while let Some(next) = cause {
            detail.push_str(&format!(": {next}"));
            cause = next.source();
        }
        HttpError::Transport { url, detail }
    }
}

impl Client {
    /// Errors when a file that the TLS settings name is unusable.
    pub(super) fn new(endpoint: Endpoint, auth: RegistryAuth) -> Result<Self, HttpError> {
        let tls = tls_config(&endpoint.tls).map_err(|error| transport(&endpoint.host, "TLS settings")(&error))?;
        Ok(Self { endpoint, auth, tls: Arc::new(tls), authorization: Mutex::default() })
    }

    /// GETs `<path of the endpoint>/<repository>/<rest>`. `scope` is what a token is asked for.
    pub(super) async fn get(&self, repository: &str, rest: &str, accept: &[&str]) -> Result<Response<Incoming>, HttpError> {
        let Endpoint { plain, host, path, mirror_of, .. } = &self.endpoint;
        let scheme = if *plain { "http" } else { "https" };
        let query = mirror_of.as_ref().map(|of| format!("?ns={of}")).unwrap_or_default();
        let url = format!("{scheme}://{host}{path}/{repository}/{rest}{query}");
        let scope = format!("repository:{repository}:pull");
        for attempt in 0..2 {
            let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let response = self.follow(&url, accept, authorization.or_else(|| self.given_token())).await?;
            if response.status() != StatusCode::UNAUTHORIZED || attempt > 0 {
                return success(&url, response).await;
            }
            let challenge = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let Some(answer) = self.answer_challenge(&challenge.unwrap_or_default(), &scope).await? else {
                return success(&url, response).await;
            };
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        }
        Err(HttpError::Transport { url, detail: "authentication did not settle".to_owned() })
    }

    fn given_token(&self) -> Option<String> {
        (!self.auth.registry_token.is_empty()).then(|| format!("Bearer {}", self.auth.registry_token))
    }

    fn basic(&self) -> Option<String> {
        let RegistryAuth { username, password, .. } = &self.auth;
        let encode = |text: String| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        (!username.is_empty()).then(|| encode(format!("{username}:{password}")))
    }

    /// Credentials go to the endpoint itself, never to where it redirects to.
    async fn follow(&self, url: &str, accept: &[&str], authorization: Option<String>) -> Result<Response<Incoming>, HttpError> {
        let mut url = url.to_owned();
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::GET, &url, accept, authorization.as_deref(), Bytes::new()).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| resolve(&url, location));
            let Some(next) = next else {
                return Err(HttpError::Transport { url, detail: "redirect to nowhere".to_owned() });
            };
            if url.starts_with("https://") && !next.starts_with("https://") {
                return Err(HttpError::Transport { url, detail: "redirect from TLS to plain HTTP is refused".to_owned() });
            }
            if origin(&next) != origin(&url) {
                authorization = None;
            }
            url = next;
        }
        Err(HttpError::Transport { url, detail: format!("more than {MAX_REDIRECTS} redirects") })
    }

    /// What to answer to a 401; `None` when there is nothing to offer.
    async fn answer_challenge(&self, challenge: &str, scope: &str) -> Result<Option<String>, HttpError> {
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(self.basic());
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(None);
        }
        let parameters = parameters(rest);
        let parameter = |name: &str| parameters.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let Some(realm) = parameter("realm") else { return Ok(None) };
        if !self.endpoint.plain && !realm.starts_with("https://") {
            return Err(HttpError::Transport { url: realm.to_owned(), detail: "a token service without TLS is refused".to_owned() });
        }
        let service = parameter("service").unwrap_or_default();
        let scope = parameter("scope").unwrap_or(scope);
        let response = if self.auth.identity_token.is_empty() {
            let separator = if realm.contains('?') { '&' } else { '?' };
            let url = format!("{realm}{separator}service={}&scope={}", encode(service), encode(scope));
            self.send(Method::GET, &url, &[], self.basic().as_deref(), Bytes::new()).await?
        } else {
            let form = format!(
                "grant_type=refresh_token&client_id=darter&service={}&scope={}&refresh_token={}",
                encode(service),
                encode(scope),
                encode(&self.auth.identity_token)
            );
            self.send(Method::POST, realm, &[], None, form.into()).await?
        };
        let body = body(realm, success(realm, response).await?, MAX_SMALL_BODY).await?;
        #[derive(serde::Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let token: Token = serde_json::from_slice(&body).map_err(|error| transport(realm, "token service")(&error))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        Ok((!token.is_empty()).then(|| format!("Bearer {token}")))
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        accept: &[&str],
        authorization: Option<&str>,
        content: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| transport(url, "address")(&error))?;
        let host = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let target = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let mut request = Request::builder().method(method).uri(target).header(HOST, host).header(USER_AGENT, "darter");
        for kind in accept {
            request = request.header(ACCEPT, *kind);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !content.is_empty() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(content)).map_err(|error| transport(url, "request")(&error))?;
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(&uri, url)).await;
        let stream = connect.map_err(|error| transport(url, "connect")(&error))??;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| transport(url, "connect")(&error))?;
        // It ends when the answer's body was read or dropped; the body's end
        // is what its reader waits for.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(err = %error, "registry connection broke");
            }
        });
        let response = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        response.map_err(|error| transport(url, "answer")(&error))?.map_err(|error| transport(url, "answer")(&error))
    }

    async fn connect(&self, uri: &Uri, url: &str) -> Result<Box<dyn Stream>, HttpError> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((name.as_str(), port)).await.map_err(|error| transport(url, "connect")(&error))?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(name).map_err(|error| transport(url, "host name")(&error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(|error| transport(url, "TLS")(&error))?;
        Ok(Box::new(stream))
    }
}

/// The answer if it is 200, else an error with the registry's words.
async fn success(url: &str, response: Response<Incoming>) -> Result<Response<Incoming>, HttpError> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let body = body(url, response, MAX_SMALL_BODY).await.unwrap_or_default();
    let detail = match serde_json::from_slice::<Errors>(&body) {
        Ok(Errors { errors }) => {
            let lines = errors.iter().map(|entry| format!("{} {}", entry.code, entry.message).trim().to_owned());
            lines.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::new(),
    };
    Err(HttpError::Status { url: url.to_owned(), status, detail })
}

/// A whole body of at most `limit` bytes.
pub(super) async fn body(url: &str, response: Response<Incoming>, limit: usize) -> Result<Bytes, HttpError> {
    let read = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(response.into_body(), limit).collect()).await;
    let read = read.map_err(|error| transport(url, "read")(&error))?;
    read.map(|body| body.to_bytes()).map_err(|error| transport(url, "read")(&*error))
}

fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_owned()))
}

/// A redirect's target, which may lack scheme and host.
fn resolve(url: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    let (scheme, host) = origin(url)?;
    location.starts_with('/').then(|| format!("{scheme}://{host}{location}"))
}

/// `a="b",c="d"` of a challenge.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([',', ' ']).to_owned();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        all.push((name, value.to_owned()));
        rest = after;
    }
    all
}

/// Percent-encoding of everything but unreserved characters.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn read_pem(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(invalid)
}

fn tls_config(tls: &Tls) -> io::Result<rustls::ClientConfig> {
    let invalid = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(invalid)?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut roots = rustls::RootCertStore::empty();
        if let Some(path) = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists()) {
            // One odd certificate in the system's bundle must not bar the rest.
            roots.add_parsable_certificates(read_pem(path)?);
        }
        for certificate in tls.ca_file.iter().map(|path| read_pem(path)).collect::<io::Result<Vec<_>>>()?.concat() {
            roots.add(certificate).map_err(invalid)?;
        }
        builder.with_root_certificates(roots)
    };
    match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", key.display())))?;
            builder.with_client_auth_cert(read_pem(certificate)?, key).map_err(invalid)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Takes any certificate, as `insecure_skip_verify` says.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_taken_apart() {
        let text = r#"realm="https://a/token?x=1",service="s,t", scope="repository:a/b:pull,push""#;
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        assert_eq!(
            parameters(text),
            own(&[("realm", "https://a/token?x=1"), ("service", "s,t"), ("scope", "repository:a/b:pull,push")])
        );
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
