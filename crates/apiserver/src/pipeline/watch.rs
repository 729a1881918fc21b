//! WATCH: a stream of changes from memory, from the present state or from a
//! revision, with bookmarks and an end by time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use store::{Event, ReadError, Revision, WatchItem};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::{BodyError, ResponseBody};
use super::call::Call;
use super::negotiate::{Encoding, Form};
use super::options::{self, ListOptions};
use super::read::{self, Filter};
use super::render::{self, Head};
use super::write;
use crate::facet::Facet;
use crate::object;
use crate::state::Core;

/// How often an idle watch gets a bookmark, if it asked for them.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Shortest life of a watch that names no timeout; the longest is twice that,
/// so that clients do not all come back at once (`min-request-timeout`).
const TIMEOUT_FLOOR_SECONDS: u64 = 1800;
/// Initial objects per chunk of the stream.
const CHUNK_ITEMS: usize = 64;

/// Opens a watch.
pub(crate) async fn watch(
    core: &Core,
    call: Call,
    filter: Filter,
    options: ListOptions,
) -> Result<Response<ResponseBody>, Status> {
    let asked =
        options::revision(&options.resource_version).map_err(|cause| super::update::invalid(&call, "", cause))?;
    let prefix = call.resource.collection.range(&call.info.namespace);
    let initial = match options.send_initial_events {
        Some(send) => send,
        None => asked == 0,
    };
    let seconds =
        options.timeout_seconds.unwrap_or_else(|| TIMEOUT_FLOOR_SECONDS + crate::entropy::below(TIMEOUT_FLOOR_SECONDS));
    let mut queue = VecDeque::new();
    let mut frames = Frames { call, filter, headings: true };
    let from = if initial {
        if asked > 0 {
            let current = core.store.current().await.map_err(|error| write::read_failed(&error))?;
            if asked > current.0 {
                return Err(write::future(asked, current));
            }
        }
        let all = ListOptions {
            limit: 0,
            continue_token: String::new(),
            resource_version: String::new(),
            version_match: None,
            ..options.clone()
        };
        let listed = read::list(core, &frames.call, &frames.filter, &all).await?;
        for items in listed.items.chunks(CHUNK_ITEMS) {
            let mut out = Vec::new();
            for item in items {
                frames.push(&mut out, "ADDED", &item.entry, &item.facet, item.entry.modified);
            }
            queue.push_back(Bytes::from(out));
        }
        if options.send_initial_events == Some(true) && options.bookmarks {
            let bookmark = render::bookmark(&frames.call.resource, listed.revision, true);
            queue.push_back(frames.bookmark(&bookmark));
        }
        Some(listed.revision)
    } else if asked == 0 {
        None
    } else {
        Some(Revision(asked))
    };
    let source = match core.store.watch(&prefix, from).await {
        Ok(source) => source,
        Err(ReadError::Compacted { requested, oldest }) => {
            let message = format!("too old resource version: {requested} ({oldest})");
            queue.push_back(frames.error(&Status::expired(message)));
            return Ok(respond(&frames.call.accept, ended(queue)));
        }
        Err(ReadError::Future { requested, current }) => {
            queue.push_back(frames.error(&write::future(requested.0, current)));
            return Ok(respond(&frames.call.accept, ended(queue)));
        }
        Err(error) => return Err(write::read_failed(&error)),
    };
    let accept = frames.call.accept.clone();
    let state = Live {
        source,
        frames,
        queue,
        bookmarks: options.bookmarks,
        ends: Instant::now() + Duration::from_secs(seconds),
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        shutdown: core.shutdown.clone(),
        over: false,
    };
    let stream = stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<_, BodyError>(Frame::data(bytes)), state))
    });
    Ok(respond(&accept, StreamBody::new(stream).boxed_unsync()))
}

fn ended(queue: VecDeque<Bytes>) -> ResponseBody {
    let frames = queue.into_iter().map(|bytes| Ok::<_, BodyError>(Frame::data(bytes)));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn respond(accept: &super::negotiate::Accept, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let content_type = match accept.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Json | Encoding::Yaml => "application/json",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An open watch.
struct Live {
    source: Box<dyn store::Watch>,
    frames: Frames,
    /// Chunks that are ready.
    queue: VecDeque<Bytes>,
    bookmarks: bool,
    ends: Instant,
    next_bookmark: Instant,
    shutdown: CancellationToken,
    over: bool,
}

impl Live {
    /// The next chunk; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.queue.pop_front() {
                return Some(chunk);
            }
            if self.over {
                return None;
            }
            let wake = if self.bookmarks { self.ends.min(self.next_bookmark) } else { self.ends };
            tokio::select! {
                biased;
                item = self.source.next() => match item {
                    WatchItem::Events(events) => {
                        let mut out = Vec::new();
                        for event in events.iter() {
                            self.frames.push_event(&mut out, event);
                        }
                        if !out.is_empty() {
                            return Some(Bytes::from(out));
                        }
                    }
                    WatchItem::Lagged => {
                        self.over = true;
                        let status = Status::expired("The resourceVersion for the provided watch is too old.");
                        return Some(self.frames.error(&status));
                    }
                },
                () = tokio::time::sleep_until(wake) => {
                    self.over = Instant::now() >= self.ends;
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    if self.bookmarks {
                        let bookmark = render::bookmark(&self.frames.call.resource, self.source.progress(), false);
                        return Some(self.frames.bookmark(&bookmark));
                    }
                }
                () = self.shutdown.cancelled() => return None,
            }
        }
    }
}

/// Makes frames of events.
struct Frames {
    call: Call,
    filter: Filter,
    /// Table headings come with the first table only.
    headings: bool,
}

impl Frames {
    /// A change as this watcher sees it: objects enter and leave its selection.
    fn push_event(&mut self, out: &mut Vec<u8>, event: &Event) {
        let collection = Arc::clone(&self.call.resource.collection);
        let facet = Facet::of(&collection, &event.entry);
        let now = !event.deleted && self.filter.matches(&facet);
        let before = match &event.previous {
            Some(previous) => self.filter.matches(&Facet::of(&collection, previous)),
            None => event.deleted && self.filter.matches(&facet),
        };
        match (before, now) {
            (false, true) => self.push(out, "ADDED", &event.entry, &facet, event.entry.modified),
            (true, true) => self.push(out, "MODIFIED", &event.entry, &facet, event.entry.modified),
            (true, false) => {
                let last = if event.deleted { &event.entry } else { event.previous.as_ref().unwrap_or(&event.entry) };
                let last_facet = Facet::of(&collection, last);
                self.push(out, "DELETED", last, &last_facet, event.entry.modified);
            }
            (false, false) => {}
        }
    }

    fn push(&mut self, out: &mut Vec<u8>, kind: &str, entry: &store::Entry, facet: &Facet, revision: Revision) {
        let resource = &self.call.resource;
        if self.call.accept.form == Form::Object
            && self.call.accept.encoding != Encoding::Protobuf
            && entry.modified == revision
        {
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            render::push_entry(out, resource, entry, facet, Head::Full);
            out.extend_from_slice(b"}\n");
            return;
        }
        let mut object = render::served(resource, entry);
        object::set_meta(&mut object, "resourceVersion", revision.to_string());
        let object = match self.call.accept.form {
            Form::Object => object,
            Form::Partial(version) => render::partial(&object, version),
            Form::Table(version) => {
                let rows = vec![render::row(&self.call, &object, version)];
                let meta = json!({"resourceVersion": revision.to_string()});
                let headings = std::mem::take(&mut self.headings);
                render::table_of(&self.call, version, meta, rows, headings)
            }
        };
        self.push_frame(out, kind, &object);
    }

    fn push_frame(&self, out: &mut Vec<u8>, kind: &str, object: &Value) {
        if self.call.accept.encoding == Encoding::Protobuf {
            if let Ok(frame) = crate::wire::protobuf_event(kind, object) {
                out.extend_from_slice(&frame);
            }
            return;
        }
        render::push_value(out, &json!({"type": kind, "object": object}));
        out.push(b'\n');
    }

    fn bookmark(&mut self, bookmark: &Value) -> Bytes {
        let object = match self.call.accept.form {
            Form::Object => bookmark.clone(),
            Form::Partial(version) => render::partial(bookmark, version),
            Form::Table(version) => {
                let meta = json!({"resourceVersion": bookmark["metadata"]["resourceVersion"]});
                let rows = vec![json!({"cells": [], "object": render::partial(bookmark, version)})];
                render::table_of(&self.call, version, meta, rows, false)
            }
        };
        let mut out = Vec::new();
        self.push_frame(&mut out, "BOOKMARK", &object);
        Bytes::from(out)
    }

    fn error(&self, status: &Status) -> Bytes {
        let mut out = Vec::new();
        self.push_frame(&mut out, "ERROR", &serde_json::to_value(status).unwrap_or_default());
        Bytes::from(out)
    }
}
