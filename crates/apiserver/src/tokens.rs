//! Service account tokens: signed statements about an account and what its
//! token is bound to. Signs and verifies; whether the account still exists is
//! `authn`'s to ask.

pub(crate) mod issuer;
pub(crate) mod request;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Clocks may differ by this much, seconds (go-jose's default leeway).
pub(crate) const LEEWAY_SECONDS: i64 = 60;
/// Verified tokens that are remembered; the next one starts over.
const REMEMBERED: usize = 2048;
/// Longest token that is looked at, bytes.
const TOKEN_BYTES: usize = 16 * 1024;

/// SubjectPublicKeyInfo of a P-256 key up to its point (RFC 5480).
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a signing key cannot be used.
#[derive(thiserror::Error, Debug)]
pub enum KeyError {
    /// Not PEM with one `PRIVATE KEY`.
    #[error("the service account key is no PEM private key (PKCS #8)")]
    NotPem,
    /// Not an ECDSA key on P-256.
    #[error("the service account key is no ECDSA P-256 key: {0}")]
    NotP256(ring::error::KeyRejected),
    /// The system gave no randomness.
    #[error("no service account key could be made")]
    Generate,
}

/// The key that signs tokens.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
}

impl SigningKey {
    /// A new key as PEM, for the caller to keep where only it can read.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate() -> Result<String, KeyError> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let encoded = STANDARD.encode(document.map_err(|_| KeyError::Generate)?.as_ref());
        let lines: Vec<&str> =
            (0..encoded.len()).step_by(64).map(|at| &encoded[at..encoded.len().min(at + 64)]).collect();
        Ok(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")))
    }

    /// Reads a key that [`SigningKey::generate`] made.
    ///
    /// # Errors
    /// [`KeyError`], by what is wrong with the text.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let body = pem.split_once("-----BEGIN PRIVATE KEY-----").and_then(|(_, rest)| rest.split_once("-----END"));
        let (body, _) = body.ok_or(KeyError::NotPem)?;
        let compact: String = body.split_whitespace().collect();
        let der = STANDARD.decode(compact).map_err(|_| KeyError::NotPem)?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random);
        let pair = pair.map_err(KeyError::NotP256)?;
        let spki = [&SPKI[..], pair.public_key().as_ref()].concat();
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &spki));
        Ok(Self { pair, random, id })
    }
}

/// An object that a token is bound to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Bound {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

/// The claims of a token. Times are seconds since the epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(default)]
    pub(crate) aud: Vec<String>,
    #[serde(default)]
    pub(crate) exp: i64,
    #[serde(default)]
    pub(crate) iat: i64,
    #[serde(default)]
    pub(crate) iss: String,
    #[serde(default)]
    pub(crate) jti: String,
    #[serde(default, rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    #[serde(default)]
    pub(crate) nbf: i64,
    #[serde(default)]
    pub(crate) sub: String,
}

/// Who issues the tokens of Secrets (upstream's `LegacyIssuer`).
const SECRET_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token in a Secret of type
/// `kubernetes.io/service-account-token`: good as long as the Secret holds it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SecretClaims {
    iss: String,
    pub(crate) sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(crate) namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(crate) account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(crate) uid: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(crate) secret: String,
}

/// Signs tokens and knows its own.
pub(crate) struct Tokens {
    key: SigningKey,
    issuer: String,
    /// By the digest of the whole token.
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Tokens {
    /// Tokens of an issuer.
    pub(crate) fn new(key: SigningKey, issuer: String) -> Self {
        Self { key, issuer, verified: Mutex::default() }
    }

    /// Who issues: also the audience of tokens that name none.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The signed form of the claims.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, ring::error::Unspecified> {
        self.sign_payload(&serde_json::to_vec(claims).expect("claims are text and numbers"))
    }

    /// The signed form of claims of any layout, as JSON.
    pub(crate) fn sign_payload(&self, claims: &[u8]) -> Result<String, ring::error::Unspecified> {
        let header = json!({"alg": "ES256", "kid": self.key.id}).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.pair.sign(&self.key.random, message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token of a Secret that this key signed; `None` for any
    /// other text. Whether the Secret still holds it is not asked here.
    pub(crate) fn verify_secret(&self, token: &str) -> Option<SecretClaims> {
        let claims: SecretClaims = serde_json::from_slice(&self.payload(token)?).ok()?;
        (claims.iss == SECRET_ISSUER).then_some(claims)
    }

    /// What a token says, if this key signed it.
    fn payload(&self, token: &str) -> Option<Vec<u8>> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header["alg"] != "ES256" {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let public = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, self.key.pair.public_key());
        public.verify(message.as_bytes(), &signature).ok()?;
        URL_SAFE_NO_PAD.decode(payload).ok()
    }

    /// The claims of a token that this key signed for this issuer; `None` for
    /// any other text. Says nothing about time, audience or what it is bound to.
    pub(crate) fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        let digest: [u8; 32] = digest.as_ref().try_into().ok()?;
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        if known.is_some() {
            return known;
        }
        let claims: Claims = serde_json::from_slice(&self.payload(token)?).ok()?;
        if claims.iss != self.issuer {
            return None;
        }
        let claims = Arc::new(claims);
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, Arc::clone(&claims));
        Some(claims)
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        let point = self.key.pair.public_key().as_ref();
        // An uncompressed point: one byte of form, then x and y.
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let pem = SigningKey::generate().expect("randomness");
        Tokens::new(SigningKey::from_pem(&pem).expect("our own key"), "https://issuer".into())
    }

    fn claims(issuer: &str) -> Claims {
        let account = Reference { name: "web".into(), uid: "u1".into() };
        let bound = Bound { namespace: "shop".into(), serviceaccount: account, ..Bound::default() };
        Claims {
            aud: vec!["a".into()],
            exp: 2,
            iat: 1,
            iss: issuer.into(),
            jti: "j".into(),
            bound,
            nbf: 1,
            sub: "system:serviceaccount:shop:web".into(),
        }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let tokens = tokens();
        let token = tokens.sign(&claims("https://issuer")).expect("signed");
        for _ in 0..2 {
            assert_eq!(tokens.verify(&token).as_deref(), Some(&claims("https://issuer")));
        }
    }

    #[test]
    fn a_changed_or_foreign_token_says_nothing() {
        let tokens = tokens();
        let token = tokens.sign(&claims("https://issuer")).expect("signed");
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            // The last letter holds two bits that mean nothing; those must be
            // zero, which the strict decoder checks.
            assert_eq!(tokens.verify(&changed), None, "byte {at}");
        }
        assert_eq!(tokens.verify(&self::tokens().sign(&claims("https://issuer")).expect("signed")), None);
        assert_eq!(tokens.verify(&tokens.sign(&claims("https://other")).expect("signed")), None);
        for rubbish in ["", ".", "..", "a.b.c", "rubbish"] {
            assert_eq!(tokens.verify(rubbish), None);
        }
    }

    #[test]
    fn claims_have_upstreams_layout() {
        let mut claims = claims("https://issuer");
        claims.bound.pod = Some(Reference { name: "p".into(), uid: "u2".into() });
        let shown = serde_json::to_value(&claims).expect("serialises");
        let expected = json!({
            "aud": ["a"], "exp": 2, "iat": 1, "iss": "https://issuer", "jti": "j", "nbf": 1,
            "kubernetes.io": {
                "namespace": "shop",
                "pod": {"name": "p", "uid": "u2"},
                "serviceaccount": {"name": "web", "uid": "u1"},
            },
            "sub": "system:serviceaccount:shop:web",
        });
        assert_eq!(shown, expected);
    }
}
