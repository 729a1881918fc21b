//! An informer against written-down answers.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::fake::{Events, Fake};

fn map(name: &str, uid: &str, revision: u64) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
        "namespace": "n", "name": name, "uid": uid, "resourceVersion": revision.to_string(),
        "managedFields": [{"manager": "m"}],
    }})
}

fn bookmark(revision: u64) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
        "resourceVersion": revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"},
    }})
}

fn start(fake: &Fake) -> (Informer<ConfigMap>, JoinHandle<()>, DropGuard) {
    let (informer, task) = Informer::new(fake.client().namespaced("n"), WatchParams::default());
    let shutdown = CancellationToken::new();
    let guard = shutdown.clone().drop_guard();
    (informer, tokio::spawn(task.run(shutdown)), guard)
}

fn initial(fake: &Fake, objects: &[Value], revision: u64) -> Events {
    let events = fake.answer_watch();
    for object in objects {
        events.send("ADDED", object.clone());
    }
    events.send("BOOKMARK", bookmark(revision));
    events
}

/// `+a@1`, `a@1>2`, `-a@2`.
async fn next(changes: &mut Subscription<ConfigMap>) -> String {
    let name = |object: &ConfigMap| object.metadata.name.clone().unwrap();
    let revision = |object: &ConfigMap| object.metadata.resource_version.clone().unwrap();
    let delta = tokio::time::timeout(Duration::from_secs(60), changes.next()).await.unwrap().unwrap();
    match delta {
        Delta::Added(new) => format!("+{}@{}", name(&new), revision(&new)),
        Delta::Updated { old, new } => format!("{}@{}>{}", name(&new), revision(&old), revision(&new)),
        Delta::Deleted(old) => format!("-{}@{}", name(&old), revision(&old)),
    }
}

#[tokio::test(start_paused = true)]
async fn the_copy_follows_the_collection_without_managed_fields() {
    let fake = Fake::default();
    let events = initial(&fake, &[map("a", "1", 1), map("b", "2", 2)], 2);
    let (informer, _task, _guard) = start(&fake);
    informer.synced().await;
    let mut changes = informer.subscribe();
    assert_eq!(next(&mut changes).await, "+a@1");
    assert_eq!(next(&mut changes).await, "+b@2");
    assert!(informer.list().iter().all(|map| map.metadata.managed_fields.is_none()));
    events.send("MODIFIED", map("a", "1", 3));
    assert_eq!(next(&mut changes).await, "a@1>3");
    events.send("DELETED", map("b", "2", 4));
    assert_eq!(next(&mut changes).await, "-b@2");
    assert!(informer.get(&ObjectKey::new("n", "b")).is_none());
    assert_eq!(informer.in_namespace("n").len(), 1);
    assert_eq!(informer.in_namespace("m").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_sees_the_newest_state_once() {
    let fake = Fake::default();
    let events = initial(&fake, &[map("a", "1", 1)], 1);
    let (informer, _task, _guard) = start(&fake);
    informer.synced().await;
    let mut slow = informer.subscribe();
    let mut quick = informer.subscribe();
    assert_eq!(next(&mut slow).await, "+a@1");
    for revision in 2..1000 {
        events.send("MODIFIED", map("a", "1", revision));
        events.send("ADDED", map("short", "s", revision));
        events.send("DELETED", map("short", "s", revision));
    }
    events.send("ADDED", map("z", "z", 1000));
    while next(&mut quick).await != "+z@1000" {}
    assert_eq!(next(&mut slow).await, "a@1>999");
    assert_eq!(next(&mut slow).await, "+z@1000");
    assert!(slow.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_object_made_again_under_its_name_is_deleted_first() {
    let fake = Fake::default();
    let events = initial(&fake, &[map("a", "1", 1)], 1);
    let (informer, _task, _guard) = start(&fake);
    informer.synced().await;
    let mut changes = informer.subscribe();
    assert_eq!(next(&mut changes).await, "+a@1");
    events.send("DELETED", map("a", "1", 2));
    events.send("ADDED", map("a", "2", 3));
    events.send("ADDED", map("end", "3", 4));
    while informer.get(&ObjectKey::new("n", "end")).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut changes).await, "-a@1");
    assert_eq!(next(&mut changes).await, "+a@3");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_where_it_was_and_410_lists_again() {
    let fake = Fake::default();
    let events = initial(&fake, &[map("a", "1", 1), map("b", "2", 2)], 2);
    let resumed = fake.answer_watch();
    let again = initial(&fake, &[map("b", "2", 2), map("c", "3", 9)], 9);
    let (informer, _task, _guard) = start(&fake);
    informer.synced().await;
    let mut changes = informer.subscribe();
    for expected in ["+a@1", "+b@2"] {
        assert_eq!(next(&mut changes).await, expected);
    }
    events.send("MODIFIED", map("a", "1", 5));
    assert_eq!(next(&mut changes).await, "a@1>5");
    drop(events);
    resumed.send("MODIFIED", map("a", "1", 6));
    assert_eq!(next(&mut changes).await, "a@5>6");
    resumed.send("ERROR", json!({"kind": "Status", "code": 410, "reason": "Expired", "status": "Failure"}));
    drop(resumed);
    let mut seen = [next(&mut changes).await, next(&mut changes).await];
    seen.sort();
    assert_eq!(seen, ["+c@9", "-a@6"], "b did not change");
    let paths: Vec<_> = fake.requests().into_iter().map(|(path, _)| path).collect();
    assert!(paths[0].contains("sendInitialEvents=true"));
    assert!(paths[1].contains("resourceVersion=5") && !paths[1].contains("sendInitialEvents"));
    assert!(paths[2].contains("sendInitialEvents=true") && !paths[2].contains("resourceVersion="));
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn servers_without_streamed_lists_are_listed_in_pages() {
    let fake = Fake::default();
    let refusal = json!({"kind": "Status", "code": 422, "reason": "Invalid", "message": "sendInitialEvents"});
    fake.answer(422, refusal);
    fake.answer(200, json!({"metadata": {"resourceVersion": "7", "continue": "t"}, "items": [{"metadata": {"namespace": "n", "name": "a"}}]}));
    fake.answer(200, json!({"metadata": {"resourceVersion": "7"}, "items": null}));
    let _events = fake.answer_watch();
    let (informer, _task, _guard) = start(&fake);
    informer.synced().await;
    assert_eq!(informer.list().len(), 1);
    let paths: Vec<_> = fake.requests().into_iter().map(|(path, _)| path).collect();
    assert!(paths[2].contains("continue=t"), "{paths:?}");
}
