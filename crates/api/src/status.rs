//! `meta/v1 Status`: how the API says no. The constructors give upstream's
//! words (`apimachinery/pkg/api/errors`); what code a failure has is decided
//! here, once.

use serde::{Deserialize, Serialize};

use crate::gvk::GroupResource;

/// A `Status` object, also used as the error of every API operation.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `Status`.
    #[serde(default)]
    pub kind: String,
    /// `v1`.
    #[serde(default)]
    pub api_version: String,
    /// Always present, mostly empty.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For machines; see upstream's `StatusReason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// HTTP status code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// What a [`Status`] is about.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails {
    /// Object name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Group of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Resource (or kind, as upstream has it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Object uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// One per finding.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds to wait before a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One finding.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusCause {
    /// For machines: `FieldValueInvalid`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Field path: `spec.containers[0].name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Status {
    /// A failure with this code, reason and message.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            status: Some("Failure".into()),
            message: Some(message.into()),
            reason: (!reason.is_empty()).then(|| reason.into()),
            code: Some(code),
            ..Self::default()
        }
    }

    /// True if the reason is this one.
    pub fn is(&self, reason: &str) -> bool {
        self.reason.as_deref() == Some(reason)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or("the server gave no message"))
    }
}

impl std::error::Error for Status {}

/// Constructors in upstream's words, one for each way in which the API says no
/// (`apimachinery/pkg/api/errors`, 1.36). `resource` is a group and plural.
impl Status {
    /// `Success` without an object, as deletions answer it.
    pub fn success() -> Self {
        Self { kind: "Status".into(), api_version: "v1".into(), status: Some("Success".into()), ..Self::default() }
    }

    /// 404: the object does not exist.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    /// 404: nothing is served at this path.
    pub fn no_such_resource() -> Self {
        let mut status = Self::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(StatusDetails::default());
        status
    }

    /// 405: the path exists, but not for this method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Self::failure(405, "MethodNotAllowed", message);
        status.details = Some(StatusDetails::default());
        status
    }

    /// 405: the kind does not support the action.
    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind \"{resource}\"");
        Self::failure(405, "MethodNotAllowed", message).about(resource, "")
    }

    /// 409: an object of this name exists.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::failure(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    /// 409: the write does not fit the object's current state.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::failure(409, "Conflict", message).about(resource, name)
    }

    /// 409: somebody else wrote the object since it was read.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 422: the object breaks rules, one cause each. `group` and `kind` name
    /// the kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<StatusCause>) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let lines: Vec<String> = causes.iter().map(StatusCause::line).collect();
        let mut distinct: Vec<&str> = Vec::with_capacity(lines.len());
        for line in &lines {
            if !distinct.contains(&line.as_str()) {
                distinct.push(line);
            }
        }
        let message = match distinct.as_slice() {
            [] => format!("{qualified} \"{name}\" is invalid"),
            [one] => format!("{qualified} \"{name}\" is invalid: {one}"),
            many => format!("{qualified} \"{name}\" is invalid: [{}]", many.join(", ")),
        };
        let mut status = Self::failure(422, "Invalid", message);
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        status.details = Some(StatusDetails {
            name: some(name),
            group: some(group),
            kind: some(kind),
            causes,
            ..StatusDetails::default()
        });
        status
    }

    /// 403 with a reason in the words of whoever refuses.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} \"{name}\" is forbidden: {why}"),
        };
        Self::failure(403, "Forbidden", message).about(resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 410: the revision asked for is no longer held.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 413: the body exceeds the limit.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    /// 406: none of the accepted media types can be produced.
    pub fn not_acceptable(supported: &str) -> Self {
        let message = format!("only the following media types are accepted: {supported}");
        Self::failure(406, "NotAcceptable", message)
    }

    /// 415: the body's media type cannot be read.
    pub fn unsupported_media_type(supported: &str) -> Self {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {supported}");
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 429 with a hint when to come again.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::failure(429, "TooManyRequests", message);
        status.details =
            Some(StatusDetails { retry_after_seconds: Some(retry_after_seconds), ..StatusDetails::default() });
        status
    }

    /// 500 whose cause is named as upstream does.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let message = why.to_string();
        let mut status = Self::failure(500, "InternalError", format!("Internal error occurred: {message}"));
        let cause = StatusCause { message: Some(message), ..StatusCause::default() };
        status.details = Some(StatusDetails { causes: vec![cause], ..StatusDetails::default() });
        status
    }

    /// 500 without a reason: an error that upstream passes on untyped.
    pub fn untyped(message: impl Into<String>) -> Self {
        Self::failure(500, "", message)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 504 on the server's own account.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::failure(504, "Timeout", message)
    }

    /// Names the object in the details.
    pub fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let details = self.details.get_or_insert_default();
        details.group = some(&resource.group);
        details.kind = some(&resource.resource);
        details.name = some(name);
        self
    }
}

impl StatusCause {
    /// Field and message as one line, as error messages list them.
    pub fn line(&self) -> String {
        let message = self.message.as_deref().unwrap_or_default();
        match self.field.as_deref() {
            None | Some("") => message.to_owned(),
            Some(field) => format!("{field}: {message}"),
        }
    }
}
