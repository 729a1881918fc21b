//! Registry credentials of a pod: what its pull secrets hold.

use std::collections::BTreeMap;

use api::types::api::core::v1 as core;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use containers::runtime::RegistryAuth;
use serde::Deserialize;

use super::name;

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// Credentials by the registry they are for. No entry is ever logged.
#[derive(Default)]
pub(crate) struct Keyring {
    entries: Vec<(String, RegistryAuth)>,
}

impl Keyring {
    /// Takes the credentials of one Secret; others than docker ones are ignored.
    pub(crate) fn add(&mut self, secret: &core::Secret) {
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
        let auths = match (data(".dockerconfigjson"), data(".dockercfg")) {
            (Some(bytes), _) => serde_json::from_slice::<DockerConfig>(bytes).map(|c| c.auths).ok(),
            (None, Some(bytes)) => serde_json::from_slice(bytes).ok(),
            (None, None) => None,
        };
        for (registry, entry) in auths.into_iter().flatten() {
            self.entries.push((registry, auth(entry)));
        }
    }

    /// Credentials for this image, the longest match first.
    pub(super) fn for_image(&self, image: &str) -> Vec<RegistryAuth> {
        let host = name::registry(image);
        let full = if image.starts_with(host) { image.to_owned() } else { format!("{host}/{image}") };
        let mut found: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(registry, auth)| {
                let place = place(registry);
                (full == place || full.starts_with(&format!("{place}/"))).then_some((place.len(), auth))
            })
            .collect();
        found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        found.into_iter().map(|(_, auth)| auth.clone()).collect()
    }
}

/// Host and path of a key like `https://index.docker.io/v1/`.
fn place(registry: &str) -> String {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
    if bare == "index.docker.io" { "docker.io".into() } else { bare.into() }
}

fn auth(entry: Entry) -> RegistryAuth {
    let decoded = STANDARD.decode(&entry.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) if entry.username.is_empty() => {
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        }
        _ => (entry.username, entry.password),
    };
    RegistryAuth { username, password, identity_token: entry.identity_token, registry_token: entry.registry_token }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_longest_matching_registry_comes_first() {
        let config = json!({"auths": {
            "reg.test": {"username": "u", "password": "p"},
            "reg.test/team": {"auth": STANDARD.encode("team:secret")},
            "https://index.docker.io/v1/": {"username": "hub", "password": "h"}}});
        let secret: core::Secret = serde_json::from_value(json!({"metadata": {}, "data": {
            ".dockerconfigjson": STANDARD.encode(config.to_string())}}))
        .expect("a secret");
        let mut keyring = Keyring::default();
        keyring.add(&secret);
        let users = |image: &str| keyring.for_image(image).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(users("reg.test/team/app:1"), ["team", "u"]);
        assert_eq!(users("reg.test/other:1"), ["u"]);
        assert_eq!(users("busybox"), ["hub"]);
        assert_eq!(users("elsewhere.test/x"), [""; 0]);
    }
}
