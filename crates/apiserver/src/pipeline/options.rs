//! The options of requests: query parameters and `DeleteOptions` bodies, read
//! and checked as upstream does. Acts on none of them.

use api::status::{Status, StatusCause};
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::request_info::Query;
use crate::validation::metadata::field_manager;

/// What to do with fields that the schema does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them with a warning each.
    Warn,
    /// Refuse the request.
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
}

impl WriteOptions {
    /// Reads and checks the query of a write; `kind` names the options in errors.
    pub(crate) fn parse(query: &Query, kind: &str, apply: bool) -> Result<Self, Status> {
        let mut errors = Errors::new();
        let manager = query.get("fieldManager").unwrap_or_default();
        if kind == "PatchOptions" {
            if apply && manager.is_empty() {
                errors.required(&Path::new("fieldManager"), "is required for apply patch");
            }
            if !apply && query.get("force").is_some() {
                errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
            }
        }
        field_manager(manager, &Path::new("fieldManager"), &mut errors);
        let dry: Vec<&str> = query.all("dryRun").collect();
        check_dry_run(&dry, &mut errors);
        let validation = query.get("fieldValidation").unwrap_or_default();
        let field_validation = match validation {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let path = Path::new("fieldValidation");
                errors.not_supported(&path, &Value::from(other), &["", "Ignore", "Strict", "Warn"]);
                FieldValidation::Warn
            }
        };
        refuse(kind, errors)?;
        Ok(Self {
            dry_run: !dry.is_empty(),
            field_manager: manager.to_owned(),
            field_validation,
            force: query.get("force").map(|_| query.truthy("force")),
        })
    }
}

fn check_dry_run(values: &[&str], errors: &mut Errors) {
    if values.iter().any(|value| *value != "All") {
        errors.not_supported(&Path::new("dryRun"), &Value::from(values.to_vec()), &["All"]);
    }
}

fn refuse(kind: &str, errors: Errors) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", kind, "", errors.into_causes())) }
}

/// What happens to dependents of a deleted object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Propagation {
    /// They are left.
    Orphan,
    /// They go after the object.
    Background,
    /// They go before the object.
    Foreground,
}

/// Options of deletions.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) dry_run: bool,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) orphan: Option<bool>,
}

impl DeleteOptions {
    /// From the body if there is one, else from the query.
    pub(crate) fn parse(body: Option<&Value>, query: &Query) -> Result<Self, Status> {
        let mut options = Self::default();
        let policy;
        let mut dry: Vec<String> = Vec::new();
        match body {
            Some(body) => {
                options.grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
                options.orphan = body.get("orphanDependents").and_then(Value::as_bool);
                let text = |value: &Value| value.as_str().map(str::to_owned);
                policy = body.get("propagationPolicy").and_then(text).unwrap_or_default();
                if let Some(conditions) = body.get("preconditions") {
                    options.uid = conditions.get("uid").and_then(text);
                    options.resource_version = conditions.get("resourceVersion").and_then(text);
                }
                dry.extend(body.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(text));
            }
            None => {
                if let Some(grace) = query.get("gracePeriodSeconds") {
                    options.grace = Some(grace.parse().map_err(|_| {
                        Status::bad_request(format!(
                            "strconv.ParseInt: parsing {}: invalid syntax",
                            crate::field::Quoted(grace)
                        ))
                    })?);
                }
                options.orphan = query.get("orphanDependents").map(|_| query.truthy("orphanDependents"));
                policy = query.get("propagationPolicy").unwrap_or_default().to_owned();
                dry.extend(query.all("dryRun").map(str::to_owned));
            }
        }
        let mut errors = Errors::new();
        if options.orphan.is_some() && !policy.is_empty() {
            errors.invalid_text(
                &Path::new("propagationPolicy"),
                &policy,
                "orphanDependents and deletionPropagation cannot be both set",
            );
        }
        options.propagation = match policy.as_str() {
            "" => None,
            "Orphan" => Some(Propagation::Orphan),
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            other => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                errors.not_supported(&Path::new("propagationPolicy"), &Value::from(other), &supported);
                None
            }
        };
        let dry: Vec<&str> = dry.iter().map(String::as_str).collect();
        check_dry_run(&dry, &mut errors);
        refuse("DeleteOptions", errors)?;
        options.dry_run = !dry.is_empty();
        Ok(options)
    }
}

/// How exactly a list's resourceVersion is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Match {
    /// At this revision or later.
    NotOlderThan,
    /// At this revision.
    Exact,
}

/// Options of list and watch.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) resource_version: String,
    pub(crate) version_match: Option<Match>,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the query of a list or watch.
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let number = |key: &str| -> Result<Option<i64>, Status> {
            match query.get(key) {
                None | Some("") => Ok(None),
                Some(text) => text.parse().map(Some).map_err(|_| {
                    let quoted = crate::field::Quoted(text);
                    Status::bad_request(format!("strconv.ParseInt: parsing {quoted}: invalid syntax"))
                }),
            }
        };
        let resource_version = query.get("resourceVersion").unwrap_or_default().to_owned();
        let version_match = query.get("resourceVersionMatch").unwrap_or_default();
        let continue_token = query.get("continue").unwrap_or_default().to_owned();
        let send_initial_events =
            query.get("sendInitialEvents").filter(|text| !text.is_empty()).map(|_| query.truthy("sendInitialEvents"));
        let mut errors = Errors::new();
        let match_path = Path::new("resourceVersionMatch");
        if watch && send_initial_events.is_some() {
            if version_match != "NotOlderThan" {
                errors
                    .forbidden(&match_path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
        } else if send_initial_events.is_some() {
            errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        } else if !version_match.is_empty() {
            if watch {
                errors.forbidden(
                    &match_path,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            } else {
                if resource_version.is_empty() {
                    errors
                        .forbidden(&match_path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
                }
                if !continue_token.is_empty() {
                    errors.forbidden(&match_path, "resourceVersionMatch is forbidden when continue is provided");
                }
                if !matches!(version_match, "Exact" | "NotOlderThan") {
                    let supported = ["", "Exact", "NotOlderThan"];
                    errors.not_supported(&match_path, &Value::from(version_match), &supported);
                }
                if version_match == "Exact" && resource_version == "0" {
                    errors.forbidden(
                        &match_path,
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    );
                }
            }
        }
        refuse("ListOptions", errors)?;
        let timeout_seconds = number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(Self {
            resource_version,
            version_match: match version_match {
                "Exact" => Some(Match::Exact),
                "NotOlderThan" => Some(Match::NotOlderThan),
                _ => None,
            },
            limit: number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
            continue_token,
            timeout_seconds: timeout_seconds.filter(|seconds| *seconds > 0),
            bookmarks: query.truthy("allowWatchBookmarks"),
            send_initial_events,
        })
    }
}

/// Reads a resourceVersion; empty is 0. Upstream refuses others as an invalid
/// `resourceVersion` field of `kind`.
pub(crate) fn revision(text: &str) -> Result<u64, StatusCause> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        let mut errors = Errors::new();
        let detail = format!("strconv.ParseUint: parsing {}: invalid syntax", crate::field::Quoted(text));
        errors.invalid_text(&Path::new("resourceVersion"), text, &detail);
        errors.into_causes().remove(0)
    })
}
