//! `registries.yaml`, in k3s's form: mirrors, credentials and TLS by registry.
//! It says where to ask; asking is in `pull`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use crate::runtime::RegistryAuth;

/// Longest configuration file, bytes.
const MAX_FILE: u64 = 1 << 20;

/// The whole file.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registries {
    /// By registry as it stands in image names; `*` for all others.
    mirrors: BTreeMap<String, Mirror>,
    /// By host (with port) of an endpoint.
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
    // TODO-coverage: `rewrite` is refused as an unknown field, until regular
    // expressions are needed elsewhere too.
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default, deny_unknown_fields)]
struct HostConfig {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default, deny_unknown_fields)]
struct Auth {
    username: String,
    password: String,
    /// `user:password` in base64.
    auth: String,
    #[serde(alias = "identitytoken")]
    identity_token: String,
}

/// How to talk TLS to a host.
#[derive(Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    /// Authorities in addition to the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// Our certificate.
    pub(crate) cert_file: Option<PathBuf>,
    /// Its key.
    pub(crate) key_file: Option<PathBuf>,
    /// Takes any certificate.
    pub(crate) insecure_skip_verify: bool,
}

/// One place to ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoint {
    /// Plain HTTP.
    pub(crate) plain: bool,
    /// Host, with port where given.
    pub(crate) host: String,
    /// Path before `/<repository>/manifests`, without a slash at its end.
    pub(crate) path: String,
    /// It stands in for this other registry, which it is told.
    pub(crate) mirror_of: Option<String>,
    /// Credentials of the file.
    pub(crate) auth: RegistryAuth,
    /// TLS settings of the file.
    pub(crate) tls: Tls,
}

impl Registries {
    /// Reads the file; an absent one is an empty one.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "file too large"));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path)?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml_ng::from_str(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Where to ask for images of `registry`, in order: its mirrors, then itself.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut all: Vec<Endpoint> = mirror.into_iter().flat_map(|mirror| &mirror.endpoint).map(|text| parse(text)).collect();
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let own = |plain| Endpoint { plain, host: host.to_owned(), path: "/v2".to_owned(), ..Endpoint::default() };
        // Loopback registries are plain unless the file speaks of TLS for them.
        let plain = is_loopback(host) && !self.configs.get(host).is_some_and(|config| config.tls.is_some());
        let known = |all: &[Endpoint], one: &Endpoint| all.iter().any(|have| have.host == one.host && have.plain == one.plain);
        for endpoint in if plain { vec![own(true), own(false)] } else { vec![own(false)] } {
            if !known(&all, &endpoint) {
                all.push(endpoint);
            }
        }
        for endpoint in &mut all {
            if endpoint.host != host {
                endpoint.mirror_of = Some(registry.to_owned());
            }
            let config = self.configs.get(&endpoint.host).or_else(|| self.configs.get(registry).filter(|_| endpoint.host == host));
            if let Some(config) = config {
                endpoint.tls = config.tls.clone().unwrap_or_default();
                endpoint.auth = config.auth.as_ref().map(credentials).unwrap_or_default();
            }
        }
        all
    }
}

/// True for names and addresses of this machine's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `[http[s]://]host[:port][/path]`. A path replaces `/v2`, as in k3s.
fn parse(text: &str) -> Endpoint {
    let (plain, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme == "http", rest),
        None => (false, text),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/');
    let path = if path.is_empty() { "/v2".to_owned() } else { format!("/{path}") };
    Endpoint { plain, host: host.to_owned(), path, ..Endpoint::default() }
}

fn credentials(auth: &Auth) -> RegistryAuth {
    let mut credentials = RegistryAuth {
        username: auth.username.clone(),
        password: auth.password.clone(),
        identity_token: auth.identity_token.clone(),
        ..RegistryAuth::default()
    };
    if let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(&auth.auth)
        && let Ok(text) = String::from_utf8(decoded)
        && let Some((username, password)) = text.split_once(':')
    {
        username.clone_into(&mut credentials.username);
        password.trim_end_matches('\0').clone_into(&mut credentials.password);
    }
    credentials
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, registry: &str) -> Vec<String> {
        let registries: Registries = serde_yaml_ng::from_str(yaml).expect("yaml");
        let shown = registries.endpoints(registry).into_iter().map(|endpoint| {
            let scheme = if endpoint.plain { "http" } else { "https" };
            let of = endpoint.mirror_of.map(|of| format!(" for {of}")).unwrap_or_default();
            format!("{scheme}://{}{}{of} {}", endpoint.host, endpoint.path, endpoint.auth.username)
        });
        shown.map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn mirrors_come_before_the_registry_itself() {
        let yaml = "mirrors:\n  docker.io:\n    endpoint: ['http://10.0.0.1:5000', 'https://m/v2/proxy']\n\
                    configs:\n  '10.0.0.1:5000':\n    auth: {auth: 'YTpi'}\n";
        assert_eq!(
            check(yaml, "docker.io"),
            ["http://10.0.0.1:5000/v2 for docker.io a", "https://m/v2/proxy for docker.io", "https://registry-1.docker.io/v2"]
        );
        assert_eq!(check(yaml, "quay.io"), ["https://quay.io/v2"]);
        assert_eq!(check("mirrors: {'*': {endpoint: ['http://x']}}", "q.io"), ["http://x/v2 for q.io", "https://q.io/v2"]);
    }

    #[test]
    fn loopback_registries_are_plain_first() {
        for host in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(check("{}", host), [format!("http://{host}/v2"), format!("https://{host}/v2")]);
        }
        assert_eq!(check("configs: {'localhost:1': {tls: {}}}", "localhost:1"), ["https://localhost:1/v2"]);
    }
}
