//! Writing the status: the first change goes at once, one request is in
//! flight, and what came meanwhile is sent as one.

use std::sync::Arc;

use api::types::api::core::v1 as core;
use client::{Client, ClientError, DeleteParams, Patch, Preconditions};
use futures_util::future::BoxFuture;
use tokio::time::{Duration, Instant};

use crate::spec;
use crate::status::{self, patch};

/// First wait after a failed write; doubled up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait after a failed write.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What came of a write.
pub(super) enum Written {
    /// The API has it, or it will be tried again.
    Done,
    /// The object is not there any more.
    Gone,
}

enum Sent {
    Status(Result<Box<core::Pod>, ClientError>),
    Delete(Result<(), ClientError>),
}

/// The state of writing.
pub(super) struct Writes {
    /// The status that the API has.
    api: core::PodStatus,
    /// Resource version of `api`.
    version: u64,
    in_flight: Option<BoxFuture<'static, Sent>>,
    retry: Option<(Instant, Duration)>,
    deleted: bool,
    /// The object is not there any more; nothing is written again.
    gone: bool,
    /// The status that was asked for last, and what version came of it. Asking
    /// for it again would change nothing more.
    asked: Option<(core::PodStatus, u64)>,
}

fn version(pod: &core::Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Writes {
    pub(super) fn new(pod: &core::Pod) -> Self {
        Self {
            api: spec::status(pod).clone(),
            version: version(pod),
            in_flight: None,
            retry: None,
            deleted: false,
            gone: false,
            asked: None,
        }
    }

    /// The object as a watch shows it; older than the last answer is ignored.
    pub(super) fn api_has(&mut self, pod: &core::Pod) {
        if version(pod) >= self.version {
            self.version = version(pod);
            self.api = spec::status(pod).clone();
        }
    }

    /// True if the API shows this status.
    pub(super) fn settled(&self, pod: &core::Pod, status: &core::PodStatus) -> bool {
        self.in_flight.is_none()
            && (self.answered(status) || patch::between(spec::uid(pod), &self.api, status).is_none())
    }

    /// True if the API took this status and nothing changed since. What still
    /// differs is what the API made of it; asking again would never end.
    fn answered(&self, status: &core::PodStatus) -> bool {
        self.asked.as_ref().is_some_and(|(asked, at)| *at == self.version && asked == status)
    }

    /// Sends what is due. `ended`: the status is the last one, so the object
    /// may go when it is marked for deletion.
    pub(super) fn start(&mut self, client: &Client, pod: &Arc<core::Pod>, status: &core::PodStatus, ended: bool) {
        let waits = self.retry.is_some_and(|(at, _)| Instant::now() < at);
        if self.in_flight.is_some() || self.deleted || self.gone || waits {
            return;
        }
        let uid = spec::uid(pod).to_owned();
        let name = spec::name(pod).to_owned();
        let api = client.namespaced::<core::Pod>(spec::namespace(pod));
        let change = patch::between(&uid, &self.api, status).filter(|_| !self.answered(status));
        if let Some(change) = change {
            self.asked = Some((status.clone(), 0));
            self.in_flight = Some(Box::pin(async move {
                Sent::Status(api.patch_status(&name, &Patch::Strategic(change)).await.map(Box::new))
            }));
            return;
        }
        let terminal = status::is_terminal(self.api.phase.as_deref().unwrap_or_default());
        if ended && terminal && pod.metadata.deletion_timestamp.is_some() {
            self.deleted = true;
            let params = DeleteParams {
                grace: Some(Duration::ZERO),
                preconditions: Some(Preconditions { uid: Some(uid), ..Preconditions::default() }),
                ..DeleteParams::default()
            };
            self.in_flight = Some(Box::pin(async move { Sent::Delete(api.delete(&name, &params).await) }));
        }
    }

    /// Waits for the request in flight; for ever if there is none.
    pub(super) async fn finished(&mut self) -> Written {
        let sent = match &mut self.in_flight {
            Some(sent) => sent.await,
            None => std::future::pending().await,
        };
        self.in_flight = None;
        match sent {
            Sent::Status(Ok(pod)) => {
                self.retry = None;
                self.version = version(&pod);
                self.api = pod.status.unwrap_or_default();
                if let Some((_, at)) = &mut self.asked {
                    *at = self.version;
                }
                Written::Done
            }
            Sent::Delete(Ok(())) => Written::Done,
            Sent::Status(Err(err)) | Sent::Delete(Err(err)) if err.is_not_found() || err.is_conflict() => {
                self.gone = true;
                Written::Gone
            }
            Sent::Status(Err(err)) => {
                self.later(&err);
                Written::Done
            }
            Sent::Delete(Err(err)) => {
                self.deleted = false;
                self.later(&err);
                Written::Done
            }
        }
    }

    fn later(&mut self, err: &ClientError) {
        let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(MAX_RETRY));
        tracing::warn!(err = %api::error::Chain(err), retry_ms = wait.as_millis(), "pod status could not be written");
        self.retry = Some((Instant::now() + wait, wait));
    }

    /// When a failed write is tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.filter(|_| self.in_flight.is_none()).map(|(at, _)| at).filter(|at| *at > Instant::now())
    }
}

#[cfg(test)]
mod tests;
