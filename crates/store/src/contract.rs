//! What every implementation of [`Store`] must do, as checks that any test can
//! run against it. Says nothing about durability or speed: those differ by
//! implementation and are tested beside it.
//!
//! Each check gets a fresh, empty store and panics where the store breaks the
//! contract.

use std::sync::Arc;

use bytes::Bytes;
use futures_core::future::BoxFuture;

use crate::{
    CommitError, Entry, Event, Page, Precondition, Range, ReadError, Revision, Store, Watch, WatchItem, Write,
};

/// One check of the contract.
pub type Check = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

/// Writers of the checks that race, and commits of each.
const WRITERS: usize = 8;
const COMMITS_PER_WRITER: usize = 25;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check with its name, a sentence.
        pub const CHECKS: &[(&str, Check)] = &[$((stringify!($name), |store| Box::pin($name(store)))),*];
    };
}

checks![
    a_fresh_store_has_no_keys,
    a_put_is_seen_by_the_next_read,
    every_commit_takes_a_greater_revision,
    an_update_keeps_the_created_revision,
    a_key_created_again_has_a_new_created_revision,
    preconditions_decide_each_commit,
    a_conflict_tells_the_current_entry,
    a_failed_precondition_undoes_the_whole_commit,
    all_writes_of_a_commit_share_one_revision,
    deleting_nothing_takes_no_revision,
    an_empty_commit_tells_the_current_revision,
    an_oversized_value_is_refused,
    a_range_holds_its_prefix_in_key_order,
    pages_join_to_the_whole_range,
    a_range_spans_collections,
    a_range_at_an_older_revision_shows_that_state,
    an_unborn_revision_is_in_the_future,
    a_compacted_revision_is_refused,
    a_watch_yields_every_change_once_and_in_order,
    a_watch_from_the_past_catches_up,
    a_watch_sees_only_its_prefix,
    a_watch_yields_a_commit_in_one_item,
    a_watch_of_several_collections_keeps_commit_order,
    a_deletion_event_carries_the_last_value_and_its_revision,
    a_watch_makes_progress_while_others_change,
    a_dropped_next_loses_nothing,
    a_watch_overtaken_by_compaction_lags,
    racing_increments_lose_no_update,
    a_watch_under_racing_writers_sees_all_of_it,
];

/// Runs every check, each against a store that `fresh` makes.
pub async fn run_all(fresh: impl AsyncFn() -> Arc<dyn Store>) {
    for (_, check) in CHECKS {
        check(fresh().await).await;
    }
}

/// An unconditional put.
pub fn put(key: &str, value: &str) -> Write {
    put_when(key, value, Precondition::Any)
}

/// A put with a precondition.
pub fn put_when(key: &str, value: &str, when: Precondition) -> Write {
    Write::Put { key: Arc::from(key), value: Bytes::copy_from_slice(value.as_bytes()), when }
}

/// A deletion with a precondition.
pub fn delete_when(key: &str, when: Precondition) -> Write {
    Write::Delete { key: Arc::from(key), when }
}

fn delete(key: &str) -> Write {
    delete_when(key, Precondition::Any)
}

async fn commit(store: &dyn Store, writes: Vec<Write>) -> Revision {
    store.commit(writes).await.expect("the commit is allowed").revision
}

async fn conflict(store: &dyn Store, writes: Vec<Write>) -> (Arc<str>, Option<Arc<Entry>>) {
    match store.commit(writes).await {
        Err(CommitError::Conflict { key, current }) => (key, current),
        other => panic!("expected a conflict, got {other:?}"),
    }
}

async fn get(store: &dyn Store, key: &str) -> Option<Arc<Entry>> {
    store.get(key).await.expect("the read is allowed")
}

async fn list(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<(String, String)> {
    let range = Range { prefix: prefix.into(), after: None, limit: 0, at };
    pairs(&store.range(range).await.expect("the range is held"))
}

fn pairs(page: &Page) -> Vec<(String, String)> {
    page.entries.iter().map(|entry| (entry.key.to_string(), text(entry))).collect()
}

fn text(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.value).into_owned()
}

fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn watch(store: &dyn Store, prefix: &str, from: Option<Revision>) -> Box<dyn Watch> {
    store.watch(prefix, from).await.expect("the watch can start there")
}

async fn events(watch: &mut dyn Watch) -> Arc<[Event]> {
    match watch.next().await {
        WatchItem::Events(events) => {
            assert!(!events.is_empty(), "an item without events");
            events
        }
        WatchItem::Lagged => panic!("the watch lags"),
    }
}

async fn one_event(watch: &mut dyn Watch) -> Event {
    let events = events(watch).await;
    assert_eq!(events.len(), 1, "{events:?}");
    events[0].clone()
}

async fn a_fresh_store_has_no_keys(store: Arc<dyn Store>) {
    assert!(list(&*store, "", None).await.is_empty());
    assert!(get(&*store, "/r/a/x").await.is_none());
}

async fn a_put_is_seen_by_the_next_read(store: Arc<dyn Store>) {
    let revision = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let entry = get(&*store, "/r/a/x").await.expect("just put");
    assert_eq!((&*entry.key, text(&entry), entry.created, entry.modified), ("/r/a/x", "1".into(), revision, revision));
    assert_eq!(store.current().await.expect("readable"), revision);
    assert_eq!(list(&*store, "/r/a/", None).await, owned(&[("/r/a/x", "1")]));
}

async fn every_commit_takes_a_greater_revision(store: Arc<dyn Store>) {
    let mut last = store.current().await.expect("readable");
    for n in 0..20 {
        let revision = commit(&*store, vec![put(&format!("/r/a/{}", n % 3), &n.to_string())]).await;
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
}

async fn an_update_keeps_the_created_revision(store: Arc<dyn Store>) {
    let first = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let second = commit(&*store, vec![put("/r/a/x", "2")]).await;
    let entry = get(&*store, "/r/a/x").await.expect("put");
    assert_eq!((entry.created, entry.modified, text(&entry)), (first, second, "2".into()));
}

async fn a_key_created_again_has_a_new_created_revision(store: Arc<dyn Store>) {
    commit(&*store, vec![put("/r/a/x", "1")]).await;
    commit(&*store, vec![delete("/r/a/x")]).await;
    assert!(get(&*store, "/r/a/x").await.is_none());
    let third = commit(&*store, vec![put("/r/a/x", "3")]).await;
    assert_eq!(get(&*store, "/r/a/x").await.expect("put").created, third);
}

async fn preconditions_decide_each_commit(store: Arc<dyn Store>) {
    conflict(&*store, vec![put_when("/r/a/x", "1", Precondition::Present)]).await;
    conflict(&*store, vec![put_when("/r/a/x", "1", Precondition::ModifiedAt(Revision(1)))]).await;
    conflict(&*store, vec![delete_when("/r/a/x", Precondition::Present)]).await;
    let first = commit(&*store, vec![put_when("/r/a/x", "1", Precondition::Absent)]).await;
    conflict(&*store, vec![put_when("/r/a/x", "2", Precondition::Absent)]).await;
    let second = commit(&*store, vec![put_when("/r/a/x", "2", Precondition::ModifiedAt(first))]).await;
    conflict(&*store, vec![put_when("/r/a/x", "3", Precondition::ModifiedAt(first))]).await;
    commit(&*store, vec![put_when("/r/a/x", "2", Precondition::Present)]).await;
    conflict(&*store, vec![delete_when("/r/a/x", Precondition::ModifiedAt(second))]).await;
    let modified = get(&*store, "/r/a/x").await.expect("put").modified;
    commit(&*store, vec![delete_when("/r/a/x", Precondition::ModifiedAt(modified))]).await;
    commit(&*store, vec![delete_when("/r/a/x", Precondition::Absent)]).await;
}

async fn a_conflict_tells_the_current_entry(store: Arc<dyn Store>) {
    let (key, current) = conflict(&*store, vec![delete_when("/r/a/x", Precondition::Present)]).await;
    assert_eq!((&*key, current.is_none()), ("/r/a/x", true));
    let revision = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let (_, current) = conflict(&*store, vec![put_when("/r/a/x", "2", Precondition::Absent)]).await;
    let current = current.expect("the key exists");
    assert_eq!((current.modified, text(&current)), (revision, "1".into()));
}

async fn a_failed_precondition_undoes_the_whole_commit(store: Arc<dyn Store>) {
    let before = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let writes = vec![put("/r/a/y", "2"), delete("/r/a/x"), put_when("/r/b/z", "3", Precondition::Present)];
    let (key, _) = conflict(&*store, writes).await;
    assert_eq!(&*key, "/r/b/z");
    assert_eq!(list(&*store, "/r/", None).await, owned(&[("/r/a/x", "1")]));
    assert_eq!(store.current().await.expect("readable"), before);
}

async fn all_writes_of_a_commit_share_one_revision(store: Arc<dyn Store>) {
    commit(&*store, vec![put("/r/a/x", "0")]).await;
    let writes = vec![delete("/r/a/x"), put("/r/a/y", "1"), put("/r/b/z", "2"), delete("/r/a/none")];
    let committed = store.commit(writes).await.expect("allowed");
    let shown: Vec<_> = committed.entries.iter().map(|e| e.as_ref().map(|e| (e.key.to_string(), text(e)))).collect();
    let some = |key: &str, value: &str| Some((key.to_owned(), value.to_owned()));
    assert_eq!(shown, [some("/r/a/x", "0"), some("/r/a/y", "1"), some("/r/b/z", "2"), None]);
    for key in ["/r/a/y", "/r/b/z"] {
        assert_eq!(get(&*store, key).await.expect("put").modified, committed.revision);
    }
}

async fn deleting_nothing_takes_no_revision(store: Arc<dyn Store>) {
    let before = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let committed = store.commit(vec![delete("/r/a/none")]).await.expect("allowed");
    assert_eq!(committed.revision, before);
    assert!(committed.entries[0].is_none());
    assert_eq!(store.current().await.expect("readable"), before);
}

async fn an_empty_commit_tells_the_current_revision(store: Arc<dyn Store>) {
    let before = commit(&*store, vec![put("/r/a/x", "1")]).await;
    assert_eq!(commit(&*store, Vec::new()).await, before);
}

async fn an_oversized_value_is_refused(store: Arc<dyn Store>) {
    let value = Bytes::from(vec![b'x'; crate::MAX_VALUE_BYTES + 1]);
    let write = Write::Put { key: Arc::from("/r/a/x"), value, when: Precondition::Any };
    let refused = store.commit(vec![put("/r/a/y", "1"), write]).await;
    assert!(matches!(refused, Err(CommitError::TooLarge { .. })), "{refused:?}");
    assert!(list(&*store, "", None).await.is_empty());
    let long = format!("/r/a/{}", "k".repeat(crate::MAX_KEY_BYTES));
    let refused = store.commit(vec![put(&long, "1")]).await;
    assert!(matches!(refused, Err(CommitError::TooLarge { .. })), "{refused:?}");
}

async fn a_range_holds_its_prefix_in_key_order(store: Arc<dyn Store>) {
    for key in ["/r/b/x", "/r/a/y", "/r/a/x/z", "/r/a/x", "/r/aa/x", "/r/a0"] {
        commit(&*store, vec![put(key, "v")]).await;
    }
    assert_eq!(list(&*store, "/r/a/", None).await, owned(&[("/r/a/x", "v"), ("/r/a/x/z", "v"), ("/r/a/y", "v")]));
    assert_eq!(list(&*store, "/r/a/x", None).await, owned(&[("/r/a/x", "v"), ("/r/a/x/z", "v")]));
    assert_eq!(list(&*store, "/r/c/", None).await, owned(&[]));
}

async fn pages_join_to_the_whole_range(store: Arc<dyn Store>) {
    for n in 0..10 {
        commit(&*store, vec![put(&format!("/r/a/{n}"), "v"), put(&format!("/r/b/{n}"), "v")]).await;
    }
    for prefix in ["/r/a/", "/r/"] {
        let whole = list(&*store, prefix, None).await;
        let (mut joined, mut after, mut at) = (Vec::new(), None, None);
        loop {
            let page = Range { prefix: prefix.into(), after, limit: 3, at };
            let page = store.range(page).await.expect("the range is held");
            joined.extend(pairs(&page));
            assert_eq!(page.remaining, whole.len() - joined.len());
            if page.remaining == 0 {
                break;
            }
            at = Some(page.revision);
            after = page.entries.last().map(|entry| entry.key.to_string());
            // Changes between pages are not seen by the later ones.
            commit(&*store, vec![put("/r/a/5x", "new"), delete("/r/a/9"), put("/r/b/7", "new")]).await;
        }
        assert_eq!(joined, whole);
        commit(&*store, vec![put("/r/a/9", "v"), delete("/r/a/5x"), put("/r/b/7", "v")]).await;
    }
}

async fn a_range_spans_collections(store: Arc<dyn Store>) {
    for key in ["/r/b/1", "/r/a/1", "/r/ab", "/s/a/1", "/r/a/2"] {
        commit(&*store, vec![put(key, "v")]).await;
    }
    let keys = |pairs: Vec<(String, String)>| pairs.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(list(&*store, "/r/", None).await), ["/r/a/1", "/r/a/2", "/r/ab", "/r/b/1"]);
    assert_eq!(keys(list(&*store, "", None).await), ["/r/a/1", "/r/a/2", "/r/ab", "/r/b/1", "/s/a/1"]);
}

async fn a_range_at_an_older_revision_shows_that_state(store: Arc<dyn Store>) {
    let mut states = vec![(commit(&*store, vec![put("/r/a/x", "0")]).await, owned(&[("/r/a/x", "0")]))];
    let steps: [Vec<Write>; 5] = [
        vec![put("/r/a/y", "1")],
        vec![put("/r/a/x", "2"), put("/r/b/z", "2")],
        vec![delete("/r/a/x")],
        vec![put("/r/a/x", "4"), delete("/r/a/y")],
        vec![delete("/r/a/x"), put("/r/a/y", "5")],
    ];
    for writes in steps {
        let revision = commit(&*store, writes).await;
        states.push((revision, list(&*store, "/r/", None).await));
    }
    for (revision, state) in &states {
        assert_eq!(list(&*store, "/r/", Some(*revision)).await, *state, "at {revision}");
        let one: Vec<_> = state.iter().filter(|(key, _)| key.starts_with("/r/a/")).cloned().collect();
        assert_eq!(list(&*store, "/r/a/", Some(*revision)).await, one, "at {revision}");
    }
}

async fn an_unborn_revision_is_in_the_future(store: Arc<dyn Store>) {
    let revision = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let requested = Revision(revision.0 + 1);
    let range = Range { prefix: "/r/a/".into(), after: None, limit: 0, at: Some(requested) };
    let read = store.range(range).await;
    assert!(matches!(read, Err(ReadError::Future { requested: r, current: c }) if r == requested && c == revision));
    let watch = store.watch("/r/a/", Some(requested)).await.map(|_| ());
    assert!(matches!(watch, Err(ReadError::Future { .. })), "{watch:?}");
    assert!(matches!(store.compact(requested).await, Err(ReadError::Future { .. })));
}

async fn a_compacted_revision_is_refused(store: Arc<dyn Store>) {
    let first = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let second = commit(&*store, vec![put("/r/a/x", "2")]).await;
    commit(&*store, vec![put("/r/a/x", "3")]).await;
    store.compact(second).await.expect("held");
    for prefix in ["/r/a/", "/r/", "/r/none/"] {
        let range = Range { prefix: prefix.into(), after: None, limit: 0, at: Some(first) };
        let read = store.range(range).await;
        let exact =
            matches!(read, Err(ReadError::Compacted { requested, oldest }) if requested == first && oldest == second);
        assert!(exact, "{prefix}: {read:?}");
        let watch = store.watch(prefix, Some(first)).await.map(|_| ());
        assert!(matches!(watch, Err(ReadError::Compacted { .. })), "{prefix}: {watch:?}");
    }
    assert_eq!(list(&*store, "/r/a/", Some(second)).await, owned(&[("/r/a/x", "2")]));
    let mut held = watch(&*store, "/r/a/", Some(second)).await;
    assert_eq!(text(&one_event(&mut *held).await.entry), "3");
    assert!(matches!(store.compact(first).await, Err(ReadError::Compacted { .. })));
}

async fn a_watch_yields_every_change_once_and_in_order(store: Arc<dyn Store>) {
    commit(&*store, vec![put("/r/a/x", "before")]).await;
    let mut watch = watch(&*store, "/r/a/", None).await;
    for n in 0..10 {
        commit(&*store, vec![put("/r/a/x", &n.to_string())]).await;
    }
    let mut previous = "before".to_owned();
    for n in 0..10 {
        let event = one_event(&mut *watch).await;
        assert_eq!(text(&event.entry), n.to_string());
        assert_eq!(text(event.previous.as_ref().expect("updates have a previous version")), previous);
        assert!(!event.deleted);
        previous = n.to_string();
    }
    commit(&*store, vec![put("/r/a/x", "last")]).await;
    assert_eq!(text(&one_event(&mut *watch).await.entry), "last");
}

async fn a_watch_from_the_past_catches_up(store: Arc<dyn Store>) {
    let mut revisions = Vec::new();
    for n in 0..6 {
        revisions.push(commit(&*store, vec![put(&format!("/r/a/{n}"), &n.to_string())]).await);
    }
    for (n, from) in revisions.iter().enumerate() {
        let mut watch = watch(&*store, "/r/a/", Some(*from)).await;
        for (later, revision) in revisions.iter().enumerate().skip(n + 1) {
            let event = one_event(&mut *watch).await;
            assert_eq!((text(&event.entry), event.entry.modified), (later.to_string(), *revision));
            assert!(event.previous.is_none());
        }
        assert_eq!(watch.progress(), revisions[5]);
    }
}

async fn a_watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let mut watch = watch(&*store, "/r/a/n1/", None).await;
    for key in ["/r/a/n2/x", "/r/b/n1/x", "/r/a/n1", "/r/a/n1/x", "/r/a/n10/x", "/r/a/n1/y"] {
        commit(&*store, vec![put(key, "v")]).await;
    }
    assert_eq!(&*one_event(&mut *watch).await.entry.key, "/r/a/n1/x");
    assert_eq!(&*one_event(&mut *watch).await.entry.key, "/r/a/n1/y");
}

async fn a_watch_yields_a_commit_in_one_item(store: Arc<dyn Store>) {
    let mut watch = watch(&*store, "/r/a/", None).await;
    let revision = commit(&*store, vec![put("/r/a/x", "1"), put("/r/b/x", "1"), put("/r/a/y", "1")]).await;
    let events = events(&mut *watch).await;
    let mut keys: Vec<_> = events.iter().map(|event| &*event.entry.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["/r/a/x", "/r/a/y"]);
    assert!(events.iter().all(|event| event.entry.modified == revision));
}

async fn a_watch_of_several_collections_keeps_commit_order(store: Arc<dyn Store>) {
    let start = commit(&*store, vec![put("/r/a/x", "0")]).await;
    let mut revisions = Vec::new();
    for key in ["/r/b/1", "/r/a/1", "/r/c/1", "/r/a/2"] {
        revisions.push(commit(&*store, vec![put(key, "v")]).await);
    }
    revisions.push(commit(&*store, vec![put("/r/a/3", "v"), put("/r/b/3", "v")]).await);
    let mut watch = watch(&*store, "/r/", Some(start)).await;
    for revision in &revisions[..4] {
        assert_eq!(one_event(&mut *watch).await.entry.modified, *revision);
    }
    assert_eq!(events(&mut *watch).await.len(), 2);
    commit(&*store, vec![put("/r/new/1", "v")]).await;
    assert_eq!(&*one_event(&mut *watch).await.entry.key, "/r/new/1");
}

async fn a_deletion_event_carries_the_last_value_and_its_revision(store: Arc<dyn Store>) {
    let created = commit(&*store, vec![put("/r/a/x", "last")]).await;
    let mut watch = watch(&*store, "/r/a/", None).await;
    let revision = commit(&*store, vec![delete("/r/a/x")]).await;
    let event = one_event(&mut *watch).await;
    assert!(event.deleted);
    assert_eq!((text(&event.entry), event.entry.modified, event.entry.created), ("last".into(), revision, created));
    assert_eq!(event.previous.as_ref().map(|previous| previous.modified), Some(created));
}

async fn a_watch_makes_progress_while_others_change(store: Arc<dyn Store>) {
    let mut watch = watch(&*store, "/r/a/", None).await;
    let elsewhere = commit(&*store, vec![put("/r/b/x", "1")]).await;
    assert_eq!(watch.progress(), elsewhere);
    let here = commit(&*store, vec![put("/r/a/x", "1")]).await;
    let later = commit(&*store, vec![put("/r/b/x", "2")]).await;
    assert!(watch.progress() < here, "progress runs ahead of what was yielded");
    one_event(&mut *watch).await;
    assert_eq!(watch.progress(), later);
}

async fn a_dropped_next_loses_nothing(store: Arc<dyn Store>) {
    let mut watch = watch(&*store, "/r/a/", None).await;
    for n in 0..20 {
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, watch.next()).await;
        assert!(waiting.is_err(), "an item without a change");
        commit(&*store, vec![put("/r/a/x", &n.to_string())]).await;
        assert_eq!(text(&one_event(&mut *watch).await.entry), n.to_string());
    }
}

async fn a_watch_overtaken_by_compaction_lags(store: Arc<dyn Store>) {
    let mut behind = watch(&*store, "/r/a/", None).await;
    commit(&*store, vec![put("/r/a/x", "1")]).await;
    let second = commit(&*store, vec![put("/r/a/x", "2")]).await;
    store.compact(second).await.expect("held");
    // A backend may have handed the events to the watch before.
    loop {
        match behind.next().await {
            WatchItem::Lagged => break,
            WatchItem::Events(events) if events[0].entry.modified < second => {}
            WatchItem::Events(events) => {
                assert_eq!(events[0].entry.modified, second);
                break;
            }
        }
    }
}

async fn racing_increments_lose_no_update(store: Arc<dyn Store>) {
    commit(&*store, vec![put("/r/a/counter", "0")]).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for _ in 0..COMMITS_PER_WRITER {
                let mut entry = get(&*store, "/r/a/counter").await.expect("put above");
                loop {
                    let next = text(&entry).parse::<u64>().expect("a number") + 1;
                    let when = Precondition::ModifiedAt(entry.modified);
                    match store.commit(vec![put_when("/r/a/counter", &next.to_string(), when)]).await {
                        Ok(_) => break,
                        Err(CommitError::Conflict { current, .. }) => entry = current.expect("never deleted"),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer panicked");
    }
    let end = get(&*store, "/r/a/counter").await.expect("put");
    assert_eq!(text(&end), (WRITERS * COMMITS_PER_WRITER).to_string());
}

async fn a_watch_under_racing_writers_sees_all_of_it(store: Arc<dyn Store>) {
    let mut all = watch(&*store, "/r/", None).await;
    let mut one = watch(&*store, "/r/c1/", None).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for n in 0..COMMITS_PER_WRITER {
                let key = format!("/r/c{}/{writer}-{}", n % 3, n % 5);
                let write = if n % 7 == 6 { delete(&key) } else { put(&key, &n.to_string()) };
                commit(&*store, vec![write]).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer panicked");
    }
    let end = store.current().await.expect("readable");
    for (prefix, watch) in [("/r/", &mut all), ("/r/c1/", &mut one)] {
        let mut replayed = std::collections::BTreeMap::new();
        let mut last = Revision(0);
        while watch.progress() < end {
            for event in events(&mut **watch).await.iter() {
                assert!(event.entry.modified > last, "{} after {last}", event.entry.modified);
                last = event.entry.modified;
                if event.deleted {
                    replayed.remove(&*event.entry.key);
                } else {
                    replayed.insert(event.entry.key.to_string(), text(&event.entry));
                }
            }
        }
        assert_eq!(replayed.into_iter().collect::<Vec<_>>(), list(&*store, prefix, None).await, "{prefix}");
    }
}
