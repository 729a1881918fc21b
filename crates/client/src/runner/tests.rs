//! The runner with informers that a test fills.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

#[derive(thiserror::Error, Debug)]
#[error("not yet")]
struct NotYet;

fn maps(names: &[&str]) -> Informer<ConfigMap> {
    let metadata =
        |name: &&str| ObjectMeta { namespace: Some("n".into()), name: Some(name.to_string()), ..ObjectMeta::default() };
    Informer::fixed(names.iter().map(|name| ConfigMap { metadata: metadata(name), ..ConfigMap::default() }).collect())
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_and_work_is_bounded() {
    let informer = maps(&["a", "b", "c", "d", "e", "f"]);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let shutdown = CancellationToken::new();
    let controller = Controller::new("test", {
        let (most, calls, shutdown) = (most.clone(), calls.clone(), shutdown.clone());
        move |key: ObjectKey| {
            let (running, most, calls, shutdown) = (running.clone(), most.clone(), calls.clone(), shutdown.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                let mut calls = calls.lock().unwrap();
                calls.push(key.name.to_string());
                let count = calls.iter().filter(|name| **name == *key.name).count();
                if calls.len() >= 12 {
                    shutdown.cancel();
                }
                if count < 2 { Err(NotYet) } else { Ok(Action::Done) }
            }
        }
    });
    let controller = controller.watches(&informer, |delta| [ObjectKey::of(&**delta.object())]).concurrency(2);
    controller.run(shutdown).await;
    let calls = calls.lock().unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 2);
    for name in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(calls.iter().filter(|call| *call == name).count(), 2, "{calls:?}");
    }
}
