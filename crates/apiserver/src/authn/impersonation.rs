//! `Impersonate-*` headers: a caller acts as somebody else, in each part only
//! as far as it may.

use api::status::Status;
use http::{HeaderMap, HeaderValue};

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::access::{Attributes, UserInfo};
use crate::handle;
use crate::state::Core;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const REVIEWS: &str = "authentication.k8s.io";

/// The user to act as; the caller itself without such headers.
pub(crate) fn act_as(core: &Core, headers: &HeaderMap, caller: UserInfo) -> Result<UserInfo, Status> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut target = UserInfo { name: one(USER), uid: one(UID), ..UserInfo::default() };
    target.groups = headers.get_all(GROUP).iter().map(text).collect();
    for (key, value) in headers {
        if let Some(extra) = key.as_str().strip_prefix(EXTRA) {
            let key = crate::request_info::percent_decode(extra);
            target.extra.entry(key).or_default().push(text(value));
        }
    }
    if target.name.is_empty() {
        if target.groups.is_empty() && target.uid.is_empty() && target.extra.is_empty() {
            return Ok(caller);
        }
        return Err(Status::internal("requested impersonation without impersonating a user"));
    }
    let implied = authorize(core, &caller, &target)?;
    target.groups.extend(implied);
    let all = if target.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !target.in_group(all) && !target.in_group(UNAUTHENTICATED) {
        target.groups.push(all.to_owned());
    }
    Ok(target)
}

/// Asks for each part; returns the groups that the user has by its name alone.
fn authorize(core: &Core, caller: &UserInfo, target: &UserInfo) -> Result<Vec<String>, Status> {
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let asked = Attributes {
            user: caller,
            verb: "impersonate",
            namespace,
            group,
            version: "v1",
            resource,
            subresource,
            name,
            path: "",
            is_resource: true,
            field_selector: "",
        };
        handle::check(core, &asked)
    };
    let account = target.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let mut implied = Vec::new();
    match account.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':')) {
        Some((namespace, name)) => {
            ask("", "serviceaccounts", "", namespace, name)?;
            if target.groups.is_empty() {
                implied.push("system:serviceaccounts".to_owned());
                implied.push(format!("system:serviceaccounts:{namespace}"));
            }
        }
        None => ask("", "users", "", "", &target.name)?,
    }
    for group in &target.groups {
        ask("", "groups", "", "", group)?;
    }
    for (key, values) in &target.extra {
        for value in values {
            ask(REVIEWS, "userextras", key, "", value)?;
        }
    }
    if !target.uid.is_empty() {
        ask(REVIEWS, "uids", "", "", &target.uid)?;
    }
    Ok(implied)
}
