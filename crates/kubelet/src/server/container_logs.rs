//! Logs of containers: which file is meant, and its way to the client. What of
//! the file is shown is decided in [`super::log`].

use api::types::api::core::v1::{ContainerStatus as PodContainerStatus, Pod};
use containers::runtime::{ContainerId, ContainerState};
use futures_util::StreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Core;
use super::log::{self, Life, Selection};
use super::reply::{Body, Query, text};
use crate::node_api::NodeApi;
use crate::spec;

/// Pieces of a log that wait for a slow client.
const LOG_PIECES: usize = 8;

impl Core {
    /// `/containerLogs`.
    pub(super) async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Response<Body>> {
        let pod = self
            .node
            .pod(namespace, pod)
            .ok_or_else(|| text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist")))?;
        if spec::find(&pod, container).is_none() {
            let message = format!("container \"{container}\" not found in pod \"{}\"", spec::full_name(&pod));
            return Err(text(StatusCode::NOT_FOUND, message));
        }
        let selection = Selection::parse(query, Timestamp::now())
            .map_err(|message| text(StatusCode::UNPROCESSABLE_ENTITY, message))?;
        // Before the state is read, so that an end in between is seen.
        let events = self.node.runtime().events();
        let (id, run) = log_of(&self.node, &pod, container, selection.previous)
            .map_err(|message| text(StatusCode::BAD_REQUEST, message))?;
        let known = self.node.runtime().container(&id).await.ok();
        let ended = known.as_ref().is_none_or(|status| !matches!(status.state, ContainerState::Running { .. }));
        let path = match known.map(|status| status.log_path) {
            Some(path) if !path.as_os_str().is_empty() => path,
            _ => self.node.log_path(&pod, container, run),
        };
        if !tokio::fs::try_exists(&path).await.unwrap_or(false) {
            let message = format!("failed to try resolving symlinks in path \"{}\": no such file", path.display());
            return Err(text(StatusCode::NOT_FOUND, message));
        }
        let (sender, mut pieces) = mpsc::channel(LOG_PIECES);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let life = Life { id, ended, events };
            let serving = log::serve(&path, &selection, life, sender);
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = serving => if let Err(error) = result {
                    tracing::warn!(path = %path.display(), err = %error, "a log could not be read to its end");
                }
            }
        });
        let stream = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
        let body = StreamBody::new(stream.map(|piece| Ok(Frame::data(piece))));
        let mut response = Response::new(BodyExt::boxed_unsync(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}

/// The run whose log is meant: container id and number of the run; or why there
/// is none, in upstream's words (`validateContainerLogStatus`).
fn log_of(node: &NodeApi, pod: &Pod, container: &str, previous: bool) -> Result<(ContainerId, i32), String> {
    let status = spec::status(pod);
    let found: Option<&PodContainerStatus> =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
            .into_iter()
            .flat_map(|list| list.iter().flatten())
            .find(|status| status.name == container);
    let name = spec::name(pod);
    let Some(found) = found else {
        return Err(format!("container \"{container}\" in pod \"{name}\" is not available"));
    };
    if previous {
        let id = node.container_id(pod, container, true);
        let missing = || format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
        return id.map(|id| (id, found.restart_count - 1)).ok_or_else(missing);
    }
    if let Some(id) = node.container_id(pod, container, false) {
        return Ok((id, found.restart_count));
    }
    let state = found.state.as_ref();
    if let Some(id) = node.container_id(pod, container, true) {
        return Ok((id, found.restart_count));
    }
    let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
    Err(match waiting.as_deref() {
        Some("ErrImagePull") => {
            format!("container \"{container}\" in pod \"{name}\" is waiting to start: image can't be pulled")
        }
        Some("ImagePullBackOff") => {
            format!("container \"{container}\" in pod \"{name}\" is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"),
        None => format!("container \"{container}\" in pod \"{name}\" is waiting to start - no logs yet"),
    })
}
