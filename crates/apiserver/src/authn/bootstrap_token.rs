//! Callers by bootstrap token: a machine that joins, by a secret in
//! `kube-system` that says who may and until when.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{Authenticators, same_bytes};
use crate::access::UserInfo;
use crate::object::{self, Meta};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Every machine that joins; further groups must begin with it.
const GROUP: &str = "system:bootstrappers";
const ID_LETTERS: usize = 6;
const SECRET_LETTERS: usize = 16;

impl Authenticators {
    /// The user of a bootstrap token that is good now.
    pub(super) async fn by_bootstrap_token(&self, token: &str) -> Result<Option<UserInfo>, String> {
        let Some((id, secret)) = token.split_once('.').filter(|(id, secret)| well_formed(id, secret)) else {
            return Ok(None);
        };
        let key = format!("{}{NAMESPACE}/bootstrap-token-{id}", self.keys.secrets);
        let entry = self.store.get(&key).await.map_err(|error| error.to_string())?;
        let Some(entry) = entry else { return Ok(None) };
        let object: Value = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
        Ok(user(&object, id, secret, Timestamp::now()))
    }
}

fn well_formed(id: &str, secret: &str) -> bool {
    let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    id.len() == ID_LETTERS && secret.len() == SECRET_LETTERS && letters(id) && letters(secret)
}

fn user(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let field = |name: &str| {
        let text = object.get("data").and_then(|data| data.get(name)).and_then(Value::as_str).unwrap_or_default();
        STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let known = !object.deleting()
        && object::text(object, "type") == TYPE
        && same_bytes(field("token-secret").as_bytes(), secret.as_bytes())
        && field("token-id") == id
        && field("usage-bootstrap-authentication") == "true";
    let expiration = field("expiration");
    // An expiration that cannot be read has passed.
    let expired = !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |end| end <= now);
    if !known || expired {
        return None;
    }
    let mut user = UserInfo::new(format!("system:bootstrap:{id}"), &[GROUP]);
    for group in field("auth-extra-groups").split(',').filter(|group| !group.is_empty()) {
        let suffix = group.strip_prefix(GROUP)?.strip_prefix(':')?;
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let plain = suffix.bytes().all(|byte| letter(byte) || matches!(byte, b':' | b'-'));
        if !plain || !suffix.bytes().last().is_some_and(letter) {
            return None;
        }
        user.groups.push(group.to_owned());
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(change: impl FnOnce(&mut Value), expected: Option<&[&str]>) {
        let encode = |text: &str| STANDARD.encode(text);
        let mut secret = json!({
            "metadata": {"name": "bootstrap-token-abcdef"},
            "type": TYPE,
            "data": {
                "token-id": encode("abcdef"),
                "token-secret": encode("0123456789abcdef"),
                "usage-bootstrap-authentication": encode("true"),
                "auth-extra-groups": encode("system:bootstrappers:kubeadm:default-node-token"),
            },
        });
        change(&mut secret);
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let user = user(&secret, "abcdef", "0123456789abcdef", now);
        let groups = user.map(|user| user.groups);
        assert_eq!(
            groups.as_ref().map(|groups| groups.iter().map(String::as_str).collect::<Vec<_>>()).as_deref(),
            expected
        );
    }

    #[test]
    fn a_token_is_good_while_its_secret_says_so() {
        let all: &[&str] = &[GROUP, "system:bootstrappers:kubeadm:default-node-token"];
        let encode = |text: &str| Value::from(STANDARD.encode(text));
        check(|_| {}, Some(all));
        check(|secret| secret["data"]["expiration"] = encode("2026-01-02T00:00:00Z"), Some(all));
        check(|secret| secret["data"]["expiration"] = encode("2025-12-31T00:00:00Z"), None);
        check(|secret| secret["data"]["expiration"] = encode("soon"), None);
        check(|secret| secret["data"]["token-secret"] = encode("another"), None);
        check(|secret| secret["data"]["usage-bootstrap-authentication"] = encode("false"), None);
        check(|secret| secret["type"] = "Opaque".into(), None);
        check(|secret| secret["data"]["auth-extra-groups"] = encode("system:masters"), None);
        check(|secret| secret["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(), None);
    }
}
