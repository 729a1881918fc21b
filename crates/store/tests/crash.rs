//! Prevents: an acknowledged write that is gone, a revision that goes back, or a
//! watch that skips, after the process is killed at any moment.
//!
//! The parent starts itself as a child that writes with all its might and prints
//! every acknowledgement; it kills the child with SIGKILL after a random number
//! of lines, opens the directory itself and compares. Rounds build on each other,
//! and the small log makes the kills fall into snapshots too.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use store::embedded::{EmbeddedStore, Options};
use store::{Precondition, Range, Revision, Store, WatchItem, Write};

const ROUNDS: u64 = 25;
const WRITERS: usize = 8;
/// Few, so that the state is small and with it the snapshots, whose size is a
/// log's least.
const KEYS_PER_WRITER: usize = 7;
/// Small, so that logs and snapshots change many times a round.
const LOG_BYTES: u64 = 8 << 10;

fn options() -> Options {
    Options { log_bytes: LOG_BYTES, ..Options::default() }
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        // How runners ask what tests there are: this one, and none ignored.
        if !std::env::args().any(|argument| argument == "--ignored") {
            println!("no_acknowledged_write_is_lost_when_killed: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--write-until-killed") {
        write_until_killed(Path::new(&arguments.next().expect("a directory")));
        return ExitCode::SUCCESS;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut acknowledged = BTreeMap::new();
    let (mut revision, mut lines) = (0, 0);
    for round in 0..ROUNDS {
        let taken = run_and_kill(directory.path(), 50 + (round * 7919) % 1500, &mut acknowledged);
        lines += taken;
        revision = check(directory.path(), &acknowledged, revision);
    }
    println!("{ROUNDS} kills, {lines} acknowledged commits, revision {revision}: none lost");
    ExitCode::SUCCESS
}

/// What a writer has been told about a key: the number it wrote, or that the
/// key is deleted.
type Acknowledged = BTreeMap<String, (u64, Option<u64>)>;

fn run_and_kill(directory: &Path, lines: u64, acknowledged: &mut Acknowledged) -> u64 {
    let this = std::env::current_exe().expect("our own path");
    let mut child = Command::new(this)
        .arg("--write-until-killed")
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut taken = 0;
    for line in output.lines() {
        let line = line.expect("readable");
        let mut fields = line.split(' ');
        let mut next = || fields.next().map(str::to_owned);
        // The kill may cut the last line.
        let (Some(key), Some(revision), Some(value), Some("end")) = (next(), next(), next(), fields.next()) else {
            break;
        };
        let revision = revision.parse().expect("a revision");
        let known = acknowledged.insert(key, (revision, value.parse().ok()));
        assert!(known.is_none_or(|(before, _)| before < revision), "{revision} after {known:?}");
        taken += 1;
        if taken == lines {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("waited for");
    assert!(taken >= lines, "the child ended by itself after {taken} lines");
    taken
}

fn check(directory: &Path, acknowledged: &Acknowledged, before: u64) -> u64 {
    let store = EmbeddedStore::open(directory, options()).expect("a kill damages nothing");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let current = store.current().await.expect("readable");
        assert!(current.0 >= before, "revision {current} after {before}");
        for (key, (revision, value)) in acknowledged {
            let entry = store.get(key).await.expect("readable");
            // A later write of this key may be there without having been
            // acknowledged; an older one, or none, must not.
            let later = entry.as_ref().is_some_and(|entry| entry.modified.0 > *revision);
            let found = entry.as_ref().map(|entry| number(&entry.value));
            let deleted_later = entry.is_none() && current.0 > *revision;
            assert!(
                later || found == *value || deleted_later && unacknowledged_delete(&store, key, *revision).await,
                "{key} was acknowledged as {value:?} at {revision}, found {entry:?} at {current}"
            );
            assert!(current.0 >= *revision, "acknowledged {revision}, found {current}");
        }
        check_watch(&store, current).await;
        current.0
    })
}

/// Whether the history shows that the key was deleted after `revision`, maybe
/// after further writes that were never acknowledged either; if the history
/// does not reach back that far, the snapshot has taken it in.
async fn unacknowledged_delete(store: &EmbeddedStore, key: &str, revision: u64) -> bool {
    let current = store.current().await.expect("readable");
    let Ok(mut watch) = store.watch(key, Some(Revision(revision))).await else {
        return true;
    };
    let mut deleted = false;
    while watch.progress() < current {
        match watch.next().await {
            WatchItem::Events(events) => {
                deleted = events.iter().rfind(|event| *event.entry.key == *key).map_or(deleted, |event| event.deleted);
            }
            WatchItem::Lagged => return false,
        }
    }
    deleted
}

/// The history that was read back leads from its oldest state to the current.
async fn check_watch(store: &EmbeddedStore, current: Revision) {
    let mut from = current;
    while from.0 > 0 && store.watch("/w/", Some(Revision(from.0 - 1))).await.is_ok() {
        from = Revision(from.0 - 1);
    }
    let list = async |at| {
        let range = Range { prefix: "/w/".into(), after: None, limit: 0, at: Some(at) };
        let page = store.range(range).await.expect("held");
        page.entries.iter().map(|e| (e.key.to_string(), e.modified)).collect::<BTreeMap<_, _>>()
    };
    let mut state = list(from).await;
    let mut watch = store.watch("/w/", Some(from)).await.expect("held");
    let mut last = from;
    while watch.progress() < current {
        let WatchItem::Events(events) = watch.next().await else { panic!("lagged") };
        for event in events.iter() {
            assert_eq!(event.entry.modified, Revision(last.0 + 1), "every revision changes one key");
            if event.deleted {
                state.remove(&*event.entry.key);
            } else {
                state.insert(event.entry.key.to_string(), event.entry.modified);
            }
        }
        last = events[0].entry.modified;
    }
    assert_eq!(state, list(current).await);
}

fn number(value: &[u8]) -> u64 {
    let digits = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    String::from_utf8_lossy(digits).parse().expect("values begin with a number")
}

fn write_until_killed(directory: &Path) {
    let store = Arc::new(EmbeddedStore::open(directory, options()).expect("opens"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(Arc::clone(&store), writer));
        }
        while let Some(ended) = writers.join_next().await {
            ended.expect("a writer panicked");
        }
    });
}

async fn write(store: Arc<EmbeddedStore>, writer: usize) {
    for n in store.current().await.expect("readable").0.. {
        let key = format!("/w/k/{writer}-{}", n as usize * 31 % KEYS_PER_WRITER);
        let (write, value) = if n % 9 == 8 {
            (Write::Delete { key: Arc::from(&*key), when: Precondition::Any }, "deleted".to_owned())
        } else {
            let value = Bytes::from(format!("{n} {}", "x".repeat(n as usize % 700)));
            (Write::Put { key: Arc::from(&*key), value, when: Precondition::Any }, n.to_string())
        };
        let committed = store.commit(vec![write]).await.expect("allowed");
        if committed.entries[0].is_none() {
            continue;
        }
        // One write call a line, so that lines of several threads do not mix.
        let line = format!("{key} {} {value} end\n", committed.revision);
        if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}
