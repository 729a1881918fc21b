//! Elections against written-down answers.

use serde_json::{Value, json};

use super::*;
use crate::fake::Fake;

fn lease(holder: &str, revision: u64) -> Value {
    json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"namespace": "kube-system", "name": "l", "resourceVersion": revision.to_string()},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3}})
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_replaced_when_its_lease_runs_out_and_shutdown_releases_it() {
    let fake = Fake::default();
    let events = fake.answer_watch();
    events.send("ADDED", lease("other", 1));
    events.send(
        "BOOKMARK",
        json!({"metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}),
    );
    fake.answer(200, lease("me", 2));
    fake.answer(200, lease("me", 3));
    fake.answer(200, lease("", 4));
    let started = Instant::now();
    let shutdown = CancellationToken::new();
    let led = std::cell::Cell::new(None);
    Election::new("kube-system", "l", "me")
        .run(fake.client(), shutdown.clone(), |term| {
            led.set(Some(started.elapsed()));
            let shutdown = shutdown.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                shutdown.cancel();
                term.cancelled().await;
            }
        })
        .await;
    assert_eq!(led.get().unwrap().as_secs(), 15);
    let writes: Vec<_> = fake.requests().into_iter().filter(|(line, _)| line.starts_with("PUT")).collect();
    assert_eq!(writes.len(), 3, "take, renew, release");
    assert_eq!(writes[0].1["spec"]["holderIdentity"], "me");
    assert_eq!(writes[0].1["spec"]["leaseTransitions"], 4);
    assert_eq!(writes[0].1["metadata"]["resourceVersion"], "1");
    assert_eq!(writes[2].1["spec"]["holderIdentity"], "");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_stops() {
    let fake = Fake::default();
    let events = fake.answer_watch();
    events.send(
        "BOOKMARK",
        json!({"metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}),
    );
    fake.answer(201, lease("me", 2));
    fake.answer(409, json!({"kind": "Status", "code": 409, "reason": "Conflict"}));
    fake.answer(200, lease("other", 3));
    let shutdown = CancellationToken::new();
    let terms = std::cell::Cell::new(0);
    Election::new("kube-system", "l", "me")
        .run(fake.client(), shutdown.clone(), |term| {
            terms.set(terms.get() + 1);
            let shutdown = shutdown.clone();
            async move {
                term.cancelled().await;
                assert!(!shutdown.is_cancelled(), "the lease was lost first");
                shutdown.cancel();
            }
        })
        .await;
    assert_eq!(terms.get(), 1);
}
