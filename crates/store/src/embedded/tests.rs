//! The embedded store keeps the contract, its promises across restarts, and
//! refuses a directory that it cannot trust. Crashes and full disks have tests
//! of their own beside the crate.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::contract::{self, delete_when, put, put_when};
use crate::{Precondition, WatchItem};

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, Options::default()).expect("the directory is ours")
}

/// A store that begins a new log after every few commits.
fn open_restless(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, Options { log_bytes: 1024, ..Options::default() }).expect("the directory is ours")
}

async fn commit(store: &EmbeddedStore, writes: Vec<Write>) -> Revision {
    store.commit(writes).await.expect("allowed").revision
}

fn contents(store: &EmbeddedStore) -> Vec<(String, Bytes, Revision, Revision)> {
    let range = Range { prefix: String::new(), after: None, limit: 0, at: None };
    let page = store.image.range(&range).expect("the current state is held");
    page.entries.iter().map(|e| (e.key.to_string(), e.value.clone(), e.created, e.modified)).collect()
}

fn the_log(directory: &Path) -> PathBuf {
    let mut logs: Vec<_> = fs::read_dir(directory)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-")))
        .collect();
    logs.sort();
    logs.pop().expect("there is a log")
}

/// The offset and length of each frame of a log, by its magic.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut frames = Vec::new();
    let mut at = 0;
    while bytes.get(at..at + 4) == Some(b"DCMT") {
        let payload = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes")) as usize;
        let length = (frame::HEADER_BYTES + payload).next_multiple_of(frame::ALIGNMENT);
        frames.push((at, length));
        at += length;
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_keeps_the_contract() {
    let all = TempDir::new().expect("a directory");
    let next = std::sync::atomic::AtomicUsize::new(0);
    contract::run_all(async || {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(open(&all.path().join(n.to_string()))) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_while_snapshots_are_written() {
    let all = TempDir::new().expect("a directory");
    let next = std::sync::atomic::AtomicUsize::new(0);
    contract::run_all(async || {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(open_restless(&all.path().join(n.to_string()))) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn a_reopened_store_has_the_same_entries_and_revision() {
    let directory = TempDir::new().expect("a directory");
    let store = open(directory.path());
    for n in 0..100 {
        commit(&store, vec![put(&format!("/r/a/{}", n % 30), &n.to_string()), put("/r/b/last", &n.to_string())]).await;
        if n % 7 == 0 {
            commit(&store, vec![delete_when(&format!("/r/a/{}", n % 30), Precondition::Any)]).await;
        }
    }
    let (before, revision) = (contents(&store), store.image.current());
    drop(store);
    let store = open(directory.path());
    assert_eq!((contents(&store), store.image.current()), (before, revision));
    assert!(commit(&store, vec![put("/r/a/x", "1")]).await > revision);
}

#[tokio::test]
async fn a_store_lives_on_through_snapshots_and_removes_what_they_replace() {
    let directory = TempDir::new().expect("a directory");
    let (mut revision, mut before) = (Revision(0), Vec::new());
    for round in 0..5 {
        let store = open_restless(directory.path());
        assert_eq!((contents(&store), store.image.current()), (before, revision));
        for n in 0..60 {
            commit(&store, vec![put(&format!("/r/a/{}", n % 20), &format!("{round}-{n}").repeat(10))]).await;
        }
        (before, revision) = (contents(&store), store.image.current());
    }
    drop(open_restless(directory.path()));
    let files = fs::read_dir(directory.path()).expect("readable").count();
    assert!(files <= 6, "{files} files: FORMAT, LOCK, a snapshot and the logs since");
}

#[tokio::test]
async fn a_watch_goes_on_across_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let store = open(directory.path());
    let seen = commit(&store, vec![put("/r/a/x", "1")]).await;
    commit(&store, vec![put("/r/a/x", "2")]).await;
    drop(store);
    let store = open(directory.path());
    let mut watch = store.watch("/r/a/", Some(seen)).await.expect("the log holds it");
    let WatchItem::Events(events) = watch.next().await else { panic!("lagged") };
    assert_eq!(events[0].entry.value, "2");
    assert_eq!(events[0].previous.as_ref().map(|previous| previous.value.clone()), Some("1".into()));
}

#[test]
fn a_directory_with_other_content_is_refused() {
    let directory = TempDir::new().expect("a directory");
    fs::write(directory.path().join("photo.jpg"), "x").expect("written");
    let error = EmbeddedStore::open(directory.path(), Options::default()).map(|_| ()).expect_err("refused");
    assert!(matches!(&error, OpenError::NotAStore { found, .. } if found == "photo.jpg"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1, "nothing was made");
}

#[test]
fn a_directory_of_another_format_is_refused() {
    let directory = TempDir::new().expect("a directory");
    drop(open(directory.path()));
    let format = directory.path().join("FORMAT");
    let text = fs::read_to_string(&format).expect("readable").replace("format 1", "format 7");
    fs::write(&format, text).expect("written");
    let error = EmbeddedStore::open(directory.path(), Options::default()).map(|_| ()).expect_err("refused");
    assert!(matches!(error, OpenError::OtherFormat { found: 7, supported: FORMAT_VERSION, .. }), "{error}");
    fs::write(&format, "something else").expect("written");
    let error = EmbeddedStore::open(directory.path(), Options::default()).map(|_| ()).expect_err("refused");
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_closed() {
    let directory = TempDir::new().expect("a directory");
    let store = open(directory.path());
    let error = EmbeddedStore::open(directory.path(), Options::default()).map(|_| ()).expect_err("refused");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(store);
    drop(open(directory.path()));
}

/// Makes a store of single commits, lets `damage` change its log and opens it.
async fn reopen_damaged(damage: impl FnOnce(&mut Vec<u8>, &[(usize, usize)])) -> Result<usize, OpenError> {
    let directory = TempDir::new().expect("a directory");
    let store = open(directory.path());
    for n in 0..10 {
        commit(&store, vec![put(&format!("/r/a/{n}"), &"value ".repeat(n))]).await;
    }
    drop(store);
    let log = the_log(directory.path());
    let mut bytes = fs::read(&log).expect("readable");
    let frames = frames(&bytes);
    assert_eq!(frames.len(), 11, "the opening and ten commits");
    damage(&mut bytes, &frames);
    fs::write(&log, bytes).expect("written");
    let store = EmbeddedStore::open(directory.path(), Options::default())?;
    let count = contents(&store).len();
    assert_eq!(store.image.current(), Revision(count as u64));
    // What was cut does not come back, and the store goes on.
    commit(&store, vec![put("/r/b/after", "x")]).await;
    drop(store);
    assert_eq!(contents(&open(directory.path())).len(), count + 1);
    Ok(count)
}

#[tokio::test]
async fn a_torn_end_is_cut_wherever_the_write_stopped() {
    for lost in [1, 7, 8, 20, 31, 32, 33, 60] {
        let kept = reopen_damaged(|bytes, frames| {
            let (at, length) = frames[10];
            bytes.truncate(at + length - lost.min(length));
        })
        .await;
        // The last bytes of a frame may be padding, without which it is whole.
        assert_eq!(kept.expect("a torn end is no damage"), 9, "{lost} bytes lost");
        let kept = reopen_damaged(|bytes, frames| {
            let (at, _) = frames[10];
            bytes[at..at + lost].fill(0);
        })
        .await;
        assert_eq!(kept.expect("a torn end is no damage"), 9, "the first {lost} bytes lost");
    }
}

#[tokio::test]
async fn a_whole_end_is_kept() {
    assert_eq!(reopen_damaged(|_, _| {}).await.expect("nothing is damaged"), 10);
    let kept = reopen_damaged(|bytes, frames| bytes.truncate(frames[10].0 + frames[10].1)).await;
    assert_eq!(kept.expect("only unused space is gone"), 10);
}

#[tokio::test]
async fn damage_before_the_end_is_an_error_that_names_file_and_place() {
    for damaged in 1..10 {
        for inside in [0, 5, 9, 17, 25, 30, 36] {
            let mut place = 0;
            let error = reopen_damaged(|bytes, frames| {
                place = frames[damaged].0 as u64;
                bytes[frames[damaged].0 + inside] ^= 0x10;
            })
            .await
            .expect_err("damage is never guessed over");
            let exact = matches!(&error, OpenError::Damaged { path, offset, .. }
                if *offset == place && path.file_name().is_some_and(|name| name == "log-00000000000000000000"));
            assert!(exact, "frame {damaged} byte {inside}: {error}");
        }
    }
}

#[tokio::test]
async fn a_log_of_another_store_is_an_error() {
    let (one, other) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    for directory in [&one, &other] {
        commit(&open(directory.path()), vec![put("/r/a/x", "1")]).await;
    }
    fs::copy(the_log(one.path()), the_log(other.path())).expect("copied");
    let error = EmbeddedStore::open(other.path(), Options::default()).map(|_| ()).expect_err("refused");
    assert!(matches!(error, OpenError::Damaged { offset: 0, .. }), "{error}");
}

#[tokio::test]
async fn a_missing_or_damaged_file_is_an_error() {
    let directory = TempDir::new().expect("a directory");
    for _ in 0..3 {
        let store = open_restless(directory.path());
        for n in 0..60 {
            commit(&store, vec![put(&format!("/r/a/{n}"), "some value")]).await;
        }
    }
    let log = the_log(directory.path());
    let aside = directory.path().join("aside");
    fs::rename(&log, &aside).expect("renamed");
    let error = EmbeddedStore::open(directory.path(), Options::default()).map(|_| ()).expect_err("refused");
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    fs::rename(&aside, &log).expect("renamed");
    let snapshot = fs::read_dir(directory.path())
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .find(|path| path.to_string_lossy().contains("snapshot-"))
        .expect("three rounds write one");
    let whole = fs::read(&snapshot).expect("readable");
    for at in [0, 20, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&snapshot, bytes).expect("written");
        let error = EmbeddedStore::open(directory.path(), Options::default()).map(|_| ()).expect_err("refused");
        assert!(matches!(&error, OpenError::Damaged { path, .. } if *path == snapshot), "{error}");
    }
    fs::write(&snapshot, &whole[..whole.len() - frame::HEADER_BYTES]).expect("written");
    let error = EmbeddedStore::open(directory.path(), Options::default()).map(|_| ()).expect_err("refused");
    assert!(matches!(&error, OpenError::Damaged { .. }), "{error}");
    fs::write(&snapshot, whole).expect("written");
    drop(open(directory.path()));
}

/// A step of the model test; keys and revisions are drawn from small sets.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<u16>, Condition)>),
    Compact(u8),
    ReadAt(u8),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Any,
    Absent,
    Present,
    Fresh,
    Stale,
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![
        4 => Just(Condition::Any),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        2 => Just(Condition::Fresh),
        1 => Just(Condition::Stale),
    ];
    let write = (0u8..12, proptest::option::weighted(0.7, any::<u16>()), condition);
    prop_oneof![
        12 => proptest::collection::vec(write, 1..5).prop_map(Step::Commit),
        1 => any::<u8>().prop_map(Step::Compact),
        3 => any::<u8>().prop_map(Step::ReadAt),
        1 => Just(Step::Reopen),
    ]
}

type State = BTreeMap<String, (String, Revision, Revision)>;

/// What the store must be: every state it ever had.
#[derive(Default)]
struct Model {
    states: Vec<State>,
    oldest: usize,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last().expect("there is always the empty state")
    }

    /// The commit, or the key whose precondition fails.
    fn commit(&mut self, writes: &[Write]) -> Result<Revision, String> {
        let next = Revision(self.states.len() as u64);
        let (mut state, mut changed) = (self.now().clone(), false);
        for write in writes {
            let current = self.now().get(&**write.key());
            let holds = match write.when() {
                Precondition::Any => true,
                Precondition::Absent => current.is_none(),
                Precondition::Present => current.is_some(),
                Precondition::ModifiedAt(revision) => current.is_some_and(|(_, _, modified)| *modified == revision),
            };
            if !holds {
                return Err(write.key().to_string());
            }
            match write {
                Write::Put { key, value, .. } => {
                    let created = current.map_or(next, |(_, created, _)| *created);
                    let text = String::from_utf8_lossy(value).into_owned();
                    state.insert(key.to_string(), (text, created, next));
                    changed = true;
                }
                Write::Delete { key, .. } => changed |= state.remove(&**key).is_some(),
            }
        }
        if changed {
            self.states.push(state);
        }
        Ok(Revision(self.states.len() as u64 - 1))
    }

    fn writes(&self, drawn: &[(u8, Option<u16>, Condition)]) -> Vec<Write> {
        let mut writes: Vec<Write> = Vec::new();
        for (key, value, condition) in drawn {
            let key = format!("/r/{}/{}", key % 3, key / 3);
            let modified = self.now().get(&key).map_or(Revision(u64::MAX), |(_, _, modified)| *modified);
            let when = match condition {
                Condition::Any => Precondition::Any,
                Condition::Absent => Precondition::Absent,
                Condition::Present => Precondition::Present,
                Condition::Fresh => Precondition::ModifiedAt(modified),
                Condition::Stale => Precondition::ModifiedAt(Revision(modified.0 - 1)),
            };
            if writes.iter().all(|write| **write.key() != *key) {
                writes.push(match value {
                    Some(value) => put_when(&key, &value.to_string(), when),
                    None => delete_when(&key, when),
                });
            }
        }
        writes
    }
}

async fn state_at(store: &EmbeddedStore, prefix: &str, at: Option<Revision>) -> Result<State, ReadError> {
    let page = store.range(Range { prefix: prefix.into(), after: None, limit: 0, at }).await?;
    let entry =
        |e: &Arc<Entry>| (e.key.to_string(), (String::from_utf8_lossy(&e.value).into_owned(), e.created, e.modified));
    Ok(page.entries.iter().map(entry).collect())
}

async fn run(directory: &Path, steps: Vec<Step>) {
    let options = Options { log_bytes: 600, ..Options::default() };
    let mut store = EmbeddedStore::open(directory, options).expect("opens");
    let mut model = Model { states: vec![State::new()], oldest: 0 };
    // Follows the store from its empty state by events alone.
    let mut watch = store.watch("/r/", Some(Revision(0))).await.expect("nothing is forgotten yet");
    let mut followed = State::new();
    for step in steps {
        match step {
            Step::Commit(drawn) => {
                let writes = model.writes(&drawn);
                match (store.commit(writes.clone()).await, model.commit(&writes)) {
                    (Ok(committed), Ok(revision)) => assert_eq!(committed.revision, revision),
                    (Err(CommitError::Conflict { key, .. }), Err(expected)) => {
                        assert_eq!(*key, *expected)
                    }
                    other => panic!("{writes:?}: {other:?}"),
                }
                assert_eq!(&state_at(&store, "", None).await.expect("readable"), model.now());
            }
            Step::Compact(at) => {
                let at = usize::from(at) % model.states.len();
                match store.compact(Revision(at as u64)).await {
                    Ok(()) => model.oldest = model.oldest.max(at),
                    Err(ReadError::Compacted { .. }) => assert!(at < model.oldest),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::ReadAt(at) => {
                let at = usize::from(at) % model.states.len();
                match state_at(&store, "/r/1/", Some(Revision(at as u64))).await {
                    Ok(state) => {
                        assert!(at >= model.oldest);
                        let expected = model.states[at].iter().filter(|(key, _)| key.starts_with("/r/1/"));
                        assert_eq!(state, expected.map(|(k, v)| (k.clone(), v.clone())).collect::<State>());
                    }
                    Err(ReadError::Compacted { .. }) => assert!(at < model.oldest),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Reopen => {
                drop(watch);
                drop(store);
                store = EmbeddedStore::open(directory, options).expect("opens");
                // A snapshot forgets what was before it, compaction lasts until then.
                model.oldest = store.image.oldest("/r/").0 as usize;
                assert_eq!(&state_at(&store, "", None).await.expect("readable"), model.now());
                followed = model.now().clone();
                watch = store.watch("/r/", None).await.expect("from now on");
            }
        }
        let end = store.image.current();
        while watch.progress() < end {
            match watch.next().await {
                WatchItem::Events(events) => follow(&mut followed, &events),
                WatchItem::Lagged => panic!("the watch never waits"),
            }
        }
        assert_eq!(&followed, model.now());
    }
}

fn follow(state: &mut State, events: &[crate::Event]) {
    for event in events {
        let previous = event.previous.as_ref().map(|entry| entry.modified);
        assert_eq!(state.get(&*event.entry.key).map(|(_, _, modified)| *modified), previous);
        if event.deleted {
            state.remove(&*event.entry.key);
        } else {
            let text = String::from_utf8_lossy(&event.entry.value).into_owned();
            state.insert(event.entry.key.to_string(), (text, event.entry.created, event.entry.modified));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_as_a_map_with_every_state_kept(steps in proptest::collection::vec(step(), 1..60)) {
        let directory = TempDir::new().expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(directory.path(), steps));
    }
}
