//! Headers that say who asks. Client certificates are `tls`'s.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::ConfigError;
use crate::kubeconfig::{ClientConfig, Credential};

/// How old a token from a file may be before the file is read again. Tokens
/// are replaced long before they expire; upstream's client uses the same.
const TOKEN_FILE_AGE: Duration = Duration::from_secs(60);

pub(super) struct Credentials {
    fixed: HeaderMap,
    file: Option<TokenFile>,
}

struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Instant, HeaderValue)>>,
}

impl Credentials {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, ConfigError> {
        let mut fixed = HeaderMap::new();
        let mut file = None;
        match &config.credential {
            Credential::None => {}
            Credential::Token(token) => {
                fixed.insert(header::AUTHORIZATION, secret(&format!("Bearer {}", token.trim()), "token")?);
            }
            Credential::TokenFile(path) => file = Some(TokenFile { path: path.clone(), read: Mutex::new(None) }),
            Credential::Basic { username, password } => {
                let pair = STANDARD.encode(format!("{username}:{password}"));
                fixed.insert(header::AUTHORIZATION, secret(&format!("Basic {pair}"), "user name")?);
            }
        }
        if let Some(user) = &config.impersonate_user {
            fixed.insert(HeaderName::from_static("impersonate-user"), secret(user, "user name")?);
        }
        for group in &config.impersonate_groups {
            fixed.append(HeaderName::from_static("impersonate-group"), secret(group, "user name")?);
        }
        Ok(Self { fixed, file })
    }

    /// Adds the headers, unless the request brings its own.
    pub(super) fn apply(&self, headers: &mut HeaderMap) -> Result<(), ConfigError> {
        if headers.contains_key(header::AUTHORIZATION) {
            return Ok(());
        }
        for (name, value) in &self.fixed {
            headers.append(name, value.clone());
        }
        if let Some(file) = &self.file {
            headers.insert(header::AUTHORIZATION, file.token()?);
        }
        Ok(())
    }
}

impl TokenFile {
    fn token(&self) -> Result<HeaderValue, ConfigError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, token)) = &*read
            && when.elapsed() < TOKEN_FILE_AGE
        {
            return Ok(token.clone());
        }
        // A file of a kilobyte, once a minute: not worth a blocking thread.
        let token = match std::fs::read_to_string(&self.path) {
            Ok(text) => secret(&format!("Bearer {}", text.trim()), "token")?,
            Err(source) => match &*read {
                // The old one is good for a while yet.
                Some((_, token)) => token.clone(),
                None => {
                    let path = self.path.display().to_string();
                    return Err(ConfigError::TokenFile { path, source });
                }
            },
        };
        *read = Some((Instant::now(), token.clone()));
        Ok(token)
    }
}

fn secret(text: &str, what: &'static str) -> Result<HeaderValue, ConfigError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| ConfigError::Credential { what })?;
    value.set_sensitive(true);
    Ok(value)
}
