//! What is sent to the API, against one that answers by heart.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use client::transport::{Body, Transport, TransportError};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::*;

/// Answers in this order; a request too many has none.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<VecDeque<(u16, Value)>>>);

impl Answers {
    fn new(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        Self(Arc::new(Mutex::new(answers.into_iter().collect())))
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Transport for Answers {
    fn send(&self, _request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let answer = self.0.lock().unwrap().pop_front();
        Box::pin(async move {
            let (code, body) = answer.expect("a request that should not be sent");
            let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
            Ok(http::Response::builder().status(code).body(body).unwrap())
        })
    }
}

fn pod(version: &str, status: Value) -> Arc<core::Pod> {
    let metadata = json!({"namespace": "a", "name": "p", "uid": "u", "resourceVersion": version});
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}, "status": status});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn answer(version: &str, status: Value) -> (u16, Value) {
    (200, serde_json::to_value(&*pod(version, status)).unwrap())
}

fn wanted(phase: &str) -> core::PodStatus {
    core::PodStatus { phase: Some(phase.into()), ..core::PodStatus::default() }
}

/// True if something was sent.
async fn write(writes: &mut Writes, answers: &Answers, pod: &Arc<core::Pod>, status: &core::PodStatus) -> bool {
    writes.start(&Client::new(answers.clone()), pod, status, false);
    let sent = writes.in_flight.is_some();
    if sent {
        writes.finished().await;
    }
    sent
}

#[tokio::test]
async fn a_status_that_the_api_shows_differently_is_sent_again_only_after_a_change() {
    let first = pod("1", json!({"phase": "Pending"}));
    let (answers, status) = (
        Answers::new([answer("2", json!({"phase": "Pending"})), answer("4", json!({"phase": "Running"}))]),
        wanted("Running"),
    );
    let mut writes = Writes::new(&first);
    assert!(write(&mut writes, &answers, &first, &status).await);
    assert!(!write(&mut writes, &answers, &first, &status).await, "asked for already");
    assert!(writes.settled(&first, &status), "what follows does not wait for ever");
    let changed = pod("3", json!({"phase": "Pending"}));
    writes.api_has(&changed);
    assert!(write(&mut writes, &answers, &changed, &status).await, "somebody changed the pod");
    assert!(!write(&mut writes, &answers, &changed, &status).await, "the API shows it");
    assert_eq!(answers.left(), 0);
}

#[tokio::test]
async fn another_status_is_sent_although_the_last_one_was_shown_differently() {
    let first = pod("1", json!({"phase": "Pending"}));
    let answers = Answers::new([answer("2", json!({"phase": "Pending"})), answer("3", json!({"phase": "Failed"}))]);
    let mut writes = Writes::new(&first);
    assert!(write(&mut writes, &answers, &first, &wanted("Running")).await);
    assert!(write(&mut writes, &answers, &first, &wanted("Failed")).await);
}

#[tokio::test]
async fn nothing_is_written_to_a_pod_that_is_gone() {
    let first = pod("1", json!({"phase": "Pending"}));
    let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
    let answers = Answers::new([(404, missing)]);
    let mut writes = Writes::new(&first);
    writes.start(&Client::new(answers.clone()), &first, &wanted("Running"), false);
    assert!(matches!(writes.finished().await, Written::Gone));
    assert!(!write(&mut writes, &answers, &first, &wanted("Failed")).await);
}
