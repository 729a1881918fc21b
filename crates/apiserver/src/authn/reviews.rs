//! `TokenReview` and `SelfSubjectReview`: who is it by this token, and who am I.

use api::status::Status;
use serde_json::{Value, json};

use crate::access::UserInfo;
use crate::object;
use crate::pipeline::call::Call;
use crate::state::Core;

/// Answers a `TokenReview`.
pub(crate) async fn token(core: &Core, review: &mut Value) -> Result<(), Status> {
    let token = object::text(review, "spec.token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences: Vec<String> =
        object::items(review, "spec.audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(core.authenticator.tokens().issuer().to_owned());
    }
    let status = match core.authenticator.by_token(&token, &audiences).await {
        Ok(Some(found)) => {
            json!({"authenticated": true, "user": shown(&found.user), "audiences": found.audiences})
        }
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
    };
    object::as_map(review).insert("status".to_owned(), status);
    Ok(())
}

/// Answers a `SelfSubjectReview`.
pub(crate) fn own(call: &Call, review: &mut Value) {
    let map = object::as_map(review);
    map.insert("metadata".to_owned(), json!({"creationTimestamp": call.stamp()}));
    map.insert("status".to_owned(), json!({"userInfo": shown(&call.user)}));
}

/// A user as reviews show it.
fn shown(user: &UserInfo) -> Value {
    let mut shown = serde_json::Map::new();
    let mut set = |field: &str, value: Value| shown.insert(field.to_owned(), value);
    set("username", user.name.as_str().into());
    if !user.uid.is_empty() {
        set("uid", user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        set("groups", user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        set("extra", json!(user.extra));
    }
    shown.into()
}
