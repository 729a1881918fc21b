//! The image's bounds: history stays within its budget, and whoever is
//! overtaken is told so.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{Entry, Watch as _, WatchItem};

const HISTORY_BYTES: usize = 64 << 10;

fn image() -> Arc<Image> {
    Arc::new(Image::new(ImageOptions { history_bytes: HISTORY_BYTES, ..ImageOptions::default() }))
}

/// Publishes the next version of `key`.
fn publish(image: &Image, key: &str, bytes: usize) {
    let revision = Revision(image.current().0 + 1);
    let previous = image.latest(key);
    let created = previous.as_ref().map_or(revision, |entry| entry.created);
    let entry = Arc::new(Entry::new(Arc::from(key), Bytes::from(vec![b'v'; bytes]), created, revision));
    image.publish(vec![Change { revision, events: vec![Event { entry, previous, deleted: false }] }]);
}

#[test]
fn history_stays_within_its_budget() {
    let image = image();
    for n in 0..1000 {
        publish(&image, &format!("/r/a/{}", n % 7), 500);
        assert!(image.history_bytes() <= HISTORY_BYTES, "{} bytes", image.history_bytes());
    }
    assert!(image.history_bytes() > HISTORY_BYTES / 2, "the budget is used");
    image.compact(image.current()).expect("current");
    assert_eq!(image.history_bytes(), 0);
}

#[test]
fn a_busy_collection_does_not_cost_a_quiet_one_its_history() {
    let image = image();
    publish(&image, "/r/quiet/x", 100);
    publish(&image, "/r/quiet/x", 100);
    for _ in 0..1000 {
        publish(&image, "/r/busy/x", 500);
    }
    assert_eq!(image.oldest("/r/quiet/"), Revision(0));
    assert!(image.oldest("/r/busy/") > Revision(500));
    assert!(image.watch("/r/quiet/", Some(Revision(1))).is_ok());
    assert!(matches!(image.watch("/r/busy/", Some(Revision(500))), Err(ReadError::Compacted { .. })));
}

#[tokio::test]
async fn a_watcher_overtaken_by_the_budget_lags_and_then_stays_silent() {
    let image = image();
    let mut watch = image.watch("/r/busy/", None).expect("current");
    for _ in 0..1000 {
        publish(&image, "/r/busy/x", 500);
    }
    assert!(matches!(watch.next().await, WatchItem::Lagged));
    let after = tokio::time::timeout(std::time::Duration::ZERO, watch.next()).await;
    assert!(after.is_err(), "nothing follows");
}

#[tokio::test]
async fn a_watcher_that_waits_is_woken_by_each_change_and_by_compaction() {
    let image = image();
    let mut watch = image.watch("/r/a/x", None).expect("current");
    let waiting = tokio::spawn(async move {
        let first = watch.next().await;
        (first, watch)
    });
    tokio::task::yield_now().await;
    publish(&image, "/r/a/y", 1);
    publish(&image, "/r/a/x", 1);
    let (first, _) = waiting.await.expect("no panic");
    assert!(matches!(first, WatchItem::Events(events) if &*events[0].entry.key == "/r/a/x"));
}

#[test]
fn an_entry_larger_than_the_budget_leaves_no_history() {
    let image = image();
    publish(&image, "/r/a/x", 2 * HISTORY_BYTES);
    publish(&image, "/r/a/x", 10);
    assert_eq!(image.history_bytes(), 0);
    assert_eq!(image.get("/r/a/x").map(|entry| entry.value.len()), Some(10));
    assert_eq!(image.oldest("/r/a/"), image.current());
}
