//! A transport whose answers a test writes down beforehand, for tests of this
//! crate alone. It is no API server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::transport::{Body, Transport, TransportError};

/// Shared by the test and the client.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    answers: VecDeque<(u16, Body)>,
    requests: Vec<(String, Value)>,
}

/// The open end of a watch.
pub(crate) struct Events(mpsc::UnboundedSender<Bytes>);

impl Events {
    pub(crate) fn send(&self, kind: &str, object: Value) {
        let line = format!("{}\n", serde_json::json!({"type": kind, "object": object}));
        self.0.send(line.into()).unwrap();
    }
}

impl Fake {
    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone())
    }

    /// The next answer.
    pub(crate) fn answer(&self, code: u16, body: Value) {
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        self.inner.lock().unwrap().answers.push_back((code, body));
    }

    /// The next answer is a watch; it ends when the handle is dropped.
    pub(crate) fn answer_watch(&self) -> Events {
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
            let chunk = receiver.recv().await?;
            Some((Ok(Frame::data(chunk)), receiver))
        });
        let body = BodyExt::boxed_unsync(StreamBody::new(stream));
        self.inner.lock().unwrap().answers.push_back((200, body));
        Events(sender)
    }

    /// Requests so far: method with path, and body.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        self.inner.lock().unwrap().requests.clone()
    }
}

impl Transport for Fake {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let mut inner = self.inner.lock().unwrap();
        let line = format!("{} {}", request.method(), request.uri());
        let body = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
        inner.requests.push((line, body));
        let answer = inner.answers.pop_front();
        async move {
            match answer {
                Some((code, body)) => Ok(http::Response::builder().status(code).body(body).unwrap()),
                None => Err(TransportError::Connect { url: "fake".into(), source: "no answer left".into() }),
            }
        }
        .boxed()
    }
}
