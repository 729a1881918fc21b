//! One request on its way: who, what, when. Built once, read by every step.

use std::sync::Arc;
use std::sync::Mutex;

use api::status::Status;
use http::HeaderMap;
use jiff::Timestamp;

use super::negotiate::Accept;
use crate::access::UserInfo;
use crate::request_info::{Query, RequestInfo};
use crate::resource::Resource;

/// Warnings given in one answer; more are dropped.
const WARNINGS_LIMIT: usize = 64;

/// A request for a resource that exists, from a caller who may.
pub(crate) struct Call {
    /// What the URL says.
    pub(crate) info: RequestInfo,
    /// The decoded query.
    pub(crate) query: Query,
    /// The caller.
    pub(crate) user: UserInfo,
    /// The resource in the version of the URL.
    pub(crate) resource: Arc<Resource>,
    /// Request headers.
    pub(crate) headers: HeaderMap,
    /// The form of the answer.
    pub(crate) accept: Accept,
    /// When the request came in.
    pub(crate) now: Timestamp,
    warnings: Mutex<Vec<String>>,
}

impl Call {
    /// A request that was parsed, authenticated and authorized.
    pub(crate) fn new(
        info: RequestInfo,
        query: Query,
        user: UserInfo,
        resource: Arc<Resource>,
        headers: HeaderMap,
        accept: Accept,
    ) -> Self {
        Self { info, query, user, resource, headers, accept, now: Timestamp::now(), warnings: Mutex::default() }
    }

    /// The request's instant as objects carry it: RFC 3339, whole seconds.
    pub(crate) fn stamp(&self) -> String {
        stamp(self.now)
    }

    /// Adds warnings to the answer; repetitions are dropped.
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        let mut held = self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for warning in warnings {
            if held.len() < WARNINGS_LIMIT && !held.contains(&warning) {
                held.push(warning);
            }
        }
    }

    /// Takes the warnings given so far.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Who `managedFields` says wrote it: the parameter, or the user agent up
    /// to its first slash.
    pub(crate) fn manager(&self, parameter: &str) -> String {
        const MANAGER_LIMIT: usize = 128;
        if !parameter.is_empty() {
            return parameter.to_owned();
        }
        let agent =
            self.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let name: String = agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
        name.chars().take(MANAGER_LIMIT).collect()
    }

    /// 404 for the object of this call.
    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.resource.collection.group_resource, name)
    }
}

/// An instant as objects carry it: RFC 3339, UTC, whole seconds.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
