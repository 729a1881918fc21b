//! Watching a collection: the request's parameters and the stream of events.
//! Starting again after an end or an error is `reflector`'s business.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::api::status::Status;
use bytes::Bytes;
use futures_util::Stream;
use http_body::Body as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::ClientError;
use crate::lines::Lines;
use crate::partial::PartialObjectMetadata;
use crate::query::Url;
use crate::transport::Body;

/// Marks the bookmark after which the initial state is complete.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchParams {
    /// `app=web,tier in (a,b)`.
    pub label_selector: Option<String>,
    /// `spec.nodeName=a`.
    pub field_selector: Option<String>,
    /// Events after this revision; absent: the state now, then events.
    pub resource_version: Option<String>,
    /// First the state as `Added`, then a bookmark, then events.
    pub send_initial_events: bool,
    /// When the server shall end the stream; absent: as it likes.
    pub timeout_seconds: Option<u32>,
}

impl WatchParams {
    /// All objects that the label selector matches.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: Some(selector.into()), ..Self::default() }
    }

    /// All objects that the field selector matches.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: Some(selector.into()), ..Self::default() }
    }

    pub(crate) fn apply(&self, url: Url) -> Url {
        let timeout = self.timeout_seconds.map(|seconds| seconds.to_string());
        let initial = self.send_initial_events;
        url.flag("watch", true)
            .flag("allowWatchBookmarks", true)
            .param("labelSelector", self.label_selector.as_deref())
            .param("fieldSelector", self.field_selector.as_deref())
            .param("resourceVersion", self.resource_version.as_deref())
            .flag("sendInitialEvents", initial)
            .param("resourceVersionMatch", initial.then_some("NotOlderThan"))
            .param("timeoutSeconds", timeout.as_deref())
    }
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent<K> {
    /// New, or there when the watch began.
    Added(K),
    /// Changed.
    Modified(K),
    /// Gone; the object is its last state.
    Deleted(K),
    /// Nothing happened up to this revision.
    Bookmark {
        /// Continue from here.
        resource_version: String,
        /// The initial state is complete.
        initial_events_end: bool,
    },
}

/// A stream of events. After an error it ends.
pub struct WatchStream<K> {
    request: String,
    body: Option<Body>,
    lines: Lines,
    kind: PhantomData<fn() -> K>,
}

impl<K: DeserializeOwned> WatchStream<K> {
    pub(crate) fn new(request: String, body: Body) -> Self {
        Self { request, body: Some(body), lines: Lines::default(), kind: PhantomData }
    }

    fn decode(&mut self, line: &Bytes) -> Result<WatchEvent<K>, ClientError> {
        let result = parse(line).map_err(|source| ClientError::Decode { request: self.request.clone(), source });
        match result {
            Ok(Parsed::Event(event)) => Ok(event),
            Ok(Parsed::Error(status)) => {
                self.body = None;
                Err(ClientError::Api(status))
            }
            Err(error) => {
                self.body = None;
                Err(error)
            }
        }
    }

    fn fail<T: Into<crate::transport::BodyError>>(&mut self, source: T) -> ClientError {
        self.body = None;
        ClientError::Body { request: self.request.clone(), source: source.into() }
    }
}

impl<K: DeserializeOwned> Stream for WatchStream<K> {
    type Item = Result<WatchEvent<K>, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(line) = this.lines.next() {
                return Poll::Ready(Some(this.decode(&line)));
            }
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // A trailer has no data and says nothing here.
                    if let Ok(chunk) = frame.into_data()
                        && let Err(error) = this.lines.push(chunk)
                    {
                        return Poll::Ready(Some(Err(this.fail(error))));
                    }
                }
                Some(Err(source)) => return Poll::Ready(Some(Err(this.fail(source)))),
                None => {
                    this.body = None;
                    return match this.lines.rest() {
                        Some(line) => Poll::Ready(Some(this.decode(&line))),
                        None => Poll::Ready(None),
                    };
                }
            }
        }
    }
}

enum Parsed<K> {
    Event(WatchEvent<K>),
    Error(Box<Status>),
}

fn parse<K: DeserializeOwned>(line: &[u8]) -> Result<Parsed<K>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let raw: Raw<'_> = serde_json::from_slice(line)?;
    let object = raw.object.get();
    let event = match &*raw.kind {
        "ADDED" => WatchEvent::Added(serde_json::from_str(object)?),
        "MODIFIED" => WatchEvent::Modified(serde_json::from_str(object)?),
        "DELETED" => WatchEvent::Deleted(serde_json::from_str(object)?),
        "BOOKMARK" => {
            let metadata = serde_json::from_str::<PartialObjectMetadata>(object)?.metadata;
            let annotations = metadata.annotations.unwrap_or_default();
            WatchEvent::Bookmark {
                resource_version: metadata.resource_version.unwrap_or_default(),
                initial_events_end: annotations.get(INITIAL_EVENTS_END).is_some_and(|value| value == "true"),
            }
        }
        "ERROR" => return Ok(Parsed::Error(serde_json::from_str(object)?)),
        other => {
            return Err(serde::de::Error::unknown_variant(
                other,
                &["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"],
            ));
        }
    };
    Ok(Parsed::Event(event))
}
