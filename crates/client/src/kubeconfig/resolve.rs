//! One context of a kubeconfig as a client configuration.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{AuthInfo, CertificatePair, ClientConfig, Credential, Kubeconfig, KubeconfigError};

impl Kubeconfig {
    /// What this context means; absent: the current one. Reads the files it
    /// names, except a token file.
    pub fn resolve(&self, context: Option<&str>) -> Result<ClientConfig, KubeconfigError> {
        let current = Some(self.current_context.as_str()).filter(|name| !name.is_empty());
        let name = context.or(current).ok_or(KubeconfigError::NoContext)?;
        let context = &find("context", &self.contexts, name, |entry| &entry.name)?.context;
        let cluster = &find("cluster", &self.clusters, &context.cluster, |entry| &entry.name)?.cluster;
        let mut config = ClientConfig {
            server: cluster.server.clone(),
            certificate_authority: bytes(
                cluster.certificate_authority_data.as_deref(),
                cluster.certificate_authority.as_deref(),
                "certificate-authority-data",
                &context.cluster,
            )?,
            insecure_skip_tls_verify: cluster.insecure_skip_tls_verify.unwrap_or(false),
            tls_server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
            namespace: context.namespace.clone().filter(|namespace| !namespace.is_empty()),
            ..ClientConfig::default()
        };
        if !context.user.is_empty() {
            let user = &find("user", &self.users, &context.user, |entry| &entry.name)?.user;
            identify(&mut config, &context.user, user)?;
        }
        Ok(config)
    }
}

fn find<'a, T>(
    kind: &'static str,
    entries: &'a [T],
    name: &str,
    name_of: fn(&T) -> &str,
) -> Result<&'a T, KubeconfigError> {
    let found = entries.iter().find(|entry| name_of(entry) == name);
    found.ok_or_else(|| KubeconfigError::Missing { kind, name: name.to_owned() })
}

fn identify(config: &mut ClientConfig, name: &str, user: &AuthInfo) -> Result<(), KubeconfigError> {
    for method in ["exec", "auth-provider"] {
        if user.other.contains_key(method) {
            return Err(KubeconfigError::Unsupported { name: name.to_owned(), method });
        }
    }
    let certificate = bytes(
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
        "client-certificate-data",
        name,
    )?;
    let key = bytes(user.client_key_data.as_deref(), user.client_key.as_deref(), "client-key-data", name)?;
    config.client_certificate = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(CertificatePair { certificate, key }),
        _ => return Err(KubeconfigError::HalfPair { name: name.to_owned() }),
    };
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    config.credential = if let Some(path) = given(&user.token_file) {
        Credential::TokenFile(path.into())
    } else if let Some(token) = given(&user.token) {
        Credential::Token(token)
    } else if let Some(username) = given(&user.username) {
        Credential::Basic { username, password: user.password.clone().unwrap_or_default() }
    } else {
        Credential::None
    };
    config.impersonate_user = given(&user.impersonate);
    config.impersonate_groups = user.impersonate_groups.clone();
    Ok(())
}

/// From the data if there is any, else from the file.
fn bytes(
    data: Option<&str>,
    path: Option<&str>,
    field: &'static str,
    name: &str,
) -> Result<Option<Vec<u8>>, KubeconfigError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let decoded = STANDARD.decode(data.trim());
        return decoded.map(Some).map_err(|source| KubeconfigError::Base64 { field, name: name.to_owned(), source });
    }
    let Some(path) = path.filter(|path| !path.is_empty()) else { return Ok(None) };
    let read = std::fs::read(path);
    read.map(Some).map_err(|source| KubeconfigError::Read { path: path.into(), source })
}
